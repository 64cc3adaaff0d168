//! The answer on its way out: what it says of the endpoint, what is changed, and the answers of our own.

use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LOCATION, SET_COOKIE, TRANSFER_ENCODING};
use pingora_core::protocols::http::HttpTask;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use understudy_engine::{Exchange, Failure, GrpcStatus, Instant};

use super::Service;
use super::context::Context;
use super::grpc;
use super::headers::Headers;
use super::reply::Reply;
use crate::check::IMMEDIATE_FAIL;

/// Rule B2: the name that the tools of Envoy's users look for.
const X_ENVOY_OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

impl Service {
    /// The answer's headers arrived: a failing status counts at once, and may be turned down for another attempt.
    pub(super) fn judge(
        &self,
        session: &Session,
        response: &ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let now = self.clock.now();
        if response.status.is_informational() {
            if response.status == http::StatusCode::SWITCHING_PROTOCOLS && session.is_upgrade_req() {
                // The endpoint did what it was asked; the upgraded connection lives on, up to the limit of all streams.
                ctx.attempt.upgraded = true;
                match &ctx.attempt.armed {
                    Some(armed) if ctx.stream_by != Instant::NEVER => armed.keep_until(ctx.stream_by),
                    _ => ctx.attempt.armed = None,
                }
                ctx.attempt.flowing_since = Some(now);
                if let Some(exchange) = &mut ctx.exchange {
                    exchange.finished(now);
                }
            }
            return Ok(());
        }
        if let (Some(table), Some(exchange)) =
            (ctx.rule.as_ref().and_then(|rule| rule.pool.as_ref()), &ctx.exchange)
            && table.checked
            && response.headers.contains_key(IMMEDIATE_FAIL)
        {
            exchange.fails_check(now);
        }
        let status = response.status.as_u16();
        let of_call = if ctx.is_grpc { grpc::status_of(response) } else { None };
        let failure = match of_call {
            Some(status) if status != GrpcStatus::OK => Some(Failure::Grpc(status)),
            _ => (status >= 400).then_some(Failure::Status(status)),
        };
        if let Some(failure) = failure
            && ctx.exchange.is_some()
            && self.decide(session, ctx, failure)
        {
            ctx.attempt.turned_down = true;
            return Err(Error::new_up(ErrorType::HTTPStatus(status)));
        }
        ctx.reply = None;
        ctx.attempt.flowing_since = Some(now);
        if let Some(armed) = &ctx.attempt.armed {
            armed.touch_until(now, ctx.complete_by);
        }
        Ok(())
    }

    /// A piece of the answer's body. A stream that has flowed for an interval counts as success.
    pub(super) fn flow(&self, ended: bool, ctx: &mut Context) {
        let now = self.clock.now();
        if ended {
            ctx.attempt.answer_ended = true;
            // Before the client has the last of it: its next request sees the verdict.
            if let Some(exchange) = &mut ctx.exchange {
                exchange.finished(now);
            }
            if ctx.body_ended || ctx.attempt.upgraded {
                // From here on the connection is no longer this request's.
                ctx.attempt.armed = None;
            }
            return;
        }
        if let Some(armed) = &ctx.attempt.armed {
            armed.touch(now);
        }
        if let (Some(since), Some(exchange)) = (ctx.attempt.flowing_since, ctx.exchange.as_mut())
            && exchange.flow_interval().is_some_and(|interval| now.since(since) >= Duration::from(interval))
        {
            exchange.finished(now);
            ctx.attempt.flowing_since = Some(Instant::NEVER);
        }
    }

    /// Changes the answer for the client.
    pub(super) fn change_response(
        &self,
        request: &RequestHeader,
        response: &mut ResponseHeader,
        ctx: &Context,
    ) {
        let Some(rule) = &ctx.rule else { return };
        let of_ref =
            ctx.exchange.as_ref().and_then(Exchange::current).and_then(|(member, _)| {
                rule.pool.as_ref().and_then(|pool| pool.filters.get(member.reference))
            });
        // The reference is nearer to the endpoint, so its filters see the answer first.
        for filters in [of_ref, Some(&rule.rule.filters)].into_iter().flatten() {
            if !filters.is_empty() {
                filters.apply_response(&mut Headers(response));
            }
        }
        // Last, so that nothing undoes what browsers are told.
        if let Some(cors) = rule.rule.filters.cors() {
            cors.apply(&request.headers, &mut Headers(response));
        }
    }

    /// Answers with a status and a short text.
    pub(super) async fn answer(&self, session: &mut Session, ctx: &mut Context, reply: Reply) -> Result<()> {
        ctx.reply = Some(reply);
        if grpc::is_call(session.req_header()) {
            return self.answer_call(session, ctx, reply).await;
        }
        let mut header = ResponseHeader::build(reply.status, Some(4))?;
        header.insert_header(CONTENT_LENGTH, reply.text.len())?;
        if !reply.text.is_empty() {
            header.insert_header(CONTENT_TYPE, "text/plain")?;
        }
        if reply == Reply::OVERFLOW {
            header.insert_header(X_ENVOY_OVERLOADED, "true")?;
        }
        self.change_response(session.req_header(), &mut header, ctx);
        write(session, header, reply.text).await
    }

    /// Answers a browser that asks what a page of another origin may do.
    pub(super) async fn preflight(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        ctx.reply = Some(Reply { status: 200, flags: &[], text: "" });
        let mut header = ResponseHeader::build(200, Some(8))?;
        header.insert_header(CONTENT_LENGTH, 0)?;
        if let Some(cors) = ctx.rule.as_ref().and_then(|rule| rule.rule.filters.cors()) {
            cors.apply_preflight(&session.req_header().headers, &mut Headers(&mut header));
        }
        self.change_response(session.req_header(), &mut header, ctx);
        write(session, header, "").await
    }

    /// Answers a call of gRPC as its clients expect it: 200, and what went wrong in the same headers.
    async fn answer_call(&self, session: &mut Session, ctx: &mut Context, reply: Reply) -> Result<()> {
        let mut header = grpc::trailers_only(reply)?;
        if reply == Reply::OVERFLOW {
            header.insert_header(X_ENVOY_OVERLOADED, "true")?;
        }
        self.change_response(session.req_header(), &mut header, ctx);
        // Logged and counted by what happened.
        ctx.meant_status = Some(reply.status);
        if !session.is_http2() {
            header.insert_header(CONTENT_LENGTH, 0)?;
        }
        write(session, header, "").await
    }

    /// Makes the endpoint's answer the gateway's.
    pub(super) fn finish_response(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        speak_for_ourselves(session, response);
        self.change_response(session.req_header(), response, ctx);
        if let Some(cookie) = ctx.set_cookie.take() {
            response.append_header(SET_COOKIE, cookie)?;
        }
        Ok(())
    }

    /// Answers with a redirect.
    pub(super) async fn redirect(
        &self,
        session: &mut Session,
        ctx: &mut Context,
        status: u16,
        location: &str,
    ) -> Result<()> {
        ctx.reply = Some(Reply { status, flags: &[], text: "" });
        let mut header = ResponseHeader::build(status, Some(3))?;
        header.insert_header(LOCATION, location)?;
        header.insert_header(CONTENT_LENGTH, 0)?;
        self.change_response(session.req_header(), &mut header, ctx);
        write(session, header, "").await
    }
}

/// The answer's version is the gateway's own (RFC 9110, section 2.5), and a client of HTTP/1.0 gets no chunks:
/// its answer ends with the connection (RFC 9112, section 6.1).
fn speak_for_ourselves(session: &mut Session, response: &mut ResponseHeader) {
    if response.version < Version::HTTP_11 {
        response.set_version(Version::HTTP_11);
    }
    if session.req_header().version < Version::HTTP_11 && response.remove_header(&TRANSFER_ENCODING).is_some()
    {
        session.set_keepalive(None);
    }
}

async fn write(session: &mut Session, header: ResponseHeader, text: &'static str) -> Result<()> {
    let without_body = text.is_empty() || session.req_header().method == http::Method::HEAD;
    if without_body && session.is_http2() {
        // Nothing but this ends the stream with its headers, which is what makes them a call's whole answer.
        session.write_response_tasks(vec![HttpTask::Header(Box::new(header), true)]).await?;
        return Ok(());
    }
    session.write_response_header(Box::new(header), without_body).await?;
    if !without_body {
        session.write_response_body(Some(Bytes::from_static(text.as_bytes())), true).await?;
    }
    Ok(())
}
