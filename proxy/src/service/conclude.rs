//! The end of a request: the answer to a failure, the outcome, the metrics and the log.

use std::time::{Duration, SystemTime};

use http::header::USER_AGENT;
use pingora_error::{Error, ErrorSource, ErrorType};
use pingora_proxy::{FailToProxy, Session};
use understudy_engine::Exchange;

use super::Service;
use super::attempt::has_answer;
use super::context::Context;
use super::headers::first_of;
use super::reply::Reply;
use super::request::inet;
use super::request_id::RequestId;
use crate::access_log::{Flag, Flags, Record};
use crate::metrics::AttemptOutcome;

/// How long the rest of a request's body is read after its answer.
const DRAIN: Duration = Duration::from_secs(2);

impl Service {
    /// Answers where no endpoint did, if the client can still be answered.
    pub(super) async fn answer_failure(
        &self,
        session: &mut Session,
        error: &Error,
        ctx: &mut Context,
    ) -> FailToProxy {
        if ctx.answered {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        }
        let reply = match (ctx.reply, error.esource()) {
            (Some(reply), _) => reply,
            (None, ErrorSource::Downstream) => of_client(error),
            (None, _) => Reply::INTERNAL,
        };
        ctx.reply = Some(reply);
        ctx.cause.get_or_insert_with(|| error.etype().as_str().to_owned());
        if has_answer(session) {
            if session.is_http2() && *error.esource() != ErrorSource::Downstream {
                // The answer is cut. Otherwise the client would read that the request was cancelled.
                session.as_downstream_mut().shutdown_with_reason(h2::Reason::INTERNAL_ERROR);
            }
        } else if reply.status > 0 {
            // What is left of the request's body is not known, so the connection ends with the answer.
            session.set_keepalive(None);
            if let Err(error) = self.answer(session, ctx, reply).await {
                log::debug!("the client went away before its answer: {error}");
            }
        }
        FailToProxy { error_code: reply.status, can_reuse_downstream: false }
    }

    /// Counts the outcome and the request, and logs it.
    pub(super) fn conclude(&self, session: &Session, error: Option<&Error>, ctx: &mut Context) {
        let now = self.clock.now();
        ctx.attempt.armed = None;
        if error.is_none()
            && let Some(exchange) = &mut ctx.exchange
        {
            exchange.finished(now);
        }
        let written = || session.response_written().map_or(0, |response| response.status.as_u16());
        let status = ctx.meant_status.unwrap_or_else(written);
        let duration = now.since(ctx.started);
        match &ctx.rule {
            Some(rule) => {
                rule.metrics.count_request(status, duration);
                if let Some(pool) = rule.pool.as_ref().filter(|_| ctx.exchange.is_some()) {
                    count_last_attempt(pool, error, ctx, status);
                }
            }
            None => self.unmatched.count_request(status, duration),
        }
        if self.access_log.is_on() {
            self.log(session, ctx, status, error, duration);
        }
        // What is left to do on the client's connection needs no room in the pool.
        ctx.exchange = None;
    }

    fn log(&self, session: &Session, ctx: &Context, status: u16, error: Option<&Error>, duration: Duration) {
        let header = session.req_header();
        let mut flags = Flags::default();
        for flag in ctx.reply.iter().flat_map(|reply| reply.flags) {
            flags.insert(*flag);
        }
        if error.is_some_and(|error| *error.esource() == ErrorSource::Downstream) {
            flags.insert(Flag::DownstreamEnded);
        }
        let exchange = ctx.exchange.as_ref();
        let (member, choice) = exchange.and_then(Exchange::current).unzip();
        let table = ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref());
        let backend = member.zip(exchange).and_then(|(member, exchange)| {
            exchange.pool().spec().refs.get(member.reference).map(|reference| &*reference.origin)
        });
        self.access_log.log(&Record {
            time: SystemTime::now().checked_sub(duration).unwrap_or(SystemTime::UNIX_EPOCH),
            method: header.method.as_str(),
            authority: super::request::host_of(header).unwrap_or_default(),
            path: header.uri.path_and_query().map_or("", |path| path.as_str()),
            protocol: match header.version {
                http::Version::HTTP_10 => "HTTP/1.0",
                http::Version::HTTP_2 => "HTTP/2",
                _ => "HTTP/1.1",
            },
            status,
            bytes_received: session.body_bytes_read() as u64,
            bytes_sent: session.body_bytes_sent() as u64,
            duration,
            client: session.client_addr().and_then(inet),
            route: ctx.rule.as_ref().map(|rule| &*rule.rule.label),
            priority: member.map(|member| member.priority),
            backend,
            endpoint: member.map(|member| &member.spec.identity.address),
            place: table.zip(choice).and_then(|(table, choice)| table.places.get(choice.member)),
            attempts: exchange.map_or(0, Exchange::attempts),
            retries: exchange.map_or(0, Exchange::retries),
            flags,
            cause: ctx.cause.as_deref(),
            request_id: ctx
                .request_id
                .as_ref()
                .map(RequestId::as_str)
                .or_else(|| super::request_id::own_request_id(header)),
            user_agent: first_of(&header.headers, &USER_AGENT).and_then(|agent| agent.to_str().ok()),
        });
    }
}

/// Where the answer came before the end of the request's body, the connection ends with it. Closing while the client
/// still sends would reset the connection, and the answer could be lost with it: so this reads on for a moment.
pub(super) async fn drain(session: &mut Session) {
    if session.was_upgraded() || session.is_body_done() {
        return;
    }
    session.set_total_drain_timeout(Some(DRAIN));
    if let Err(error) = session.drain_request_body().await {
        log::debug!("the rest of a request's body is left unread: {error}");
    }
}

/// Attempts that failed before were counted where they failed.
fn count_last_attempt(pool: &crate::world::PoolTable, error: Option<&Error>, ctx: &Context, status: u16) {
    match error {
        None if status >= 500 || ctx.attempt.counted => {}
        None => pool.metrics.count_attempt(AttemptOutcome::Success),
        Some(error) if *error.esource() == ErrorSource::Downstream && ctx.attempt.flowing_since.is_none() => {
            pool.metrics.count_attempt(AttemptOutcome::Cancelled);
        }
        Some(_) => {}
    }
}

fn of_client(error: &Error) -> Reply {
    match error.etype() {
        ErrorType::ConnectionClosed
        | ErrorType::ReadError
        | ErrorType::WriteError
        | ErrorType::WriteTimedout
        // Its stream, in HTTP/2.
        | ErrorType::H2Error => Reply { status: 0, flags: &[Flag::DownstreamEnded], text: "" },
        ErrorType::ReadTimedout => Reply { status: 408, flags: &[], text: "request timeout" },
        _ => Reply::BAD_REQUEST,
    }
}
