//! A backend: a listener that can die and come back on its address, and what its connections share.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::behaviour::Behaviour;
use crate::observed::Observed;
use crate::shared::{OnAccept, Shared, Stop};

/// How long [`Backend::close_gracefully`] waits for requests under way.
const GRACE: Duration = Duration::from_secs(5);

/// A scriptable HTTP/1.1 backend. It speaks over TCP, or with `A = PathBuf` over a Unix-domain socket.
///
/// The port of a TCP backend stays reserved until the value is dropped: while the backend is down, nobody gets
/// it as a free port. Dropping it resets all connections.
#[derive(Debug)]
pub struct Backend<A = SocketAddr> {
    address: A,
    shared: Arc<Shared>,
    listener: Mutex<Option<JoinHandle<()>>>,
    _reservation: Option<Socket>,
}

impl Backend<SocketAddr> {
    /// Starts a backend on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the system gives no port.
    pub async fn start(name: impl Into<String>) -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), name).await
    }

    /// Starts a backend on this address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(address: SocketAddr, name: impl Into<String>) -> io::Result<Self> {
        let (reservation, address) = reserve(address)?;
        let backend = Self {
            address,
            shared: Arc::new(Shared::new(name.into())),
            listener: Mutex::new(None),
            _reservation: Some(reservation),
        };
        backend.listen()?;
        Ok(backend)
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts again on the same address after [`kill`](Self::kill), [`refuse`](Self::refuse) or
    /// [`close_gracefully`](Self::close_gracefully); a backend that runs is killed first. Behaviour and counts
    /// stay as they are.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn restart(&self) -> io::Result<()> {
        self.kill().await;
        self.listen()
    }

    fn listen(&self) -> io::Result<()> {
        let socket = bind(self.address)?;
        socket.listen(1024)?;
        let listener = TcpListener::from_std(socket.into())?;
        let shared = self.shared.clone();
        *self.listener.lock() = Some(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => shared.accept(stream.into()),
                    Err(_) => pause_after_accept_error().await,
                }
            }
        }));
        Ok(())
    }
}

impl Backend<PathBuf> {
    /// Starts a backend on a Unix-domain socket at this path.
    ///
    /// # Errors
    /// When the path is taken or cannot be bound.
    pub async fn start_unix(path: impl Into<PathBuf>, name: impl Into<String>) -> io::Result<Self> {
        let backend = Self {
            address: path.into(),
            shared: Arc::new(Shared::new(name.into())),
            listener: Mutex::new(None),
            _reservation: None,
        };
        backend.listen_unix()?;
        Ok(backend)
    }

    /// The path of its socket.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.address
    }

    /// As [`Backend::restart`] for TCP; a socket file that is left over is replaced.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub async fn restart_unix(&self) -> io::Result<()> {
        self.kill().await;
        match std::fs::remove_file(&self.address) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => self.listen_unix(),
        }
    }

    fn listen_unix(&self) -> io::Result<()> {
        let listener = UnixListener::bind(&self.address)?;
        let shared = self.shared.clone();
        *self.listener.lock() = Some(tokio::spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => shared.accept(stream.into()),
                    Err(_) => pause_after_accept_error().await,
                }
            }
        }));
        Ok(())
    }
}

impl<A> Backend<A> {
    /// Its name: `.pod` and `x-backend` of its answers.
    #[must_use]
    pub fn name(&self) -> &str {
        self.shared.name()
    }

    /// Sets what it does with requests from now on that are not in the script.
    pub fn set(&self, behaviour: impl Into<Behaviour>) {
        self.shared.told.lock().behaviour = behaviour.into();
    }

    /// Appends to the script: each coming request takes one behaviour from it until it is empty.
    pub fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.shared.told.lock().script.extend(behaviours);
    }

    /// Appends the same behaviour for the next `count` requests to the script.
    pub fn next(&self, count: usize, behaviour: impl Into<Behaviour>) {
        self.script(std::iter::repeat_n(behaviour.into(), count));
    }

    /// Drops what is left of the script, and answers normally.
    pub fn heal(&self) {
        let mut told = self.shared.told.lock();
        told.script.clear();
        told.behaviour = Behaviour::Echo;
        told.on_accept = OnAccept::Serve;
    }

    /// Sets what it does with new connections.
    pub fn on_accept(&self, on_accept: OnAccept) {
        self.shared.told.lock().on_accept = on_accept;
    }

    /// Sets how new connections are spoken to over TLS; `None`: in clear text. Those that stand stay as they are.
    pub fn set_tls(&self, config: Option<Arc<ServerConfig>>) {
        self.shared.told.lock().tls = config;
    }

    /// Sets the `x-backend-generation` header of its answers; `None` leaves it out.
    pub fn set_generation(&self, generation: Option<String>) {
        self.shared.told.lock().generation = generation;
    }

    /// What it saw so far.
    #[must_use]
    pub fn observed(&self) -> Observed {
        self.shared.observed.borrow().clone()
    }

    /// Requests whose heads arrived so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.observed.borrow().requests
    }

    /// Connections that were accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.observed.borrow().connections
    }

    /// Waits until what it saw fulfils the condition; false when `within` is over first.
    pub async fn wait_until(&self, within: Duration, mut condition: impl FnMut(&Observed) -> bool) -> bool {
        let mut observed = self.shared.observed.subscribe();
        // The sender lives as long as `self`, so the only error is the time-out.
        timeout_at(Instant::now() + within, observed.wait_for(|seen| condition(seen))).await.is_ok()
    }

    /// Whether it accepts connections.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.listener.lock().is_some()
    }

    /// Dies: the listener closes and every connection is reset. When it returns, connects are refused.
    pub async fn kill(&self) {
        self.refuse().await;
        self.reset_connections().await;
    }

    /// Closes the listener; connections that stand live on. When it returns, connects are refused.
    pub async fn refuse(&self) {
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listener.abort();
            // The task ends by being cancelled, which is what was asked for.
            let _ = listener.await;
        }
    }

    /// Resets every connection that stands; new ones are accepted.
    pub async fn reset_connections(&self) {
        self.shared.stop_connections(Stop::Kill).closed().await;
    }

    /// Closes idle connections, and others after the request under way; new ones are accepted. What is not
    /// done after five seconds is reset.
    pub async fn close_connections(&self) {
        let stop = self.shared.stop_connections(Stop::Drain);
        if timeout(GRACE, stop.closed()).await.is_err() {
            stop.send_replace(Stop::Kill);
            stop.closed().await;
        }
    }

    /// Ends as a well-behaved server does: the listener closes, idle connections are closed, requests under way
    /// are answered for up to five seconds.
    pub async fn close_gracefully(&self) {
        self.refuse().await;
        self.close_connections().await;
    }
}

impl<A> Drop for Backend<A> {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
        }
        self.shared.stop_connections(Stop::Kill);
    }
}

/// Binds the address without listening, which keeps its port from others.
fn reserve(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let socket = bind(address)?;
    let bound = socket.local_addr()?.as_socket().ok_or_else(|| {
        io::Error::new(io::ErrorKind::AddrNotAvailable, "the bound address is no IP address")
    })?;
    Ok((socket, bound))
}

pub(crate) fn bind(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

async fn pause_after_accept_error() {
    // Such as too many open files, which another moment may cure.
    tokio::time::sleep(Duration::from_millis(10)).await;
}
