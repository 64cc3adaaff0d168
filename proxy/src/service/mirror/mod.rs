//! Copies of requests for mirrors (filter RequestMirror): sent on the side, answers thrown away.
//!
//! Inputs: a request as its endpoint gets it, then the pieces of its body. Outputs: requests to one endpoint each of
//! the mirrors' pools, and a count of how they ended. The real request never waits for a mirror: what a mirror cannot
//! take is not kept for it beyond a bound, and then the mirror is given up. Copies under way and bytes kept are
//! bounded per thread.

mod feed;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http::Version;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::Connector;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::Error;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::time::{Instant as Moment, timeout_at};
use understudy_engine::{ConnectFailure, Exchange, Facts, Failure, RequestTraits};

use super::context::Context;
use super::peer::{build_peer, speaks_h2};
use super::{Service, failure, to_h2};
use crate::clock::Clock;
use crate::metrics::{Metrics, MirrorOutcome};
use crate::upstream_tls::TlsGuard;
use crate::world::{MirrorTable, PoolTable};
pub(super) use feed::{Feed, feed};
use feed::{Load, Place, Receiver};

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
        let chosen = &mirror.table.pool.members()[member];
        let peer = build_peer(member, &mirror.table, now).ok_or(MirrorOutcome::NoEndpoint)?;
        let header = copy_of(request, has_body, &peer).map_err(|_| MirrorOutcome::Failed)?;
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
            guard: self.guard_of(chosen, &mirror.table),
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
fn copy_of(
    request: &RequestHeader,
    has_body: bool,
    peer: &HttpPeer,
) -> pingora_error::Result<Box<RequestHeader>> {
    if speaks_h2(peer) {
        let mut copy = request.clone();
        copy.remove_header(&EXPECT);
        let (parts, ()) = to_h2::request(&copy, peer)?.into_parts();
        return Ok(Box::new(parts.into()));
    }
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
    /// What its TLS has to be, where the mirror is spoken to over TLS.
    guard: Option<TlsGuard>,
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
                if speaks_h2(&self.peer) && !matches!(session, HttpSession::H2(_)) {
                    return Err(MirrorOutcome::Failed);
                }
                if !reused {
                    let agreed = session.digest().and_then(|digest| digest.ssl_digest.as_deref());
                    let refused = match &self.guard {
                        Some(guard) => Box::pin(guard.look(&self.peer, agreed)).await,
                        None => None,
                    };
                    if let Some(refused) = refused {
                        log::debug!("a mirror is not used: {}", refused.why);
                        self.not_connected(refused.failure);
                        return Err(MirrorOutcome::Failed);
                    }
                    self.exchange.connected();
                }
                Ok(session)
            }
            Err(Stopped::Time) => Err(MirrorOutcome::Timeout),
            Err(Stopped::Error(error)) => {
                let failure = failure::of_connecting(&error);
                if failure == ConnectFailure::Certificate
                    && let Some(guard) = &self.guard
                {
                    guard.certificate_refused(&error);
                }
                self.not_connected(failure);
                Err(MirrorOutcome::Failed)
            }
        }
    }

    fn not_connected(&mut self, failure: ConnectFailure) {
        let facts = Facts { response_started: false, can_resend: false };
        let now = self.clock.now();
        // There is no second attempt, whatever the engine would allow.
        let _ = self.exchange.failed(Failure::Connect(failure), facts, now, &mut fastrand::Rng::new());
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
        let copy = copy_of(&request, true, &HttpPeer::new("127.0.0.1:1", false, String::new())).unwrap();
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
        assert_eq!(
            copy_of(&request, true, &HttpPeer::new("127.0.0.1:1", false, String::new()))
                .unwrap()
                .headers
                .get(TRANSFER_ENCODING),
            None
        );
    }
}
