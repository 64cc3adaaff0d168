//! What a request carries through the phases.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use http::HeaderValue;
use pingora_core::upstreams::peer::HttpPeer;
use understudy_engine::{ConnectFailure, Exchange, Facts, Failure, Instant};

use super::deadline::Armed;
use super::mirror::Feed;
use super::reply::Reply;
use super::request_id::RequestId;
use crate::world::RuleTable;

/// A request on its way.
pub(crate) struct Context {
    pub(crate) started: Instant,
    /// The rule that it matched; the world may move on, the request stays with it.
    pub(crate) rule: Option<Arc<RuleTable>>,
    /// Length of the path prefix that matched, for rewrites.
    pub(crate) matched_prefix: Option<usize>,
    /// The port that the client sees.
    pub(crate) port: u16,
    pub(crate) exchange: Option<Exchange>,
    pub(crate) attempt: AttemptState,
    /// When the answer's headers must be there, over all attempts.
    pub(crate) headers_by: Instant,
    /// When the whole answer must be there.
    pub(crate) complete_by: Instant,
    /// When the whole stream ends, whatever it is doing; the two above are never later.
    pub(crate) stream_by: Instant,
    /// Time to wait before the next attempt.
    pub(crate) back_off: Duration,
    /// The request's body is read to its end.
    pub(crate) body_ended: bool,
    /// The request's mirrors were chosen.
    pub(crate) mirrored: bool,
    /// The mirrors that want its body, and how much of it they were offered.
    pub(super) mirrors: Vec<Feed>,
    pub(super) mirrored_bytes: u64,
    /// The answer is ours; set where nothing else will be.
    pub(crate) reply: Option<Reply>,
    /// How the last attempt failed.
    pub(crate) failed: Option<Failure>,
    /// What went wrong last, for the log.
    pub(crate) cause: Option<String>,
    /// The identifier that the request was given; `None` if it brought one.
    pub(crate) request_id: Option<RequestId>,
    /// What the pool's balancer hashes, if it does and the request has it.
    pub(crate) hash: Option<u64>,
    /// The cookie that the client gets with the answer.
    pub(crate) set_cookie: Option<HeaderValue>,
    /// The endpoint of the next attempt, where it was chosen already.
    pub(crate) next_peer: Option<Box<HttpPeer>>,
    /// The client has its whole answer, whatever Pingora is told.
    pub(crate) answered: bool,
    /// The request is a call of gRPC; looked at only where it may matter.
    pub(crate) is_grpc: bool,
    /// What the answer's status means, where it is not the one that the client sees.
    pub(crate) meant_status: Option<u16>,
}

/// What holds for one attempt only.
pub(crate) struct AttemptState {
    /// When the attempt's own limit is reached.
    pub(crate) try_by: Instant,
    pub(crate) armed: Option<Armed>,
    /// When connecting began, while it goes on.
    pub(crate) connecting_since: Option<Instant>,
    /// Which limit bounds connecting.
    pub(crate) connect_bound: ConnectBound,
    /// The pooled connection was found dead before anything was sent on it.
    pub(crate) stale: bool,
    /// The connection came about, and may not be used.
    pub(crate) refused: Option<ConnectFailure>,
    /// The attempt's answer was turned down for another attempt.
    pub(crate) turned_down: bool,
    /// The connection carries no request after this one.
    pub(crate) last_on_connection: bool,
    /// Bytes of the request's body that went into this attempt.
    pub(crate) body_bytes: u64,
    /// When the answer's headers arrived.
    pub(crate) flowing_since: Option<Instant>,
    /// The answer is read to its end.
    pub(crate) answer_ended: bool,
    /// The connection carries something else than HTTP now.
    pub(crate) upgraded: bool,
    /// Its outcome is counted already.
    pub(crate) counted: bool,
}

impl Default for AttemptState {
    fn default() -> Self {
        Self {
            try_by: Instant::NEVER,
            armed: None,
            connecting_since: None,
            connect_bound: ConnectBound::default(),
            stale: false,
            refused: None,
            turned_down: false,
            last_on_connection: false,
            body_bytes: 0,
            flowing_since: None,
            answer_ended: false,
            upgraded: false,
            counted: false,
        }
    }
}

impl Drop for Context {
    /// Pingora panics at an endpoint's certificate that it cannot read. The request is lost then, with its connection; the
    /// endpoint is charged with it, so that the requests after it go elsewhere.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let (Some(now), Some(exchange)) = (self.attempt.connecting_since, &mut self.exchange)
        {
            let lost = Facts { response_started: true, can_resend: false };
            exchange.failed(Failure::Connect(ConnectFailure::Tls), lost, now, &mut Rng::new());
        }
    }
}

/// Which limit bounds connecting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum ConnectBound {
    /// The connect timeout.
    #[default]
    Connect,
    /// The limit of one attempt.
    PerTry,
    /// The limit of the request.
    Request,
}

impl Context {
    pub(crate) fn new(started: Instant) -> Self {
        Self {
            started,
            rule: None,
            matched_prefix: None,
            port: 0,
            exchange: None,
            attempt: AttemptState::default(),
            headers_by: Instant::NEVER,
            complete_by: Instant::NEVER,
            stream_by: Instant::NEVER,
            back_off: Duration::ZERO,
            body_ended: false,
            mirrored: false,
            mirrors: Vec::new(),
            mirrored_bytes: 0,
            reply: None,
            failed: None,
            cause: None,
            request_id: None,
            hash: None,
            set_cookie: None,
            next_peer: None,
            answered: false,
            is_grpc: false,
            meant_status: None,
        }
    }

    /// Whether some endpoint of the pool speaks HTTP/2.
    pub(crate) fn speaks_h2(&self) -> bool {
        self.rule.as_ref().and_then(|rule| rule.pool.as_ref()).is_some_and(|pool| pool.speaks_h2)
    }

    /// How long neither direction may move; `None`: for ever.
    pub(crate) fn stream_idle(&self) -> Option<Duration> {
        let pool = self.rule.as_ref()?.pool.as_ref()?;
        Some(pool.limits.stream_idle).filter(|idle| !idle.is_zero())
    }
}
