//! The sockets that clients connect to.
//!
//! Purpose: listening sockets that come and go at run time, and an accept loop of our own, since Pingora builds
//! its listeners once and panics where one fails. Inputs: the addresses that are wanted. Outputs: connections,
//! handed to the workers in turn, and what could not be bound.
//!
//! **Which socket took a connection** is what `Session::server_addr()` says: its socket digest carries the
//! address that was asked for in [`Listeners::apply`], `0.0.0.0:80` included, so that an application finds the
//! gateway with one look into a map and no system call.

mod accept;
mod bind;
mod certificates;
mod clients;
mod connection;
mod handshake;
pub(crate) mod raw;
mod stream;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use handshake::Handshakes;
use pingora_core::apps::ServerApp;
use pingora_core::server::ShutdownWatch;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify, Semaphore, watch};
use tokio::task::JoinHandle;

pub use bind::BindError;
pub(crate) use bind::{bind_datagrams, lead_to_successor};
pub(crate) use handshake::{proven_demand, server_name};
pub use tls::TlsTable;

use crate::workers::Workers;

/// Settings of all listening sockets.
#[derive(Debug, Clone)]
pub struct ListenerOptions {
    /// Clients' connections that are served at once. With so many open, each listening socket holds at most one
    /// more, and the rest stay in the system's queue until one ends.
    pub max_connections: usize,
    /// Silence on a client's connection until TCP asks whether it still stands; `None`: never.
    pub keepalive: Option<Duration>,
    /// Time between two attempts to bind what could not be bound.
    pub retry_every: Duration,
    /// A TLS handshake that takes longer is given up.
    pub handshake_bound: Duration,
    /// Other processes of the same user may listen on the same addresses (`SO_REUSEPORT`), and get a share of the
    /// clients.
    pub shared: bool,
    /// At the end, before a socket is closed: how long clients that were about to connect may take to do so, while new
    /// ones are led to whoever else has the address, if it is shared. And then, how long those that connected may take to
    /// say what they want. Zero: nobody is waited for.
    pub linger: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            max_connections: default_max_connections(),
            keepalive: Some(Duration::from_secs(60)),
            retry_every: Duration::from_secs(1),
            handshake_bound: handshake::HANDSHAKE_BOUND,
            shared: false,
            linger: Duration::ZERO,
        }
    }
}

/// Connections of clients that may be open for each session of UDP that may.
pub(crate) const CONNECTIONS_A_SESSION: usize = 8;

/// Files that the proxy itself needs.
const OWN_FILES: usize = 64;

/// So many that connecting to endpoints never fails because of clients.
fn default_max_connections() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|line| {
        line.strip_prefix("Max open files")?.split_whitespace().next()?.parse::<usize>().ok()
    });
    files.map_or(10_000, connections_of)
}

/// A client's connection may need one to an endpoint, and a session of UDP has a socket to one.
fn connections_of(files: usize) -> usize {
    let share = files.saturating_sub(OWN_FILES) / (2 * CONNECTIONS_A_SESSION + 1);
    (share * CONNECTIONS_A_SESSION).clamp(16, 1_000_000)
}

/// The listening sockets of the proxy.
pub struct Listeners<A> {
    inner: Arc<Inner<A>>,
    retry: JoinHandle<()>,
}

/// What accept loops need.
struct Shared<A> {
    workers: Arc<Workers>,
    app: Arc<A>,
    handshakes: Arc<Handshakes>,
    /// One permit for each connection that may be open.
    permits: Arc<Semaphore>,
}

struct Inner<A> {
    shared: Arc<Shared<A>>,
    options: ListenerOptions,
    control: Handle,
    open: Mutex<Open>,
    failures: watch::Sender<Vec<BindError>>,
    failed: Arc<Notify>,
}

#[derive(Default)]
struct Open {
    bound: HashMap<SocketAddr, Bound>,
    failed: BTreeMap<SocketAddr, BindError>,
    draining: bool,
    ended: bool,
}

struct Bound {
    /// Ends the accept loop, and tells connections of HTTP/2 to end.
    stop: watch::Sender<bool>,
    /// Makes the next request of each connection of HTTP/1.1 its last.
    last: watch::Sender<bool>,
    /// The socket itself, for its options.
    socket: std::net::TcpListener,
    local: SocketAddr,
    accepting: JoinHandle<()>,
}

/// What connections are told by the socket that took them.
#[derive(Clone)]
struct Signs {
    /// The socket is closed.
    stop: ShutdownWatch,
    /// The socket is closed, or soon will be.
    last: ShutdownWatch,
}

impl<A: ServerApp + Send + Sync + 'static> Listeners<A> {
    /// Nothing is bound yet. Connections go to `workers` and are served by `app`; accept loops run on
    /// `control`, which must have its I/O driver on. Sockets that stand in `tls` end TLS; the others speak clear
    /// text.
    #[must_use]
    pub fn new(
        workers: Arc<Workers>,
        app: Arc<A>,
        tls: Arc<ArcSwap<TlsTable>>,
        control: &Handle,
        options: ListenerOptions,
    ) -> Self {
        let max = options.max_connections.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let options = ListenerOptions { max_connections: max, ..options };
        // Clients that do not go on with their handshake leave room for those that did.
        let handshakes = Arc::new(Handshakes::new(tls, max.div_ceil(2), options.handshake_bound));
        let inner = Arc::new(Inner {
            shared: Arc::new(Shared { workers, app, handshakes, permits: Arc::new(Semaphore::new(max)) }),
            options,
            control: control.clone(),
            open: Mutex::default(),
            failures: watch::Sender::new(Vec::new()),
            failed: Arc::new(Notify::new()),
        });
        let retry = control.spawn(retry_failed(Arc::downgrade(&inner), Arc::clone(&inner.failed)));
        Self { inner, retry }
    }

    /// From here on, connections that carry no HTTP go to `app`; before, they are closed. To be said once.
    pub(crate) fn carry_raw(&self, app: Arc<dyn raw::RawApp>) {
        if self.inner.shared.handshakes.raw.set(app).is_err() {
            log::error!("whoever serves what is no HTTP was named before");
        }
    }

    /// Makes `desired` the addresses that are bound: new ones are bound, others closed, the rest left alone.
    /// What had connected to a closed one before is still served: each connection ends with its next answer
    /// or when it has been idle for too long. What cannot be bound is tried again until it is no longer
    /// desired. After [`Self::shut_down`] nothing is bound, and nothing returned.
    pub async fn apply(&self, desired: &[SocketAddr]) -> Vec<(SocketAddr, Result<(), BindError>)> {
        let desired: HashSet<SocketAddr> = desired.iter().copied().collect();
        let mut open = self.inner.open.lock().await;
        if open.ended {
            return Vec::new();
        }
        open.failed.retain(|address, _| desired.contains(address));
        // First what goes: 0.0.0.0:80 must be closed before 127.0.0.1:80 can be bound.
        let gone: Vec<_> = open.bound.extract_if(|address, _| !desired.contains(address)).collect();
        for (address, bound) in gone {
            bound.end().await;
            log::info!("closed {address}");
        }
        let results = desired
            .into_iter()
            .map(|address| {
                if open.bound.contains_key(&address) {
                    return (address, Ok(()));
                }
                (address, self.inner.bind(&mut open, address))
            })
            .collect();
        self.inner.publish_failures(&open);
        results
    }

    /// What is desired but not bound at the moment, and each change of it.
    #[must_use]
    pub fn failures(&self) -> watch::Receiver<Vec<BindError>> {
        self.inner.failures.subscribe()
    }

    /// What is bound: the address that was asked for, and the one that it became (they differ for port 0).
    pub async fn bound(&self) -> Vec<(SocketAddr, SocketAddr)> {
        self.inner.open.lock().await.bound.iter().map(|(address, bound)| (*address, bound.local)).collect()
    }

    /// Connections that are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.inner.connections()
    }

    /// The end is near: all sockets accept as before, and answers over HTTP/1.1 say that their connection ends with
    /// them, so that clients go elsewhere of their own accord. An idle connection that is closed loses the request that
    /// its client is just sending; this way few are left when [`Self::shut_down`] closes them. Connections of HTTP/2
    /// can be told without losing any, so they live on until then.
    pub async fn drain(&self) {
        let mut open = self.inner.open.lock().await;
        open.draining = true;
        for bound in open.bound.values() {
            bound.last.send_replace(true);
        }
    }

    /// Stops for good: closes all sockets, lets idle connections end, and waits at most `drain` for requests
    /// under way. Returns how many connections are left then. Readiness must have failed for a while before,
    /// so that no new client comes.
    pub async fn shut_down(&self, drain: Duration) -> usize {
        let linger = self.inner.options.linger;
        let mut open = self.inner.open.lock().await;
        open.ended = true;
        if !linger.is_zero() {
            for bound in open.bound.values().filter(|_| self.inner.options.shared) {
                if let Err(error) = bind::lead_to_successor(&bound.socket) {
                    log::warn!(
                        "clients may lose a connection that they make on {} now: {error}",
                        bound.local
                    );
                }
            }
            tokio::time::sleep(linger).await;
        }
        open.failed.clear();
        self.inner.publish_failures(&open);
        for (_, bound) in open.bound.drain() {
            bound.end().await;
        }
        drop(open);
        if !linger.is_zero() {
            self.all_ended(linger.min(drain)).await;
        }
        self.inner.shared.app.cleanup().await;
        if self.all_ended(drain).await { 0 } else { self.connections() }
    }

    /// Waits until no connection is open, but not longer than `bound`; whether none is.
    async fn all_ended(&self, bound: Duration) -> bool {
        let all = u32::try_from(self.inner.options.max_connections).unwrap_or(u32::MAX);
        tokio::time::timeout(bound, self.inner.shared.permits.acquire_many(all)).await.is_ok()
    }
}

impl<A> Drop for Listeners<A> {
    fn drop(&mut self) {
        self.retry.abort();
    }
}

impl Bound {
    async fn end(self) {
        self.last.send_replace(true);
        self.stop.send_replace(true);
        drop(self.socket);
        if let Err(error) = self.accepting.await {
            log::error!("an accept loop ended badly: {error}");
        }
    }
}

impl<A: ServerApp + Send + Sync + 'static> Inner<A> {
    fn bind(&self, open: &mut Open, address: SocketAddr) -> Result<(), BindError> {
        match self.start(address, open.draining) {
            Ok(bound) => {
                let again = if open.failed.remove(&address).is_some() { " at last" } else { "" };
                log::info!("listening on {}{again}", bound.local);
                open.bound.insert(address, bound);
                Ok(())
            }
            Err(error) => {
                if open.failed.insert(address, error.clone()).as_ref() != Some(&error) {
                    log::error!("{error}");
                }
                Err(error)
            }
        }
    }

    fn start(&self, address: SocketAddr, draining: bool) -> Result<Bound, BindError> {
        let other = |error: std::io::Error| BindError::Other { address, reason: error.to_string() };
        let listener = bind::bind_listener(address, self.options.keepalive, self.options.shared)?;
        let local = listener.local_addr().map_err(other)?;
        let socket = listener.try_clone().map_err(other)?;
        let listener = {
            let _in_runtime = self.control.enter();
            TcpListener::from_std(listener).map_err(other)?
        };
        let (stop, stopped) = watch::channel(false);
        let (last, is_last) = watch::channel(draining);
        let signs = Signs { stop: stopped, last: is_last };
        let accepting =
            self.control.spawn(accept::accept_all(listener, address, Arc::clone(&self.shared), signs));
        Ok(Bound { stop, last, socket, local, accepting })
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

    fn connections(&self) -> usize {
        self.options.max_connections - self.shared.permits.available_permits()
    }
}

/// Binds what failed, again and again. It sleeps while nothing has failed.
async fn retry_failed<A: ServerApp + Send + Sync + 'static>(inner: Weak<Inner<A>>, failed: Arc<Notify>) {
    loop {
        failed.notified().await;
        let Some(every) = inner.upgrade().map(|inner| inner.options.retry_every) else { return };
        tokio::time::sleep(every).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut open = inner.open.lock().await;
        let addresses: Vec<_> = open.failed.keys().copied().collect();
        for address in addresses {
            // A failure is kept in `open`, which is where the next round finds it.
            let _ = inner.bind(&mut open, address);
        }
        inner.publish_failures(&open);
    }
}
