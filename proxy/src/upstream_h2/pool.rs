//! The connections of one worker: finding one with room, and making one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use pingora_core::connectors::TransportConnector;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use tokio::sync::watch;
use tokio::time::timeout;
use understudy_engine::ConnectFailure;

use super::connection::{Connection, Stream, connect, drive};
use super::{Settings, Wanted};

/// What connections are kept under: how the endpoint is reached, and what they are made with.
type Key = (u64, Settings);

/// How connecting went; `None` while it goes on.
type Outcome = Option<Result<(), ConnectFailure>>;

#[derive(Default)]
struct Connections {
    ready: Vec<Arc<Connection>>,
    connecting: Vec<Connecting>,
}

/// A connection that is being made, with those that wait for it: their requests go out on it together.
struct Connecting {
    number: u64,
    outcome: watch::Receiver<Outcome>,
    waiting: usize,
}

thread_local! {
    /// As many entries as there are endpoints with connections.
    static POOL: RefCell<HashMap<Key, Connections>> = RefCell::default();
    static NUMBER: RefCell<u64> = const { RefCell::new(0) };
}

/// A place on a connection to the peer, at once where one has room, else on a new one. A caller with a limit of its
/// own drops this; the connection is made nevertheless, and the next one finds it.
pub(crate) async fn open_stream(
    connector: &Arc<TransportConnector>,
    peer: &HttpPeer,
    wanted: &Wanted,
) -> Result<Stream, ConnectFailure> {
    let key = (peer.reuse_hash(), wanted.settings);
    loop {
        if let Some(stream) = find(&key, wanted) {
            return Ok(stream);
        }
        let mut outcome = join(&key, wanted).unwrap_or_else(|| begin(connector.clone(), peer, &key, wanted));
        // The sender is gone only with the whole runtime.
        let made = outcome.wait_for(Option::is_some).await.map_err(|_| ConnectFailure::Other)?;
        if let Some(Err(failure)) = *made {
            return Err(failure);
        }
    }
}

fn find(key: &Key, wanted: &Wanted) -> Option<Stream> {
    POOL.with_borrow_mut(|pool| {
        let ready = &mut pool.get_mut(key)?.ready;
        ready.retain(|connection| !connection.is_retired());
        loop {
            let index = ready.iter().position(|connection| connection.has_room())?;
            if ready[index].is_dead() || ready[index].is_left() {
                // Before anything was sent on it: as if it had not been there.
                ready.remove(index);
                continue;
            }
            let (stream, last) = ready[index].take(wanted.max_requests);
            if last {
                ready.remove(index);
            }
            return Some(stream);
        }
    })
}

/// Waits for a connection that is being made, if it will have room.
fn join(key: &Key, wanted: &Wanted) -> Option<watch::Receiver<Outcome>> {
    let most = wanted.settings.http2.max_concurrent_streams.min(wanted.max_requests.unwrap_or(u32::MAX));
    POOL.with_borrow_mut(|pool| {
        let connecting = &mut pool.get_mut(key)?.connecting;
        // One that ended without an outcome (Pingora panics at a certificate that it cannot read) is none.
        connecting.retain(|connecting| connecting.outcome.has_changed().is_ok());
        let found = connecting.iter_mut().find(|connecting| connecting.waiting < most as usize)?;
        found.waiting += 1;
        Some(found.outcome.clone())
    })
}

fn begin(
    connector: Arc<TransportConnector>,
    peer: &HttpPeer,
    key: &Key,
    wanted: &Wanted,
) -> watch::Receiver<Outcome> {
    let number = NUMBER.with_borrow_mut(|number| {
        *number += 1;
        *number
    });
    let (sender, outcome) = watch::channel(None);
    POOL.with_borrow_mut(|pool| {
        let connecting = Connecting { number, outcome: outcome.clone(), waiting: 1 };
        pool.entry(*key).or_default().connecting.push(connecting);
    });
    let mut peer = peer.clone();
    // Of all who wait, only the connect timeout is the same; each has its own limits beside it.
    peer.options.connection_timeout = Some(wanted.connect);
    peer.options.total_connection_timeout = Some(wanted.connect);
    let (key, guard, limit) = (*key, wanted.guard.clone(), wanted.connect);
    // On this worker, whose connections these are.
    tokio::spawn(async move {
        let made = timeout(limit, connect(&connector, &peer, &key.1, guard.as_ref())).await;
        let made = made.unwrap_or(Err(ConnectFailure::TimedOut));
        let made = POOL.with_borrow_mut(|pool| {
            let connections = pool.entry(key).or_default();
            connections.connecting.retain(|connecting| connecting.number != number);
            let made = made.map(|(connection, driver)| {
                connections.ready.push(connection.clone());
                (connection, driver)
            });
            remove_if_empty(pool, &key);
            made
        });
        match made {
            Err(failure) => {
                sender.send_replace(Some(Err(failure)));
            }
            Ok((connection, driver)) => {
                sender.send_replace(Some(Ok(())));
                let of = Arc::downgrade(&connection);
                drive(driver, connection, key.1, || forget(&key, &of)).await;
            }
        }
    });
    outcome
}

fn forget(key: &Key, connection: &std::sync::Weak<Connection>) {
    POOL.with_borrow_mut(|pool| {
        if let Some(connections) = pool.get_mut(key) {
            connections.ready.retain(|known| Arc::as_ptr(known) != connection.as_ptr());
        }
        remove_if_empty(pool, key);
    });
}

fn remove_if_empty(pool: &mut HashMap<Key, Connections>, key: &Key) {
    if pool.get(key).is_some_and(|known| known.ready.is_empty() && known.connecting.is_empty()) {
        pool.remove(key);
    }
}
