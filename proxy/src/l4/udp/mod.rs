//! The sockets of UDP listeners, which come and go at run time as those of TCP do.
//!
//! Inputs: the addresses that are wanted. Outputs: a task for each socket, which has the sessions of its clients; what
//! could not be bound, and is tried again. A socket that is no longer wanted is closed at once, with its sessions: there
//! is no connection that a client could see end. At the end of the process sessions are given the time to be answered.

mod session;
mod sessions;
mod socket;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use socket2::SockRef;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore, oneshot, watch};
use tokio::task::JoinHandle;

use super::Streams;
use crate::listeners::{BindError, bind_datagrams, lead_to_successor};
use crate::workers::Workers;
use sessions::Sessions;

/// A session without a datagram in either direction ends after this, as in Envoy.
pub(super) const IDLE: Duration = Duration::from_secs(60);

/// At the end of the process, a session that is silent for so long has been answered.
pub(super) const ANSWERED: Duration = Duration::from_secs(1);

/// Bytes of datagrams that may wait for their sessions or for an answer, of all clients of a socket.
const WAITING: usize = 16 * 1024 * 1024;

/// Settings of all sockets of UDP.
#[derive(Debug, Clone)]
pub(crate) struct UdpOptions {
    /// Other processes of the same user may have the same addresses (`SO_REUSEPORT`).
    pub(crate) shared: bool,
    /// At the end: how long new clients are led to whoever else has the address, before sessions end.
    pub(crate) linger: Duration,
    /// Time between two attempts to bind what could not be bound.
    pub(crate) retry_every: Duration,
    /// Sessions that may be open at once. Each has a socket to its endpoint.
    pub(crate) max_sessions: usize,
}

/// What each socket's task needs.
#[derive(Clone)]
struct Shared {
    streams: Arc<Streams>,
    /// One permit for each session that may be open.
    permits: Arc<Semaphore>,
    max_sessions: usize,
}

/// The sockets of UDP.
pub(crate) struct UdpListeners {
    inner: Arc<Inner>,
    retry: JoinHandle<()>,
}

struct Inner {
    shared: Shared,
    workers: Arc<Workers>,
    options: UdpOptions,
    open: Mutex<Open>,
    failures: watch::Sender<Vec<BindError>>,
    failed: Notify,
}

#[derive(Default)]
struct Open {
    bound: HashMap<SocketAddr, Bound>,
    failed: BTreeMap<SocketAddr, BindError>,
    ended: bool,
}

struct Bound {
    /// Tells the sessions that the end is near.
    stop: watch::Sender<bool>,
    /// Ends them, and what takes datagrams.
    close: oneshot::Sender<()>,
    socket: std::net::UdpSocket,
    task: JoinHandle<()>,
}

impl UdpListeners {
    /// Nothing is bound yet. Sockets are served on `workers`; what fails is tried again on `control`.
    pub(crate) fn new(
        streams: Arc<Streams>,
        workers: Arc<Workers>,
        control: &Handle,
        options: UdpOptions,
    ) -> Self {
        let max_sessions = options.max_sessions.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let shared = Shared { streams, permits: Arc::new(Semaphore::new(max_sessions)), max_sessions };
        let inner = Arc::new(Inner {
            shared,
            workers,
            options,
            open: Mutex::default(),
            failures: watch::Sender::new(Vec::new()),
            failed: Notify::new(),
        });
        let retry = control.spawn(retry_failed(Arc::downgrade(&inner), inner.options.retry_every));
        Self { inner, retry }
    }

    /// Makes `desired` the addresses that are bound. What cannot be bound is tried again until it is no longer desired.
    pub(crate) async fn apply(&self, desired: &[SocketAddr]) {
        let desired: HashSet<SocketAddr> = desired.iter().copied().collect();
        let mut open = self.inner.open.lock().await;
        if open.ended {
            return;
        }
        open.failed.retain(|address, _| desired.contains(address));
        let gone: Vec<_> = open.bound.extract_if(|address, _| !desired.contains(address)).collect();
        for (address, bound) in gone {
            bound.close().await;
            log::info!("closed UDP {address}");
        }
        for address in desired {
            if !open.bound.contains_key(&address) {
                self.inner.bind(&mut open, address);
            }
        }
        self.inner.publish_failures(&open);
    }

    /// What is desired but not bound at the moment, and each change of it.
    pub(crate) fn failures(&self) -> watch::Receiver<Vec<BindError>> {
        self.inner.failures.subscribe()
    }

    /// Sessions that are open now.
    pub(crate) fn sessions(&self) -> usize {
        self.inner.shared.max_sessions - self.inner.shared.permits.available_permits()
    }

    /// Stops for good: new clients are led elsewhere where the address is shared, sessions end once they are silent, and
    /// at most `drain` is waited for them.
    pub(crate) async fn shut_down(&self, drain: Duration) {
        let mut open = self.inner.open.lock().await;
        open.ended = true;
        open.failed.clear();
        self.inner.publish_failures(&open);
        if open.bound.is_empty() {
            return;
        }
        if self.inner.options.shared && !self.inner.options.linger.is_zero() {
            for (address, bound) in &open.bound {
                if let Err(error) = lead_to_successor(&bound.socket) {
                    log::warn!("datagrams to {address} may be lost now: {error}");
                }
            }
            tokio::time::sleep(self.inner.options.linger).await;
        }
        for bound in open.bound.values() {
            bound.stop.send_replace(true);
        }
        let all = u32::try_from(self.inner.shared.max_sessions).unwrap_or(u32::MAX);
        let ended = tokio::time::timeout(drain, self.inner.shared.permits.acquire_many(all)).await;
        if ended.is_err() {
            log::warn!("{} sessions of UDP were cut at the end", self.sessions());
        }
        for (_, bound) in open.bound.drain() {
            bound.close().await;
        }
    }
}

impl Drop for UdpListeners {
    fn drop(&mut self) {
        self.retry.abort();
    }
}

impl Bound {
    /// The socket is closed when this returns.
    async fn close(self) {
        drop(self.socket);
        // If it has ended already, it is told in vain.
        let _ = self.close.send(());
        if let Err(error) = self.task.await {
            log::error!("a socket of UDP ended badly: {error}");
        }
    }
}

impl Inner {
    fn bind(&self, open: &mut Open, address: SocketAddr) {
        match self.start(address) {
            Ok(bound) => {
                let again = if open.failed.remove(&address).is_some() { " at last" } else { "" };
                log::info!("listening on UDP {address}{again}");
                open.bound.insert(address, bound);
            }
            Err(error) => {
                if open.failed.insert(address, error.clone()).as_ref() != Some(&error) {
                    log::error!("{error}");
                }
            }
        }
    }

    fn start(&self, address: SocketAddr) -> Result<Bound, BindError> {
        let other = |error: std::io::Error| BindError::Other { address, reason: error.to_string() };
        let socket = bind_datagrams(address, self.options.shared)?;
        let kept = SockRef::from(&socket).try_clone().map_err(other)?.into();
        let worker = self.workers.next();
        let socket = {
            let _in_runtime = worker.enter();
            tokio::net::UdpSocket::from_std(socket).map_err(other)?
        };
        let (stop, stopped) = watch::channel(false);
        let (close, closed) = oneshot::channel();
        let sessions = Sessions::new(self.shared.clone(), socket, address, stopped);
        Ok(Bound { stop, close, socket: kept, task: worker.spawn(sessions.run(closed)) })
    }

    fn publish_failures(&self, open: &Open) {
        let failures: Vec<_> = open.failed.values().cloned().collect();
        if !failures.is_empty() {
            self.failed.notify_one();
        }
        self.failures.send_if_modified(|old| {
            let changed = *old != failures;
            *old = failures;
            changed
        });
    }
}

/// Binds what failed, again and again. It sleeps while nothing has failed.
async fn retry_failed(inner: Weak<Inner>, every: Duration) {
    loop {
        match inner.upgrade() {
            // The listeners abort this when they go; until then one of the two is always there.
            Some(inner) => inner.failed.notified().await,
            None => return,
        }
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut open = inner.open.lock().await;
        let addresses: Vec<_> = open.failed.keys().copied().collect();
        for address in addresses {
            inner.bind(&mut open, address);
        }
        inner.publish_failures(&open);
    }
}
