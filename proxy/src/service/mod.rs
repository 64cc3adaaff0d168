//! The data plane's heart: Pingora's phases, each one short call into a module.
//!
//! Purpose: carry a request to an endpoint that the engine chose and its answer back. Inputs: sessions.
//! Outputs: answers, outcomes told to the engine, the log and the metrics.

mod age;
mod attempt;
mod conclude;
pub(crate) mod connecting;
mod context;
mod deadline;
mod failure;
mod grpc;
mod hash;
mod headers;
mod hop_by_hop;
mod mirror;
mod peer;
mod peer_tls;
mod reply;
mod request;
mod request_id;
mod response;
mod stream;
mod to_h2;
mod upload;
mod uses;

use std::os::fd::RawFd;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use fastrand::Rng;
use pingora_core::modules::http::HttpModules;
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::time::Duration;

use crate::access_log::AccessLog;
use crate::clock::Clock;
use crate::metrics::{Metrics, RuleMetrics};
use crate::upstream_tls::SecurityLog;
use crate::world::World;
use context::Context;
pub(crate) use failure::outcome as outcome_of;
pub(crate) use failure::{of_connecting, of_io};
pub(crate) use hash::RequestHash;
pub(crate) use mirror::Mirroring;
pub(crate) use peer::keepalive_of;
pub(crate) use peer_tls::secure_peer;
use pingora_core::connectors::TransportConnector;
pub(crate) use reply::{Reply, cause_text, of_failure};
use request::Found;
use stream::Forwarded;
pub(crate) use uses::Uses;

/// The proxy application.
pub(crate) struct Service {
    pub(crate) world: Arc<ArcSwap<World>>,
    pub(crate) clock: Clock,
    pub(crate) access_log: Arc<AccessLog>,
    pub(crate) metrics: Arc<Metrics>,
    /// Requests that no route matched.
    pub(crate) unmatched: RuleMetrics,
    /// A pooled connection may be used by another thread than the one that watches it.
    pub(crate) workers_share_connections: bool,
    pub(crate) uses: Uses,
    pub(crate) mirroring: Arc<Mirroring>,
    pub(crate) security: Arc<SecurityLog>,
    /// Connects to endpoints that speak HTTP/2.
    pub(crate) connector: Arc<TransportConnector>,
}

impl Service {
    /// Makes the request what its endpoint gets, and begins its mirrors.
    fn prepare_request(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.change_request(session, request, ctx)?;
        if ctx.rule.as_ref().is_some_and(|rule| rule.mirrors.is_some()) {
            self.start_mirrors(session, request, ctx);
        }
        Ok(())
    }

    /// A piece of the request's body goes to the endpoint, and to the mirrors.
    async fn pass_body(&self, piece: Option<&Bytes>, ended: bool, ctx: &mut Context) {
        if !ctx.mirrors.is_empty() {
            mirror::feed(ctx, piece, ended).await;
        }
        self.body_sent(piece.map_or(0, Bytes::len), ended, ctx);
    }

    fn with_rng<T>(&self, call: impl FnOnce(&mut Rng) -> T) -> T {
        thread_local! {
            static RNG: std::cell::RefCell<Rng> = std::cell::RefCell::new(Rng::new());
        }
        RNG.with_borrow_mut(call)
    }
}

#[async_trait]
impl ProxyHttp for Service {
    /// Boxed, because Pingora's futures hold it by value and are moved with it, four layers deep.
    type CTX = Box<Context>;

    fn new_ctx(&self) -> Box<Context> {
        Box::new(Context::new(self.clock.now()))
    }

    /// No module: answers are passed on as they come.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn request_filter(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<bool> {
        let has_body = !session.is_body_empty();
        // A request that comes before the answer to the one before waits for its turn.
        session.set_pipelining_enabled(true);
        match self.route(session, ctx, has_body) {
            Found::Forward => {
                // A client that reads nothing holds its endpoint no longer than its stream may be silent.
                session.set_write_timeout(ctx.stream_idle());
                if !ctx.speaks_h2() {
                    return Ok(false);
                }
                // Boxed, so that requests of HTTP/1.1 do not carry its state.
                match Box::pin(self.forward(session, ctx)).await? {
                    Forwarded::Answered => {}
                    Forwarded::To(peer) => {
                        ctx.next_peer = Some(peer);
                        return Ok(false);
                    }
                }
            }
            Found::Reply(reply) => {
                if reply == Reply::RECONNECT {
                    session.set_keepalive(None);
                }
                self.answer(session, ctx, reply).await?;
            }
            Found::Redirect { status, location } => self.redirect(session, ctx, status, &location).await?,
            Found::Preflight => self.preflight(session, ctx).await?,
        }
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Box<Context>) -> Result<Box<HttpPeer>> {
        if let Some(peer) = ctx.next_peer.take() {
            return Ok(peer);
        }
        if !ctx.speaks_h2() {
            return self.choose(session, ctx).await;
        }
        // A further attempt, after one that Pingora made: it will not use the client's connection again.
        session.set_keepalive(None);
        match Box::pin(self.forward(session, ctx)).await? {
            Forwarded::To(peer) => Ok(peer),
            Forwarded::Answered => {
                ctx.answered = true;
                Err(Error::new_in(ErrorType::Custom("answered already")))
            }
        }
    }

    fn fail_to_connect(
        &self,
        session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Box<Context>,
        error: Box<Error>,
    ) -> Box<Error> {
        self.connecting_failed(session, ctx, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        socket: RawFd,
        digest: Option<&Digest>,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        self.connected(ctx, (reused, peer), socket, digest).await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        self.prepare_request(session, request, ctx)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        ended: bool,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        self.pass_body(body.as_ref(), ended, ctx).await;
        Ok(())
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        self.judge(session, response, ctx)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Box<Context>,
    ) -> Result<()> {
        self.finish_response(session, response, ctx)
    }

    fn upstream_response_body_filter(
        &self,
        _session: &mut Session,
        _body: &mut Option<Bytes>,
        ended: bool,
        ctx: &mut Box<Context>,
    ) -> Result<Option<Duration>> {
        self.flow(ended, ctx);
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        ctx: &mut Box<Context>,
        reused: bool,
    ) -> Box<Error> {
        self.exchange_failed(session, ctx, error, reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Box<Context>,
    ) -> FailToProxy {
        self.answer_failure(session, error, ctx).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Box<Context>) {
        let error = error.filter(|_| !ctx.answered);
        self.conclude(session, error, ctx);
        // The endpoint is free, whatever the client still does.
        ctx.exchange = None;
        if error.is_none_or(|error| *error.esource() != ErrorSource::Downstream) {
            conclude::drain(session).await;
        }
    }

    /// The access log has it, with more.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Box<Context>, _error: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _session: &Session,
        _ctx: &Box<Context>,
        _error: &Error,
        _context: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
