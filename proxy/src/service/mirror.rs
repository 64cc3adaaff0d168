//! Copies of requests for mirrors (filter RequestMirror): sent on the side, answers thrown away.
//!
//! Inputs: a request as its endpoint gets it, then the pieces of its body. Outputs: requests to one endpoint each of
//! the mirrors' pools, and a count of how they ended. The real request never waits for a mirror: what a mirror cannot
//! take is not kept for it beyond a bound, and then the mirror is given up. Copies under way and bytes kept are
//! bounded per thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::Error;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant as Moment, timeout_at};
use understudy_engine::{Exchange, Facts, Failure, RequestTraits};

use super::context::Context;
use super::{Service, attempt, failure};
use crate::clock::Clock;
use crate::metrics::{Metrics, MirrorOutcome};
use crate::world::{MirrorTable, PoolTable};

/// Copies under way at once, per thread.
const UNDER_WAY: usize = 256;
/// Bytes of bodies that wait for their mirrors, per mirror and per thread.
const KEPT: usize = 1024 * 1024;
const KEPT_PER_THREAD: usize = 16 * 1024 * 1024;
/// A piece counts as so many bytes at least.
const LEAST: usize = 256;
/// A smaller piece is copied, so that it does not hold the buffer that it came in.
const SMALL: usize = 4096;
/// How often a mirror that is behind with a body is given its turn before it is given up.
const TURNS: usize = 8;
/// Idle connections to mirrors that are kept.
const CONNECTIONS: usize = 128;
/// How long a step may take (a write, the wait for an answer, reading it) where the request itself has no limit.
const STEP: Duration = Duration::from_secs(15);

/// What all mirrors need.
pub(crate) struct Mirroring {
    connector: Connector,
}

impl Default for Mirroring {
    fn default() -> Self {
        Self { connector: Connector::new(Some(ConnectorOptions::new(CONNECTIONS))) }
    }
}

/// What the mirrors of one thread hold.
#[derive(Debug, Default)]
struct Load {
    under_way: AtomicUsize,
    kept: AtomicUsize,
}

impl Load {
    fn of_this_thread() -> Arc<Self> {
        thread_local! {
            static LOAD: Arc<Load> = Arc::default();
        }
        LOAD.with(Arc::clone)
    }
}

/// A place among the copies under way.
struct Place(Arc<Load>);

impl Place {
    fn take(load: Arc<Load>) -> Option<Self> {
        // Only this thread takes and gives, so nothing can come between.
        let free = load.under_way.load(Ordering::Relaxed) < UNDER_WAY;
        free.then(|| {
            load.under_way.fetch_add(1, Ordering::Relaxed);
            Self(load)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body on its way from the request to a mirror.
#[derive(Debug, Default)]
struct Body {
    kept: AtomicUsize,
    /// All of it was handed over.
    complete: AtomicBool,
    /// The mirror was too slow for it.
    overflowed: AtomicBool,
    /// There will be no more of it, and it is not complete.
    cut: Notify,
}

/// A piece of a body; it counts as kept until it is written.
struct Piece {
    bytes: Bytes,
    body: Arc<Body>,
    load: Arc<Load>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let cost = self.bytes.len().max(LEAST);
        self.body.kept.fetch_sub(cost, Ordering::Relaxed);
        self.load.kept.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Where the pieces of a request's body go for one mirror.
pub(super) struct Feed {
    pieces: mpsc::UnboundedSender<Piece>,
    body: Arc<Body>,
    load: Arc<Load>,
}

impl Feed {
    fn new(load: Arc<Load>) -> (Self, Receiver) {
        let body = Arc::new(Body::default());
        // Bounded by what its pieces count for.
        let (sender, pieces) = mpsc::unbounded_channel();
        (Self { pieces: sender, body: body.clone(), load }, Receiver { pieces, body })
    }

    /// False if there is no room for the piece, or nobody who wants it.
    fn offer(&self, bytes: &Bytes) -> bool {
        let cost = bytes.len().max(LEAST);
        if self.body.kept.load(Ordering::Relaxed) + cost > KEPT
            || self.load.kept.load(Ordering::Relaxed) + cost > KEPT_PER_THREAD
        {
            return false;
        }
        self.body.kept.fetch_add(cost, Ordering::Relaxed);
        self.load.kept.fetch_add(cost, Ordering::Relaxed);
        let piece = Piece { bytes: bytes.clone(), body: self.body.clone(), load: self.load.clone() };
        self.pieces.send(piece).is_ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.body.complete.load(Ordering::Relaxed) {
            self.body.cut.notify_one();
        }
    }
}

struct Receiver {
    pieces: mpsc::UnboundedReceiver<Piece>,
    body: Arc<Body>,
}

/// Hands a piece of the request's body to its mirrors, each byte once: after a failure the body begins anew.
pub(super) async fn feed(ctx: &mut Context, bytes: Option<&Bytes>, ended: bool) {
    let start = ctx.attempt.body_bytes;
    let length = bytes.map_or(0, Bytes::len);
    let known = usize::try_from(ctx.mirrored_bytes.saturating_sub(start)).unwrap_or(usize::MAX).min(length);
    if let Some(bytes) = bytes.map(|bytes| bytes.slice(known..)).filter(|bytes| !bytes.is_empty()) {
        ctx.mirrored_bytes = start + length as u64;
        let bytes = if bytes.len() < SMALL { Bytes::copy_from_slice(&bytes) } else { bytes };
        let mut behind: Vec<bool> = ctx.mirrors.iter().map(|feed| !feed.offer(&bytes)).collect();
        // They may not have had their turn yet: the request comes in on the same thread. Nobody waits for one.
        for _ in 0..TURNS {
            if !behind.contains(&true) {
                break;
            }
            tokio::task::yield_now().await;
            for (feed, behind) in ctx.mirrors.iter().zip(&mut behind).filter(|(_, behind)| **behind) {
                *behind = !feed.offer(&bytes);
            }
        }
        let mut behind = behind.into_iter();
        ctx.mirrors.retain(|feed| {
            let given_up = behind.next().unwrap_or(false);
            feed.body.overflowed.store(given_up, Ordering::Relaxed);
            !given_up
        });
    }
    if ended {
        for feed in ctx.mirrors.drain(..) {
            feed.body.complete.store(true, Ordering::Release);
        }
    }
}

impl Service {
    /// Begins the copies of a request, once, as soon as it is known what its endpoint gets.
    pub(super) fn start_mirrors(&self, session: &mut Session, request: &RequestHeader, ctx: &mut Context) {
        let Some(rule) = ctx.rule.clone() else { return };
        let Some(mirrors) = rule.mirrors.as_ref().filter(|_| !ctx.mirrored) else { return };
        ctx.mirrored = true;
        // What becomes of a connection that is handed over cannot be shown to a third.
        if request.headers.contains_key(UPGRADE) || request.method == http::Method::CONNECT {
            return;
        }
        let reference = ctx.exchange.as_ref().and_then(Exchange::current).map(|(member, _)| member.reference);
        let of_ref = reference.and_then(|index| mirrors.of_refs.get(index)).into_iter().flatten();
        let has_body = !session.is_body_empty();
        for table in mirrors.of_rule.iter().chain(of_ref) {
            if self.with_rng(|rng| table.mirror.takes(|below| rng.u32(..below)))
                && let Err(outcome) = self.start_mirror(table, request, has_body, ctx)
            {
                self.metrics.count_mirror(outcome);
            }
        }
    }

    fn start_mirror(
        &self,
        mirror: &Arc<MirrorTable>,
        request: &RequestHeader,
        has_body: bool,
        ctx: &mut Context,
    ) -> Result<(), MirrorOutcome> {
        let load = Load::of_this_thread();
        let place = Place::take(load.clone()).ok_or(MirrorOutcome::Dropped)?;
        let now = self.clock.now();
        let mut exchange = Exchange::begin(mirror.table.pool.clone(), now);
        let traits = RequestTraits { replayable: true, hash: None };
        let choice = self.with_rng(|rng| exchange.choose(traits, now, rng));
        let member = choice.map_err(|_| MirrorOutcome::NoEndpoint)?.member;
        let address = &mirror.table.pool.members()[member].spec.identity.address;
        let mut peer = attempt::peer_of(address).ok_or(MirrorOutcome::NoEndpoint)?;
        attempt::set_options(&mut peer, address, &mirror.table, now);
        let header = copy_of(request, has_body).map_err(|_| MirrorOutcome::Failed)?;
        let body = has_body.then(|| {
            let (feed, receiver) = Feed::new(load);
            ctx.mirrors.push(feed);
            receiver
        });
        let limits = &mirror.table.limits;
        let whole = limits.request.into_iter().chain(limits.max_stream).min();
        let whole = whole.map(|limit| Moment::now() + limit);
        let copy = Copy {
            mirroring: self.mirroring.clone(),
            mirror: mirror.clone(),
            clock: self.clock,
            exchange,
            peer,
            whole,
            _place: place,
        };
        let metrics: Arc<Metrics> = self.metrics.clone();
        tokio::spawn(async move { metrics.count_mirror(copy.run(header, body).await) });
        Ok(())
    }
}

/// The head that a mirror gets: what the endpoint gets, framed for a connection of its own.
fn copy_of(request: &RequestHeader, has_body: bool) -> pingora_error::Result<Box<RequestHeader>> {
    let mut copy = request.clone();
    copy.set_version(Version::HTTP_11);
    if !copy.headers.contains_key(HOST)
        && let Some(authority) = request.uri.authority()
    {
        copy.insert_header(HOST, authority.as_str())?;
    }
    // Nobody would wait for the mirror's permission.
    copy.remove_header(&EXPECT);
    copy.remove_header(&CONNECTION);
    if !has_body {
        copy.remove_header(&TRANSFER_ENCODING);
    } else if !copy.headers.contains_key(CONTENT_LENGTH) {
        copy.insert_header(TRANSFER_ENCODING, "chunked")?;
    }
    Ok(Box::new(copy))
}

/// One copy on its way.
struct Copy {
    mirroring: Arc<Mirroring>,
    mirror: Arc<MirrorTable>,
    clock: Clock,
    exchange: Exchange,
    peer: Box<HttpPeer>,
    /// When the whole of it is over, if the requests of the rule have such a limit.
    whole: Option<Moment>,
    _place: Place,
}

impl Copy {
    async fn run(mut self, header: Box<RequestHeader>, body: Option<Receiver>) -> MirrorOutcome {
        let Some(of_request) = body.as_ref().map(|receiver| receiver.body.clone()) else {
            return self.send(header, None).await;
        };
        tokio::select! {
            biased;
            // What cannot be sent whole is not sent further, whatever the mirror is doing.
            () = of_request.cut.notified() => {
                let slow = of_request.overflowed.load(Ordering::Relaxed);
                if slow { MirrorOutcome::Dropped } else { MirrorOutcome::Incomplete }
            }
            outcome = self.send(header, body) => outcome,
        }
    }

    async fn send(&mut self, header: Box<RequestHeader>, body: Option<Receiver>) -> MirrorOutcome {
        match self.connect().await {
            Ok(session) => self.converse(session, header, body).await.unwrap_or_else(|outcome| outcome),
            Err(outcome) => outcome,
        }
    }

    fn table(&self) -> &PoolTable {
        &self.mirror.table
    }

    /// A failure to connect is told to the engine: whoever else reaches the endpoint learns of it.
    async fn connect(&mut self) -> Result<HttpSession, MirrorOutcome> {
        let limit = self.table().limits.connect;
        self.peer.options.connection_timeout = Some(limit);
        self.peer.options.total_connection_timeout = Some(limit);
        let mirroring = self.mirroring.clone();
        let connected = Box::pin(mirroring.connector.get_http_session(&*self.peer));
        match within(self.whole.unwrap_or_else(|| Moment::now() + limit + STEP), connected).await {
            Ok((session, reused)) => {
                if !reused {
                    self.exchange.connected();
                }
                Ok(session)
            }
            Err(Stopped::Time) => Err(MirrorOutcome::Timeout),
            Err(Stopped::Error(error)) => {
                let failed = Failure::Connect(failure::of_connecting(&error));
                let facts = Facts { response_started: false, can_resend: false };
                let now = self.clock.now();
                // There is no second attempt, whatever the engine would allow.
                let _ = self.exchange.failed(failed, facts, now, &mut fastrand::Rng::new());
                Err(MirrorOutcome::Failed)
            }
        }
    }

    async fn converse(
        &mut self,
        mut session: HttpSession,
        header: Box<RequestHeader>,
        body: Option<Receiver>,
    ) -> Result<MirrorOutcome, MirrorOutcome> {
        let head_only = header.method == http::Method::HEAD;
        within(self.step(), session.write_request_header(header)).await?;
        if let Some(mut body) = body {
            // As slow as the request's own body; its end, however it ends, ends this.
            while let Some(piece) = body.pieces.recv().await {
                within(self.step(), session.write_request_body(piece.bytes.clone(), false)).await?;
            }
            if !body.body.complete.load(Ordering::Acquire) {
                return Err(MirrorOutcome::Incomplete);
            }
        }
        within(self.step(), session.finish_request_body()).await?;
        let answered_by = self.step();
        let status = loop {
            within(answered_by, session.read_response_header()).await?;
            let status = session.response_header().map_or(0, |header| header.status.as_u16());
            if status >= 200 || status == 101 {
                break status;
            }
        };
        self.exchange.headers(status, self.clock.now());
        let read_by = self.step();
        if !head_only {
            while within(read_by, session.read_response_body()).await?.is_some() {}
        }
        self.exchange.finished(self.clock.now());
        let idle = self.peer.idle_timeout();
        self.mirroring.connector.release_http_session(session, &*self.peer, idle).await;
        Ok(MirrorOutcome::Answered)
    }

    /// When the next step has to be done.
    fn step(&self) -> Moment {
        self.whole.unwrap_or_else(|| Moment::now() + STEP)
    }
}

/// Why a step was not done.
enum Stopped {
    Time,
    Error(Box<Error>),
}

impl From<Stopped> for MirrorOutcome {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Time => Self::Timeout,
            Stopped::Error(error) => {
                log::debug!("a mirror failed: {error}");
                Self::Failed
            }
        }
    }
}

async fn within<T>(by: Moment, step: impl Future<Output = pingora_error::Result<T>>) -> Result<T, Stopped> {
    match timeout_at(by, step).await {
        Ok(done) => done.map_err(Stopped::Error),
        Err(_elapsed) => Err(Stopped::Time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_waits_up_to_the_bound_and_gives_its_room_back() {
        let load = Arc::new(Load::default());
        let (feed, mut receiver) = Feed::new(load.clone());
        let half = Bytes::from(vec![0; KEPT / 2]);
        assert!(feed.offer(&half) && feed.offer(&half));
        assert!(!feed.offer(&Bytes::from_static(b"x")), "full");
        drop(receiver.pieces.recv().await);
        assert!(feed.offer(&half));
        drop(receiver);
        assert!(!feed.offer(&Bytes::new()), "nobody wants it any longer");
        assert_eq!((load.kept.load(Ordering::Relaxed), feed.body.kept.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn copies_under_way_are_bounded() {
        let load = Arc::new(Load::default());
        let places: Vec<_> = (0..UNDER_WAY).map(|_| Place::take(load.clone()).unwrap()).collect();
        assert!(Place::take(load.clone()).is_none());
        drop(places);
        assert!(Place::take(load).is_some());
    }

    #[test]
    fn a_copy_is_framed_for_a_connection_of_its_own() {
        let mut request = RequestHeader::build("POST", b"/a?b=c", None).unwrap();
        for (name, value) in [
            ("host", "www.example.com"),
            ("connection", "close"),
            ("expect", "100-continue"),
            ("x-kept", "1"),
        ] {
            request.insert_header(name, value).unwrap();
        }
        let copy = copy_of(&request, true).unwrap();
        assert_eq!(
            (copy.uri.path_and_query().unwrap().as_str(), &copy.headers["host"]),
            ("/a?b=c", &request.headers["host"])
        );
        assert_eq!((copy.headers.get(CONNECTION), copy.headers.get(EXPECT)), (None, None));
        assert_eq!(
            (&copy.headers[TRANSFER_ENCODING], &copy.headers["x-kept"]),
            (&"chunked".parse().unwrap(), &"1".parse().unwrap())
        );
        request.insert_header(CONTENT_LENGTH, 3).unwrap();
        assert_eq!(copy_of(&request, true).unwrap().headers.get(TRANSFER_ENCODING), None);
    }
}
