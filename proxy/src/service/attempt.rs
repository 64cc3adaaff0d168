//! One attempt after another: choosing the endpoint, and what follows from its failure.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use pingora_core::protocols::Digest;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, ErrorType, Result};
use pingora_proxy::Session;
use tokio::sync::Notify;
use understudy_engine::{
    Choice, ConnectFailure, Exchange, Facts, Failure, GiveUp, Instant, Next, NoEndpoint, RequestTraits,
    TimeoutKind,
};

use super::context::{AttemptState, ConnectBound, Context};
use super::deadline::{Armed, Expired};
use super::peer::{build_peer, speaks_h2};
use super::reply::{self, Reply};
use super::{Service, failure, hop_by_hop};
use crate::upstream_tls::{Refused, is_client_certificate_refused};
use crate::world::PoolTable;

/// Below it, the groups of connections are those of TLS policies, which are counted from 1.
const OWN_GROUPS: u64 = 1 << 48;

impl Service {
    /// Chooses an endpoint and says how to reach it.
    pub(super) async fn choose(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let after_stale = ctx.attempt.stale;
        ctx.attempt = AttemptState::default();
        if !ctx.back_off.is_zero() {
            let limit = ctx.complete_by.min(ctx.headers_by).since(self.clock.now());
            let wait = std::mem::take(&mut ctx.back_off).min(limit);
            tokio::time::sleep(wait).await;
        }
        let mut now = self.clock.now();
        let (Some(rule), Some(exchange)) = (ctx.rule.as_ref(), ctx.exchange.as_mut()) else {
            return refuse(ctx, Reply::INTERNAL);
        };
        let Some(table) = rule.pool.as_ref() else { return refuse(ctx, Reply::INTERNAL) };
        if now >= ctx.complete_by || now >= ctx.headers_by {
            let reply = if now >= ctx.stream_by { Reply::STREAM_TOO_LONG } else { Reply::TIMEOUT };
            return refuse(ctx, reply);
        }
        let replayable = session.is_body_empty() && session.req_header().method.is_idempotent();
        let traits = RequestTraits { replayable, hash: ctx.hash };
        let choice = loop {
            let choice = self.with_rng(|rng| exchange.choose(traits, now, rng));
            let Some(room) = exchange.room().filter(|_| choice == Err(NoEndpoint::Wait)) else {
                break choice;
            };
            // A body that is still to come has no limit of its own yet; waiting has.
            let latest = table.limits.headers.map_or(Instant::NEVER, |headers| ctx.started.after(headers));
            let wait = ctx.headers_by.min(ctx.complete_by).min(latest).since(now);
            if tokio::time::timeout(wait, room).await.is_err() {
                ctx.cause.get_or_insert_with(|| NoEndpoint::Wait.to_string());
                return refuse(ctx, Reply::TIMEOUT);
            }
            now = self.clock.now();
        };
        let Choice { member, trial } = match choice {
            Ok(choice) => choice,
            Err(error) => {
                ctx.cause.get_or_insert_with(|| error.to_string());
                // R9: what could be retried when it failed, and cannot now, is answered as it failed.
                let reply = ctx.failed.map(|failed| reply::of_failure(failed, GiveUp::Exhausted));
                return refuse(ctx, reply.unwrap_or_else(|| Reply::from(error)));
            }
        };
        let Some(mut peer) = build_peer(member, table, now) else {
            return refuse(ctx, Reply::INTERNAL);
        };
        peer.options.http_upstream_request_policy = hop_by_hop::policy_of(&session.req_header().headers);
        if after_stale && !speaks_h2(&peer) {
            // A group of its own, so that the connection is a new one. Nobody would find it again, so it is not kept.
            peer.group_key = self.with_rng(|rng| rng.u64(OWN_GROUPS..));
            peer.options.idle_timeout = Some(Duration::ZERO);
        }
        ctx.attempt.try_by = table.limits.per_try.map_or(Instant::NEVER, |limit| now.after(limit));
        if trial && replayable {
            // A trial that hangs leaves the others time to answer.
            let rest = ctx.headers_by.min(ctx.complete_by).since(now);
            ctx.attempt.try_by = ctx.attempt.try_by.min(now.after(rest / 2));
        }
        ctx.attempt.connect_bound = bound_connecting(&mut peer, table, ctx, now);
        ctx.attempt.connecting_since = Some(now);
        Ok(peer)
    }

    /// No connection: nothing was sent.
    pub(super) fn connecting_failed(
        &self,
        session: &Session,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        ctx.attempt.connecting_since = None;
        let failed = failure::of_connecting(&error);
        if failed == ConnectFailure::Certificate
            && let Some((member, _)) = ctx.exchange.as_ref().and_then(Exchange::current)
        {
            self.security.certificate_refused(&member.spec.identity, &error, self.clock.now());
        }
        error.set_retry(self.connection_failed(session, ctx, failed));
        error
    }

    /// Whether there is another attempt after a failure to connect.
    pub(super) fn connection_failed(
        &self,
        session: &Session,
        ctx: &mut Context,
        failed: ConnectFailure,
    ) -> bool {
        let timed_out = failed == ConnectFailure::TimedOut;
        let failed = match ctx.attempt.connect_bound {
            ConnectBound::PerTry if timed_out => {
                Failure::Timeout { kind: TimeoutKind::PerTry, connected: false }
            }
            ConnectBound::Request if timed_out => {
                Failure::Timeout { kind: TimeoutKind::Request, connected: false }
            }
            _ => Failure::Connect(failed),
        };
        self.decide(session, ctx, failed)
    }

    /// The connection stands, new or pooled.
    pub(super) async fn connected(
        &self,
        ctx: &mut Context,
        (reused, peer): (bool, &HttpPeer),
        socket: RawFd,
        digest: Option<&Digest>,
    ) -> Result<()> {
        let since = ctx.attempt.connecting_since.take();
        let Some(exchange) = &ctx.exchange else { return Ok(()) };
        if reused && self.workers_share_connections && is_dead(socket) {
            ctx.attempt.stale = true;
            return Error::e_explain(ErrorType::ConnectionClosed, "the pooled connection was closed")
                .map_err(|error: Box<Error>| error.into_up());
        }
        let Some(table) = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref()) else { return Ok(()) };
        if !reused {
            if let Some((member, _)) = exchange.current()
                && member.spec.identity.tls.is_some()
            {
                let agreed = digest.and_then(|digest| digest.ssl_digest.as_deref());
                let refused = match self.guard_of(member, table) {
                    // Boxed: this is seldom, and all requests would carry its state.
                    Some(guard) if guard.policy.is_unseen(agreed) => {
                        Box::pin(async move { guard.look(peer, agreed).await }).await
                    }
                    Some(guard) => guard.refuses(agreed),
                    None => Some(Refused::gone()),
                };
                if let Some(refused) = refused {
                    ctx.attempt.refused = Some(refused.failure);
                    return Err(refused.to_error().into_up());
                }
            }
            exchange.connected();
        }
        if let Some(limit) = table.pool.spec().circuit_breaker.max_requests_per_connection {
            ctx.attempt.last_on_connection = self.uses.count(socket, reused, limit);
        }
        let idle = table.limits.stream_idle;
        // Taking a pooled connection takes no time.
        let now = since.filter(|_| reused).unwrap_or_else(|| self.clock.now());
        ctx.attempt.armed = Some(Armed::new(socket, deadline_of(ctx), idle, now, self.clock));
        Ok(())
    }

    /// A stream of a shared connection stands. `told` is notified when a limit of the attempt is reached.
    pub(super) fn stream_begun(&self, ctx: &mut Context, reused: bool, told: Arc<Notify>) {
        if !reused && let Some(exchange) = &ctx.exchange {
            exchange.connected();
        }
        let pool = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref());
        let idle = pool.map_or(Duration::ZERO, |pool| pool.limits.stream_idle);
        ctx.attempt.armed = Some(Armed::stream(told, deadline_of(ctx), idle, self.clock));
    }

    /// A piece of the request's body goes to the endpoint.
    pub(super) fn body_sent(&self, length: usize, ended: bool, ctx: &mut Context) {
        ctx.attempt.body_bytes += length as u64;
        if length == 0 && ctx.body_ended {
            return;
        }
        let now = self.clock.now();
        if ended && !ctx.body_ended {
            ctx.body_ended = true;
            if ctx.attempt.answer_ended {
                // Both directions are done: from here on the connection is no longer this request's.
                ctx.attempt.armed = None;
            }
            let limits = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref()).map(|pool| &pool.limits);
            if let Some(headers) =
                limits.filter(|limits| limits.request.is_none()).and_then(|limits| limits.headers)
            {
                ctx.headers_by = now.after(headers).min(ctx.stream_by);
            }
        }
        if let Some(armed) = &ctx.attempt.armed {
            if ctx.attempt.flowing_since.is_none() {
                armed.touch_until(now, ctx.headers_by.min(ctx.attempt.try_by));
            } else {
                armed.touch(now);
            }
        }
    }

    /// Something broke after the connection stood.
    pub(super) fn exchange_failed(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut error: Box<Error>,
        reused: bool,
    ) -> Box<Error> {
        let armed = ctx.attempt.armed.take();
        if ctx.attempt.turned_down {
            error.set_retry(true);
            return error;
        }
        // Resolves "only where the connection was reused", which Pingora must not be left with.
        error.retry.decide_reuse(reused);
        error.set_retry(false);
        if *error.esource() != ErrorSource::Upstream {
            return error;
        }
        let started = has_answer(session);
        if let Some(limit) = armed.as_ref().and_then(Armed::expired) {
            return self.limit_reached(session, ctx, error, limit);
        }
        let unsent = reused && *error.etype() == ErrorType::WriteError && ctx.attempt.body_bytes == 0;
        ctx.attempt.stale |= unsent && !started;
        let failed = match ctx.attempt.refused {
            Some(refused) => Failure::Connect(refused),
            // It has read nothing of the request.
            None if !reused && !started && is_client_certificate_refused(&error) => {
                Failure::Connect(ConnectFailure::Tls)
            }
            None => failure::of_exchange(&error, started, ctx.attempt.stale),
        };
        error.set_retry(self.decide(session, ctx, failed));
        error
    }

    pub(super) fn limit_reached(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        mut error: Box<Error>,
        limit: Expired,
    ) -> Box<Error> {
        if limit == Expired::Deadline && self.clock.now() >= ctx.stream_by {
            // As in Envoy the endpoint is not to blame, however far it came.
            (ctx.cause, ctx.reply) =
                (Some("the stream took too long".to_owned()), Some(Reply::STREAM_TOO_LONG));
            return error;
        }
        let over = limit == Expired::Idle || self.clock.now() >= ctx.headers_by.min(ctx.complete_by);
        let kind = if over { TimeoutKind::Request } else { TimeoutKind::PerTry };
        let failed = Failure::Timeout { kind, connected: true };
        if has_answer(session) || !(ctx.body_ended || session.is_body_done()) {
            // O7, and the same for a client that is slow to send or to read: the endpoint is not to blame.
            (ctx.cause, ctx.reply) = match limit {
                Expired::Deadline => {
                    (Some(reply::cause_text(failed)), Some(reply::of_failure(failed, GiveUp::NotRetriable)))
                }
                Expired::Idle => (Some("nothing moved for too long".to_owned()), Some(Reply::IDLE)),
            };
            return error;
        }
        error.set_retry(self.decide(session, ctx, failed));
        error
    }

    /// Tells the engine, and keeps what the client gets if there is no further attempt.
    pub(super) fn decide(&self, session: &Session, ctx: &mut Context, failed: Failure) -> bool {
        let facts = Facts {
            response_started: session.response_written().is_some(),
            can_resend: can_resend(session, ctx),
        };
        let now = self.clock.now();
        let Some(exchange) = ctx.exchange.as_mut() else { return false };
        if let Failure::Status(_) | Failure::Grpc(_) = failed
            && !is_worth_deciding(failed, exchange)
        {
            return false;
        }
        let next = self.with_rng(|rng| exchange.failed(failed, facts, now, rng));
        if let Some(table) = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref()) {
            table.metrics.count_attempt(failure::outcome(failed));
            ctx.attempt.counted = true;
        }
        if matches!(next, Next::Retry { .. }) {
            self.metrics.retries.inc();
        }
        ctx.cause = Some(reply::cause_text(failed));
        ctx.failed = Some(failed);
        match next {
            Next::Retry { after } => {
                ctx.back_off = after;
                true
            }
            Next::GiveUp(why) => {
                ctx.reply = Some(reply::of_failure(failed, why));
                false
            }
        }
    }
}

/// A status below 500 says nothing of the endpoint, and only a policy can ask for its retry.
fn is_worth_deciding(failed: Failure, exchange: &understudy_engine::Exchange) -> bool {
    failed.cause().is_some() || exchange.pool().spec().retry.is_some()
}

/// When the attempt's headers must be there.
fn deadline_of(ctx: &Context) -> Instant {
    ctx.headers_by.min(ctx.complete_by).min(ctx.attempt.try_by)
}

/// Rule R12: the body is kept for a retry up to the limit; what was not read yet needs no keeping.
fn can_resend(session: &Session, ctx: &Context) -> bool {
    let limit = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref()).map_or(0, |table| table.buffer_limit);
    ctx.attempt.body_bytes <= limit && !session.as_ref().retry_buffer_truncated()
}

/// Whether the client has the head of its answer; informational ones are none.
pub(super) fn has_answer(session: &Session) -> bool {
    session.response_written().is_some_and(|written| {
        !written.status.is_informational() || written.status == http::StatusCode::SWITCHING_PROTOCOLS
    })
}

fn refuse<T>(ctx: &mut Context, reply: Reply) -> Result<T> {
    ctx.reply = Some(reply);
    Err(Error::new_in(ErrorType::HTTPStatus(reply.status)))
}

/// A per-try timeout and the request's own cover connecting.
fn bound_connecting(peer: &mut HttpPeer, table: &PoolTable, ctx: &Context, now: Instant) -> ConnectBound {
    let request = ctx.headers_by.min(ctx.complete_by).since(now);
    let per_try = ctx.attempt.try_by.since(now);
    let (limit, bound) = [
        (table.limits.connect, ConnectBound::Connect),
        (per_try, ConnectBound::PerTry),
        (request, ConnectBound::Request),
    ]
    .into_iter()
    .min_by_key(|(limit, _)| *limit)
    .unwrap_or((table.limits.connect, ConnectBound::Connect));
    peer.options.connection_timeout = Some(limit);
    peer.options.total_connection_timeout = Some(limit);
    bound
}

/// Whether the endpoint has closed a pooled connection, without reading from it. Needed where the runtime that
/// watches the connection is another thread's: it may not have come round to it yet.
fn is_dead(socket: RawFd) -> bool {
    let peeked = recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT);
    !matches!(peeked, Err(Errno::EAGAIN))
}
