//! The request on its way in: which rule, and what is changed before it goes on.

use std::net::SocketAddr;

use http::header::{CONNECTION, HOST, HeaderName, HeaderValue, UPGRADE};
use pingora_core::protocols::l4::socket::SocketAddr as PingoraAddr;
use pingora_core::protocols::tls::SslDigest;
use pingora_error::{ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use understudy_conf::{Action, Protocol};
use understudy_engine::Exchange;
use understudy_router::{CompiledCors, RequestParts, RuleMatch};

use super::Service;
use super::context::Context;
use super::headers::{Headers, first_of, set_own};
use super::reply::Reply;
use super::request_id::{RequestId, X_REQUEST_ID, own_request_id};
use crate::decimal::push_ip;
use crate::listeners::{proven_demand, server_name};
use crate::world::{Limits, World};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// As text: Pingora makes a new text of a name that it is given as one.
const X_FORWARDED_HOST: &str = "x-forwarded-host";

/// What the first phase found out.
pub(super) enum Found {
    /// The request goes to a pool.
    Forward,
    /// It is answered here.
    Reply(Reply),
    /// It is answered with a redirect.
    Redirect { status: u16, location: String },
    /// It is a browser's question, and the rule has the answer.
    Preflight,
}

impl Service {
    /// Finds the rule of a request and begins its way through the pool.
    pub(super) fn route(&self, session: &Session, ctx: &mut Context, has_body: bool) -> Found {
        let Some(bound) = session.server_addr().and_then(inet) else { return Found::Reply(Reply::NO_ROUTE) };
        let header = session.req_header();
        let Some(host) = host_of(header) else { return Found::Reply(Reply::BAD_REQUEST) };
        let world = self.world.load();
        let tls = tls_of(session);
        if let Some(tls) = tls
            && is_misdirected(&world, &bound, tls, host)
        {
            return Found::Reply(Reply::MISDIRECTED);
        }
        let parts = RequestParts {
            host,
            path: header.uri.path(),
            query: header.uri.query(),
            method: header.method.as_str(),
            headers: &header.headers,
        };
        let Some(found) = world.router.socket(&bound).and_then(|table| table.lookup(&parts)) else {
            return Found::Reply(Reply::NO_ROUTE);
        };
        let Some(Some(table)) = world.rules.get(found.rule.id) else { return Found::Reply(Reply::INTERNAL) };
        // A socket that became another kind of listener's still has connections of the kind before.
        if (found.listener.protocol == Protocol::Https) != tls.is_some() {
            return Found::Reply(Reply::MISDIRECTED);
        }
        // And one that asks for more now than when the client connected must be connected to anew.
        if let Some(demand) = &found.listener.client_demand
            && tls.and_then(proven_demand) != Some(demand)
        {
            return Found::Reply(Reply::RECONNECT);
        }
        ctx.port = found.listener.port;
        ctx.matched_prefix = found.matched_prefix.map(str::len);
        ctx.rule = Some(table.clone());
        if table.rule.filters.cors().is_some()
            && !matches!(table.rule.action, Action::Respond(_))
            && CompiledCors::is_preflight(&header.method, &header.headers)
        {
            return Found::Preflight;
        }
        match &table.rule.action {
            Action::Respond(status) => Found::Reply(Reply::of_rule(*status)),
            Action::Redirect(redirect) => redirect_of(redirect, &found, header, host),
            Action::Forward(_) => {
                let Some(pool) = &table.pool else { return Found::Reply(Reply::of_rule(500)) };
                set_limits(ctx, &pool.limits, has_body);
                if let Some(hash) = &pool.hash {
                    let client = session.client_addr().and_then(inet).map(|client| client.ip());
                    let hashed = hash.hash(client, &header.headers, header.uri.query());
                    (ctx.hash, ctx.set_cookie) = (hashed.hash, hashed.set_cookie);
                }
                ctx.exchange = Some(Exchange::begin(pool.pool.clone(), ctx.started));
                Found::Forward
            }
        }
    }

    /// Changes the request for the endpoint that was chosen.
    pub(super) fn change_request(
        &self,
        session: &Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let id = if own_request_id(request).is_none() {
            // All attempts of a request have the same.
            Some(ctx.request_id.get_or_insert_with(RequestId::new).to_value()?)
        } else {
            None
        };
        let proto = HeaderValue::from_static(scheme(tls_of(session).is_some()));
        let own = [
            forwarded_for(session, request)?.map(|clients| (&X_FORWARDED_FOR, clients)),
            Some((&X_FORWARDED_PROTO, proto)),
            id.map(|id| (&X_REQUEST_ID, id)),
        ];
        set_own(request, own)?;
        // An upgraded connection is never used again anyway.
        if ctx.attempt.last_on_connection && !request.headers.contains_key(UPGRADE) {
            request.insert_header(CONNECTION, "close")?;
        }
        let Some(rule) = &ctx.rule else { return Ok(()) };
        let prefix = ctx.matched_prefix.map(|length| &session.req_header().uri.path()[..length]);
        let of_ref =
            ctx.exchange.as_ref().and_then(Exchange::current).and_then(|(member, _)| {
                rule.pool.as_ref().and_then(|pool| pool.filters.get(member.reference))
            });
        for filters in [Some(&rule.rule.filters), of_ref].into_iter().flatten() {
            if filters.is_empty() {
                continue;
            }
            filters.apply_request(&mut Headers(request));
            rewrite(request, filters, prefix)?;
        }
        Ok(())
    }
}

/// The request's limits run from here; where there is none, the answer's headers have a limit that runs from the
/// end of the request's body.
fn set_limits(ctx: &mut Context, limits: &Limits, has_body: bool) {
    if let Some(request) = limits.request {
        ctx.complete_by = ctx.started.after(request);
        ctx.headers_by = ctx.complete_by;
    } else if let Some(headers) = limits.headers.filter(|_| !has_body) {
        ctx.headers_by = ctx.started.after(headers);
    }
    if let Some(longest) = limits.max_stream {
        ctx.stream_by = ctx.started.after(longest);
        ctx.complete_by = ctx.complete_by.min(ctx.stream_by);
        ctx.headers_by = ctx.headers_by.min(ctx.stream_by);
    }
    ctx.body_ended = !has_body;
}

pub(super) fn inet(address: &PingoraAddr) -> Option<SocketAddr> {
    address.as_inet().copied()
}

/// The host that the request names; empty for HTTP/1.0 without one. `None`: not readable.
pub(super) fn host_of(header: &RequestHeader) -> Option<&str> {
    if let Some(authority) = header.uri.authority() {
        return Some(authority.as_str());
    }
    match first_of(&header.headers, &HOST) {
        Some(host) => host.to_str().ok(),
        None => Some(""),
    }
}

/// What is known of the client's TLS; `None` for clear text.
fn tls_of(session: &Session) -> Option<&SslDigest> {
    session.digest()?.ssl_digest.as_deref()
}

/// Whether a request came over a connection that was made for another listener than the one that it names: with
/// another certificate, and perhaps other demands on clients.
fn is_misdirected(world: &World, bound: &SocketAddr, tls: &SslDigest, host: &str) -> bool {
    let name = server_name(tls).unwrap_or("");
    // Most requests name what their connection named.
    let without_port = host.rsplit_once(':').map_or(host, |(name, _)| name);
    if without_port.eq_ignore_ascii_case(name) {
        return false;
    }
    let Some(table) = world.router.socket(bound) else { return false };
    // What no listener serves is not found; it would not be on another connection either.
    table.listener(host).is_some_and(|listener| Some(listener) != table.listener(name))
}

fn redirect_of(
    redirect: &understudy_conf::Redirect,
    found: &RuleMatch<'_>,
    header: &RequestHeader,
    host: &str,
) -> Found {
    let path = header.uri.path_and_query().map_or("/", |path| path.as_str());
    let (status, location) = understudy_router::redirect_location(
        redirect,
        scheme(found.listener.protocol == Protocol::Https),
        host,
        found.listener.port,
        path,
        found.matched_prefix,
    );
    Found::Redirect { status, location }
}

fn scheme(is_tls: bool) -> &'static str {
    if is_tls { "https" } else { "http" }
}

/// X-Forwarded-For, which gains the client.
fn forwarded_for(session: &Session, request: &RequestHeader) -> Result<Option<HeaderValue>> {
    let Some(client) = session.client_addr().and_then(inet) else { return Ok(None) };
    let mut text = Vec::with_capacity(48);
    if first_of(&request.headers, &X_FORWARDED_FOR).is_some() {
        for before in request.headers.get_all(&X_FORWARDED_FOR) {
            if before.to_str().is_ok() {
                text.extend_from_slice(before.as_bytes());
                text.extend_from_slice(b", ");
            }
        }
    }
    push_ip(&mut text, client.ip());
    HeaderValue::try_from(text).or_err(ErrorType::InvalidHTTPHeader, "x-forwarded-for").map(Some)
}

fn rewrite(
    request: &mut RequestHeader,
    filters: &understudy_router::CompiledFilters,
    prefix: Option<&str>,
) -> Result<()> {
    let Some(rewrite) = filters.url_rewrite() else { return Ok(()) };
    if let Some(host) = rewrite.hostname() {
        if let Some(original) = request.headers.get(HOST).cloned() {
            request.insert_header(X_FORWARDED_HOST, original)?;
        }
        request.insert_header(HOST, host.clone())?;
    }
    let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
    if let Some(path) = rewrite.rewrite_path(path, prefix)
        && let Ok(uri) = http::Uri::try_from(path)
    {
        request.set_uri(uri);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RequestHeader {
        RequestHeader::build("GET", b"/", None).unwrap()
    }

    #[test]
    fn the_host_comes_from_the_target_or_the_header() {
        let mut with = request();
        with.insert_header(HOST, "www.example.com:80").unwrap();
        assert_eq!(host_of(&with), Some("www.example.com:80"));
        assert_eq!(host_of(&request()), Some(""));
        let mut absolute = request();
        absolute.set_uri("http://a.example/x".parse().unwrap());
        assert_eq!(host_of(&absolute), Some("a.example"));
    }
}
