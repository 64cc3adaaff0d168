//! One connection: how it begins, how it is kept alive, and how it ends.

use std::future::poll_fn;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use h2::{Ping, PingPong};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use parking_lot::Mutex;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use understudy_conf::Http2Keepalive;
use understudy_engine::ConnectFailure;

use super::Settings;
use crate::service::of_connecting;
use crate::upstream_tls::{TlsGuard, is_client_certificate_refused_in_h2};

/// The longest headers of an answer, decoded.
const MAX_HEADERS: u32 = 64 * 1024;
/// What an endpoint may put into one frame.
const MAX_FRAME: u32 = 64 * 1024;
/// Until an endpoint has said how many streams it takes, none goes out.
const STREAMS_BEFORE_SETTINGS: usize = 0;

type Transport = pingora_core::protocols::Stream;
type Driver = h2::client::Connection<Transport, Bytes>;

/// A connection that takes streams.
#[derive(Debug)]
pub(super) struct Connection {
    send: SendRequest<Bytes>,
    socket: RawFd,
    max_streams: usize,
    /// Streams on it now.
    open: AtomicUsize,
    /// Streams that it has carried.
    carried: AtomicU32,
    /// The endpoint has answered a request on it.
    answered: AtomicBool,
    /// It takes no more streams.
    retired: AtomicBool,
    /// Takes no more streams from then on.
    too_old: Option<Instant>,
    /// When the last stream ended.
    idle_since: Mutex<Instant>,
}

/// A place for one request on a connection. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Stream {
    connection: Arc<Connection>,
    /// Where the request is sent.
    pub(crate) send: SendRequest<Bytes>,
    /// The endpoint has answered another request on the connection before.
    pub(crate) reused: bool,
}

impl Stream {
    /// The connection takes no more streams, though it may go on with those that it has.
    pub(crate) fn retire(&self) {
        self.connection.retire();
    }

    /// The endpoint has answered.
    pub(crate) fn answered(&self) {
        if !self.connection.answered.load(Ordering::Relaxed) {
            self.connection.answered.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.connection.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.connection.idle_since.lock() = Instant::now();
        }
    }
}

impl Connection {
    /// Whether another stream fits.
    pub(super) fn has_room(&self) -> bool {
        if self.too_old.is_some_and(|when| Instant::now() >= when) {
            self.retire();
        }
        !self.is_retired() && self.open.load(Ordering::Relaxed) < self.streams_allowed()
    }

    fn streams_allowed(&self) -> usize {
        self.send.current_max_send_streams().min(self.max_streams)
    }

    /// Takes a place on it. True if it is the last one that it has.
    pub(super) fn take(self: &Arc<Self>, max_requests: Option<u32>) -> (Stream, bool) {
        self.open.fetch_add(1, Ordering::Relaxed);
        let before = self.carried.fetch_add(1, Ordering::Relaxed);
        let last = max_requests.is_some_and(|limit| before.saturating_add(1) >= limit);
        if last {
            self.retire();
        }
        let reused = self.answered.load(Ordering::Relaxed);
        (Stream { connection: self.clone(), send: self.send.clone(), reused }, last)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether the endpoint has closed it and nobody here has noticed yet. Bytes that wait to be read say nothing.
    pub(super) fn is_dead(&self) -> bool {
        let peeked = recv(self.socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
        !matches!(peeked, Ok(1..) | Err(Errno::EAGAIN))
    }

    /// Whether the endpoint has said that it takes no more streams.
    pub(super) fn is_left(&self) -> bool {
        let ready = self.send.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        matches!(ready, Poll::Ready(Err(_)))
    }

    /// How long it has had no stream; `None` while it has one.
    fn idle_since(&self) -> Option<Instant> {
        (self.open.load(Ordering::Relaxed) == 0).then(|| *self.idle_since.lock())
    }
}

/// Connects and begins HTTP/2. What comes back has to be driven by [`drive`].
pub(super) async fn connect(
    connector: &TransportConnector,
    peer: &HttpPeer,
    settings: &Settings,
    guard: Option<&TlsGuard>,
) -> Result<(Arc<Connection>, Driver), ConnectFailure> {
    let stream = connector.new_stream(peer).await.map_err(|error| {
        let failure = of_connecting(&error);
        if failure == ConnectFailure::Certificate
            && let Some(guard) = guard
        {
            guard.certificate_refused(&error);
        }
        failure
    })?;
    if let Some(refused) = guard.and_then(|guard| guard.refuses_stream(&stream)) {
        log::debug!("{peer}: {}", refused.why);
        return Err(refused.failure);
    }
    if peer.is_tls() && stream.selected_alpn_proto() != Some(ALPN::H2) {
        log::debug!("{peer} speaks TLS without HTTP/2");
        return Err(ConnectFailure::Other);
    }
    let socket = stream.id();
    let http2 = &settings.http2;
    let (send, mut driver) = Builder::new()
        .enable_push(false)
        .initial_max_send_streams(STREAMS_BEFORE_SETTINGS)
        .max_header_list_size(MAX_HEADERS)
        .max_frame_size(MAX_FRAME)
        .initial_window_size(http2.initial_stream_window_size)
        .initial_connection_window_size(http2.initial_connection_window_size)
        .data_frame_budget(small_frames(http2.initial_connection_window_size))
        .handshake(stream)
        .await
        .map_err(|_| ConnectFailure::Reset)?;
    // Only what says what it takes speaks HTTP/2, and has accepted the connection.
    poll_fn(|cx| {
        let ended = Pin::new(&mut driver).poll(cx);
        if send.current_max_send_streams() != STREAMS_BEFORE_SETTINGS {
            return Poll::Ready(Ok(()));
        }
        ended.map(|ended| {
            Err(match ended {
                Err(error) if is_client_certificate_refused_in_h2(&error) => ConnectFailure::Tls,
                Err(error) if error.is_library() => ConnectFailure::Other,
                _ => ConnectFailure::Reset,
            })
        })
    })
    .await?;
    let connection = Arc::new(Connection {
        send,
        socket,
        max_streams: http2.max_concurrent_streams.max(1) as usize,
        open: AtomicUsize::new(0),
        carried: AtomicU32::new(0),
        answered: AtomicBool::new(false),
        retired: AtomicBool::new(false),
        too_old: settings.max_age.map(|age| Instant::now() + age),
        idle_since: Mutex::new(Instant::now()),
    });
    Ok((connection, driver))
}

/// What small pieces of answers that wait may cost beside their bytes, as the h2 crate reckons it: 256 bytes each. It ends
/// the connection beyond that, with everybody's streams. The smallest messages of gRPC have 5 bytes, and as many as fit
/// into the window may wait for slow clients.
fn small_frames(window: u32) -> usize {
    (window as usize).saturating_mul(256 / 5)
}

/// Moves the bytes of a connection until it ends. `forget` is called when it takes no more streams; with its last
/// handle gone and its last stream ended, the connection says goodbye by itself.
pub(super) async fn drive(
    mut driver: Driver,
    connection: Arc<Connection>,
    settings: Settings,
    forget: impl Fn(),
) {
    let pings = settings.http2.keepalive.and_then(|keepalive| Some((driver.ping_pong()?, keepalive)));
    let weak = Arc::downgrade(&connection);
    drop(connection);
    let over = async {
        while let Some(connection) = weak.upgrade() {
            let (now, idle) = (Instant::now(), connection.idle_since());
            let ends = (!settings.idle.is_zero()).then(|| idle.unwrap_or(now) + settings.idle);
            let next = ends.into_iter().chain(connection.too_old).min();
            if next.is_some_and(|next| now >= next) {
                connection.retire();
                return;
            }
            drop(connection);
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        }
    };
    let over = async {
        over.await;
        forget();
        // What is open is served to its end.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = driver => if let Err(error) = ended {
            log::debug!("a connection of HTTP/2 to an endpoint ended: {error}");
        },
        () = keep_alive(pings) => log::debug!("an endpoint answers no PING; its connection is given up"),
        () = over => {}
    }
    if let Some(connection) = weak.upgrade() {
        connection.retire();
    }
    forget();
}

/// Ends when a PING has no answer.
async fn keep_alive(pings: Option<(PingPong, Http2Keepalive)>) {
    let Some((mut pings, keepalive)) = pings else { return std::future::pending().await };
    loop {
        sleep(Duration::from(keepalive.interval)).await;
        match timeout(keepalive.timeout.into(), pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
