//! A scriptable backend that speaks HTTP/2, in clear text or over TLS.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use parking_lot::Mutex;
use rustls::ServerConfig;
use socket2::{SockRef, Socket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::backend::bind;
use crate::h2_behaviour::H2Behaviour;
use crate::h2_client::grpc_message;

/// The most requests that are kept; older ones go first.
const LOG_LIMIT: usize = 4096;

/// A request as a backend saw it.
#[derive(Debug, Clone)]
pub struct H2Request {
    /// The method.
    pub method: Method,
    /// The target with scheme and authority.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
}

/// A scriptable backend of HTTP/2. Dropping it resets all connections; its port stays reserved until then.
#[derive(Debug)]
pub struct H2Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: Mutex<Option<JoinHandle<()>>>,
    _reservation: Socket,
}

#[derive(Debug)]
struct Shared {
    name: String,
    told: Mutex<Told>,
    connections: AtomicU64,
    requests: AtomicU64,
    open: watch::Sender<usize>,
    most_open: AtomicU64,
    log: Mutex<VecDeque<H2Request>>,
    leaving: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Told {
    behaviour: H2Behaviour,
    script: VecDeque<H2Behaviour>,
    max_streams: Option<u32>,
    window: Option<u32>,
    tls: Option<Arc<ServerConfig>>,
}

impl H2Backend {
    /// Starts a backend on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the system gives no port.
    pub async fn start(name: impl Into<String>) -> io::Result<Self> {
        let reservation = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = reservation.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let shared = Arc::new(Shared {
            name: name.into(),
            told: Mutex::default(),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            open: watch::Sender::new(0),
            most_open: AtomicU64::new(0),
            log: Mutex::default(),
            leaving: watch::Sender::new(0),
        });
        let backend = Self { address, shared, listener: Mutex::new(None), _reservation: reservation };
        backend.listen()?;
        Ok(backend)
    }

    /// Where it listens, also while it is down.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what it does with streams that are not in the script.
    pub fn set(&self, behaviour: H2Behaviour) {
        self.shared.told.lock().behaviour = behaviour;
    }

    /// Appends the same behaviour for the next `count` streams to the script.
    pub fn next(&self, count: usize, behaviour: H2Behaviour) {
        self.shared.told.lock().script.extend(std::iter::repeat_n(behaviour, count));
    }

    /// Sets how many streams a new connection takes at once; `None`: as many as come.
    pub fn set_max_streams(&self, max: Option<u32>) {
        self.shared.told.lock().max_streams = max;
    }

    /// Sets how many bytes of a request's body a new connection takes before they are read.
    pub fn set_window(&self, bytes: Option<u32>) {
        self.shared.told.lock().window = bytes;
    }

    /// Speaks TLS on new connections, offering HTTP/2 alone; `None`: clear text.
    pub fn set_tls(&self, config: Option<Arc<ServerConfig>>) {
        self.shared.told.lock().tls = config.map(|config| {
            let mut config = Arc::unwrap_or_clone(config);
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        });
    }

    /// Requests whose headers arrived so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Connections that were accepted so far.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The most streams that were open at once, over all connections.
    #[must_use]
    pub fn most_streams(&self) -> u64 {
        self.shared.most_open.load(Ordering::SeqCst)
    }

    /// Streams that are open now.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        *self.shared.open.borrow()
    }

    /// Waits until so many streams are open; false when `within` is over first.
    pub async fn wait_for_streams(&self, within: Duration, count: usize) -> bool {
        let mut open = self.shared.open.subscribe();
        tokio::time::timeout(within, open.wait_for(|open| *open == count)).await.is_ok()
    }

    /// What arrived, oldest first.
    #[must_use]
    pub fn log(&self) -> Vec<H2Request> {
        self.shared.log.lock().iter().cloned().collect()
    }

    /// Says goodbye on every connection (GOAWAY), and serves what is open to its end.
    pub fn go_away(&self) {
        self.shared.leaving.send_modify(|count| *count += 1);
    }

    /// Dies: the listener closes and every connection is reset. When it returns, connects are refused.
    pub async fn kill(&self) {
        let listener = self.listener.lock().take();
        if let Some(listener) = listener {
            listener.abort();
            // The task ends by being cancelled, which is what was asked for.
            let _ = listener.await;
        }
        self.shared.open.send_replace(0);
    }

    /// Starts again on the same address; a backend that runs is killed first.
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
            // With this task its connections end too.
            let mut connections = JoinSet::new();
            loop {
                if let Ok((stream, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::SeqCst);
                    connections.spawn(serve(stream, shared.clone()));
                }
                while connections.try_join_next().is_some() {}
            }
        }));
        Ok(())
    }
}

impl Drop for H2Backend {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.lock().take() {
            listener.abort();
        }
    }
}

/// Counts an open stream.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        let mut open = 0;
        shared.open.send_modify(|count| {
            *count += 1;
            open = *count as u64;
        });
        shared.most_open.fetch_max(open, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.send_modify(|count| *count = count.saturating_sub(1));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    // Whoever drops the connection resets it.
    let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    let _ = stream.set_nodelay(true);
    let tls = shared.told.lock().tls.clone();
    match tls {
        None => serve_streams(stream, shared).await,
        Some(config) => {
            // Who does not agree on TLS gets nothing.
            let Ok(stream) = TlsAcceptor::from(config).accept(stream).await else { return };
            serve_streams(stream, shared).await;
        }
    }
}

async fn serve_streams<S>(stream: S, shared: Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = Builder::new();
    // It may leave as much unread as its windows allow.
    builder.data_frame_budget(usize::MAX);
    {
        let told = shared.told.lock();
        if let Some(max) = told.max_streams {
            builder.max_concurrent_streams(max);
        }
        if let Some(window) = told.window {
            builder.initial_window_size(window);
        }
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    let mut leaving = shared.leaving.subscribe();
    let mut streams = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            Ok(()) = leaving.changed() => {
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((request, respond))) = accepted else { return };
        while streams.try_join_next().is_some() {}
        shared.requests.fetch_add(1, Ordering::SeqCst);
        let (parts, body) = request.into_parts();
        {
            let mut log = shared.log.lock();
            if log.len() == LOG_LIMIT {
                log.pop_front();
            }
            log.push_back(H2Request {
                method: parts.method.clone(),
                uri: parts.uri.clone(),
                headers: parts.headers.clone(),
            });
        }
        let behaviour = {
            let mut told = shared.told.lock();
            told.script.pop_front().unwrap_or_else(|| told.behaviour.clone())
        };
        let (open, name) = (Open::new(shared.clone()), shared.name.clone());
        streams.spawn(async move {
            let _open = open;
            // What a client does wrong is seen by the client.
            let _ = answer(Request::from_parts(parts, body), respond, behaviour, name).await;
        });
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    behaviour: H2Behaviour,
    name: String,
) -> Result<(), h2::Error> {
    use H2Behaviour as B;
    let (parts, mut body) = request.into_parts();
    match behaviour {
        B::Refuse => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        B::Reset(code) => {
            respond.send_reset(code.into());
            return Ok(());
        }
        B::Hang => {
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
            return Ok(());
        }
        B::Early => {
            let mut stream = respond.send_response(head(200, &name), false)?;
            return stream.send_data(name.into(), true);
        }
        B::Continue => {
            let mut interim = Response::new(());
            *interim.status_mut() = http::StatusCode::CONTINUE;
            respond.send_informational(interim)?;
        }
        B::Grpc => return echo_messages(body, respond, &name).await,
        B::GrpcTicks(pause) => {
            let mut stream = respond.send_response(grpc_head(&name), false)?;
            loop {
                if !pause.is_zero() {
                    tokio::time::sleep(pause).await;
                }
                send(&mut stream, grpc_message(name.as_bytes())).await?;
            }
        }
        _ => {}
    }
    let mut received = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        received.extend_from_slice(&piece);
    }
    let mut trailers = HeaderMap::new();
    match behaviour {
        B::RequestBody | B::Continue => {
            let mut stream = respond.send_response(head(200, &name), false)?;
            send(&mut stream, received.into()).await?;
            return stream.send_data(Bytes::new(), true);
        }
        B::Size(size) => {
            let mut stream = respond.send_response(head(200, &name), false)?;
            send(&mut stream, vec![b'x'; size].into()).await?;
            return stream.send_data(Bytes::new(), true);
        }
        B::Delayed(delay) => tokio::time::sleep(delay).await,
        B::Interim => {
            let mut interim = Response::new(());
            *interim.status_mut() = http::StatusCode::EARLY_HINTS;
            interim.headers_mut().insert("link", HeaderValue::from_static("</style.css>"));
            respond.send_informational(interim)?;
        }
        B::ResetMidBody | B::StallMidBody => {
            let mut stream = respond.send_response(head(200, &name), false)?;
            send(&mut stream, Bytes::from_static(b"half")).await?;
            if behaviour == B::ResetMidBody {
                // The headers and the piece leave before.
                tokio::time::sleep(Duration::from_millis(50)).await;
                stream.send_reset(Reason::INTERNAL_ERROR);
            } else {
                let _ = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
            }
            return Ok(());
        }
        B::GrpcStatus(status) => {
            let mut head = grpc_head(&name);
            head.headers_mut().insert("grpc-status", status.into());
            respond.send_response(head, true)?;
            return Ok(());
        }
        B::GrpcTrailers(status) => {
            let mut stream = respond.send_response(grpc_head(&name), false)?;
            trailers.insert("grpc-status", status.into());
            return stream.send_trailers(trailers);
        }
        B::Trailers(list) => {
            let mut stream = respond.send_response(head(200, &name), false)?;
            send(&mut stream, name.into()).await?;
            for (key, value) in list {
                if let (Ok(key), Ok(value)) = (key.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
                    trailers.append(key, value);
                }
            }
            return stream.send_trailers(trailers);
        }
        _ => {}
    }
    let status = if let B::Status(status) = behaviour { status } else { 200 };
    let bodiless = parts.method == Method::HEAD || matches!(status, 204 | 304);
    let mut stream = respond.send_response(head(status, &name), bodiless)?;
    if bodiless { Ok(()) } else { stream.send_data(name.into(), true) }
}

async fn echo_messages(
    mut body: RecvStream,
    mut respond: SendResponse<Bytes>,
    name: &str,
) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(grpc_head(name), false)?;
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        send(&mut stream, piece).await?;
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// Sends a piece as the other side takes it.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut piece: Bytes) -> Result<(), h2::Error> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        match std::future::poll_fn(|cx| stream.poll_capacity(cx)).await {
            Some(room) => {
                let room = room?.min(piece.len());
                stream.send_data(piece.split_to(room), false)?;
            }
            None => return Err(Reason::STREAM_CLOSED.into()),
        }
    }
    Ok(())
}

fn head(status: u16, name: &str) -> Response<()> {
    let mut head = Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    if let Ok(name) = name.parse() {
        head.headers_mut().insert("x-backend", name);
    }
    head
}

fn grpc_head(name: &str) -> Response<()> {
    let mut head = head(200, name);
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    head
}
