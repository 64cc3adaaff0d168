//! States to look requests up in.

use std::net::SocketAddr;
use std::sync::Arc;

use http::HeaderMap;
use understudy_conf::{
    Action, Attachment, Gateway, GatewayName, HeaderMatch, Hostname, HttpMatch, HttpMethod, Listener,
    ListenerName, PathMatch, Protocol, QueryMatch, Route, RouteKind, RouteName, Rule, State, StringMatch,
};
use understudy_router::{RequestParts, Router};

/// The socket that all listeners have here unless a test says otherwise.
pub(crate) const SOCKET: &str = "127.0.0.1:8080";

pub(crate) fn gateway(name: &str, listeners: Vec<Listener>) -> Gateway {
    Gateway { name: GatewayName::new(name).unwrap(), listeners }
}

pub(crate) fn listener(name: &str, hostname: Option<&str>) -> Listener {
    Listener {
        name: ListenerName::new(name).unwrap(),
        port: 80,
        bind: vec![SOCKET.parse().unwrap()],
        protocol: Protocol::Http,
        hostname: hostname.map(|name| Hostname::new(name).unwrap()),
        tls: None,
    }
}

/// A match of any request with this path.
pub(crate) fn path(path: PathMatch) -> HttpMatch {
    HttpMatch { path, method: None, headers: vec![], query: vec![] }
}

pub(crate) fn prefix(prefix: &str) -> HttpMatch {
    path(PathMatch::Prefix(prefix.to_owned()))
}

pub(crate) fn exact(exact: &str) -> HttpMatch {
    path(PathMatch::Exact(exact.to_owned()))
}

pub(crate) fn regex(regex: &str) -> HttpMatch {
    path(PathMatch::Regex(regex.to_owned()))
}

pub(crate) fn with_method(mut http_match: HttpMatch, method: &str) -> HttpMatch {
    http_match.method = Some(HttpMethod(method.to_owned()));
    http_match
}

pub(crate) fn with_header(mut http_match: HttpMatch, name: &str, value: &str) -> HttpMatch {
    let value = StringMatch::Exact(value.to_owned());
    http_match.headers.push(HeaderMatch { name: name.to_owned(), value });
    http_match
}

pub(crate) fn with_query(mut http_match: HttpMatch, name: &str, value: &str) -> HttpMatch {
    let value = StringMatch::Exact(value.to_owned());
    http_match.query.push(QueryMatch { name: name.to_owned(), value });
    http_match
}

pub(crate) fn rule(matches: Vec<HttpMatch>) -> Rule {
    Rule { name: None, matches, filters: vec![], timeouts: None, retry: None, action: Action::Respond(200) }
}

/// A route on the listener `http` of `gateway/default/eg`.
pub(crate) fn route(name: &str, hostnames: &[&str], rules: Vec<Rule>) -> Route {
    route_on("gateway/default/eg", "http", name, hostnames, rules)
}

pub(crate) fn route_on(
    gateway: &str,
    listener: &str,
    name: &str,
    hostnames: &[&str],
    rules: Vec<Rule>,
) -> Route {
    Route {
        name: RouteName::new(name).unwrap(),
        kind: RouteKind::Http,
        created: 1_700_000_000,
        attachments: vec![Attachment {
            gateway: GatewayName::new(gateway).unwrap(),
            listener: ListenerName::new(listener).unwrap(),
            hostnames: hostnames.iter().map(|name| Hostname::new(name).unwrap()).collect(),
        }],
        rules,
    }
}

pub(crate) fn state(gateways: Vec<Gateway>, routes: Vec<Route>) -> State {
    State {
        gateways: gateways.into_iter().map(|gateway| (gateway.name.clone(), Arc::new(gateway))).collect(),
        routes: routes.into_iter().map(|route| (route.name.clone(), Arc::new(route))).collect(),
        ..State::default()
    }
}

/// One gateway with one listener for every host, and these routes on it.
pub(crate) fn simple(routes: Vec<Route>) -> State {
    state(vec![gateway("gateway/default/eg", vec![listener("http", None)])], routes)
}

/// The label of the rule that a request belongs to, or `404`.
pub(crate) fn find(
    router: &Router,
    host: &str,
    target: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> String {
    find_on(router, SOCKET, host, target, method, headers)
}

pub(crate) fn find_on(
    router: &Router,
    socket: &str,
    host: &str,
    target: &str,
    method: &str,
    headers: &[(&str, &str)],
) -> String {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let socket: SocketAddr = socket.parse().unwrap();
    let parts = RequestParts { host, path, query, method, headers: &map };
    router
        .socket(&socket)
        .and_then(|table| table.lookup(&parts))
        .map_or_else(|| "404".to_owned(), |found| found.rule.label.to_string())
}
