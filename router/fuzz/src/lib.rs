//! What the fuzz target `router_match` does with its input.
//!
//! Purpose: look a request up in a router, and compare with a scan over everything. Inputs: lines of text, each
//! beginning with a letter that says what it is (see [`router_match`]). Outputs: none; it panics where router
//! and scan differ.

#![allow(clippy::unwrap_used, reason = "a fuzz target ends by panicking")]

#[path = "../../tests/scan/mod.rs"]
mod scan;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use scan::{Request, look_up, scan};
use understudy_conf::{
    Action, Attachment, Gateway, GatewayName, HeaderMatch, Hostname, HttpMatch, HttpMethod, Listener,
    ListenerName, PathMatch, Protocol, QueryMatch, Route, RouteKind, RouteName, Rule, State, StringMatch,
};
use understudy_router::Router;

const SOCKET: &str = "127.0.0.1:80";
/// No more lines are read, so that time goes into different inputs rather than long ones.
const MAX_LINES: usize = 64;

/// Builds a router from lines, and looks up the requests among them:
///
/// `l HOST` a listener (no host: of every host) · `r HOST…` a route on the newest listener · `u` a rule ·
/// `p PREFIX`, `e PATH`, `x REGEX` a match by path · `m METHOD`, `h NAME=VALUE`, `H NAME=REGEX`, `q NAME=VALUE`,
/// `Q NAME=REGEX` further conditions of it · `? METHOD HOST TARGET` a request · `+ NAME=VALUE` a header of it.
pub fn router_match(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut input = Input::default();
    for line in text.lines().take(MAX_LINES) {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        // A line that says nothing sensible is left out.
        let _ = input.take_line(kind, rest);
    }
    let state = input.state();
    let (router, degraded) = Router::build(&state);
    assert_eq!(degraded, Vec::<String>::new());
    for request in &input.requests {
        assert_eq!(look_up(&router, request), scan(&state, request), "{request:?}");
    }
}

#[derive(Default)]
struct Input {
    listeners: Vec<Listener>,
    routes: Vec<Route>,
    requests: Vec<Request>,
}

impl Input {
    fn take_line(&mut self, kind: &str, rest: &str) -> Option<()> {
        match kind {
            "l" => {
                let hostname = if rest.is_empty() { None } else { Some(Hostname::new(rest).ok()?) };
                // Listeners of one port have hostnames of their own.
                if self.listeners.iter().all(|listener| listener.hostname != hostname) {
                    self.listeners.push(listener(self.listeners.len(), hostname));
                }
            }
            "r" => {
                let hostnames: Result<_, _> = rest.split_whitespace().map(Hostname::new).collect();
                let listener = self.listeners.last()?.name.clone();
                self.routes.push(route(self.routes.len(), listener, hostnames.ok()?));
            }
            "u" => self.routes.last_mut()?.rules.push(rule()),
            "p" => self.add_match(PathMatch::Prefix(absolute(rest)?))?,
            "e" => self.add_match(PathMatch::Exact(absolute(rest)?))?,
            "x" => self.add_match(PathMatch::Regex(regex(rest)?))?,
            "m" => self.newest_match()?.method = Some(HttpMethod(rest.to_owned())),
            "h" | "H" => {
                let (name, value) = condition(kind == "H", rest)?;
                // Of several conditions on one header the first counts, and the controller leaves the others out.
                let headers = &mut self.newest_match()?.headers;
                let name: HeaderName = name.parse().ok()?;
                if headers.iter().all(|header| header.name != name.as_str()) {
                    headers.push(HeaderMatch { name: name.to_string(), value });
                }
            }
            "q" | "Q" => {
                let (name, value) = condition(kind == "Q", rest)?;
                let query = &mut self.newest_match()?.query;
                if query.iter().all(|wanted| wanted.name != name) {
                    query.push(QueryMatch { name: name.to_owned(), value });
                }
            }
            "?" => self.requests.push(request(rest)?),
            "+" => {
                let (name, value) = rest.split_once('=')?;
                let value = HeaderValue::from_str(value).ok()?;
                self.requests.last_mut()?.headers.append(name.parse::<HeaderName>().ok()?, value);
            }
            _ => return None,
        }
        Some(())
    }

    fn add_match(&mut self, path: PathMatch) -> Option<()> {
        let added = HttpMatch { path, method: None, headers: vec![], query: vec![] };
        self.routes.last_mut()?.rules.last_mut()?.matches.push(added);
        Some(())
    }

    fn newest_match(&mut self) -> Option<&mut HttpMatch> {
        self.routes.last_mut()?.rules.last_mut()?.matches.last_mut()
    }

    fn state(&self) -> State {
        let gateway = Gateway { name: GatewayName::new("g").unwrap(), listeners: self.listeners.clone() };
        State {
            gateways: [(gateway.name.clone(), Arc::new(gateway))].into(),
            routes: self.routes.iter().map(|route| (route.name.clone(), Arc::new(route.clone()))).collect(),
            ..State::default()
        }
    }
}

fn listener(number: usize, hostname: Option<Hostname>) -> Listener {
    Listener {
        name: ListenerName::new(format!("l{number}")).unwrap(),
        port: 80,
        bind: vec![SOCKET.parse().unwrap()],
        protocol: Protocol::Http,
        hostname,
        tls: None,
    }
}

fn route(number: usize, listener: ListenerName, hostnames: Vec<Hostname>) -> Route {
    Route {
        // The order of the names is not the order in which they came.
        name: RouteName::new(format!("httproute/n{}/r{number}", number % 3)).unwrap(),
        kind: RouteKind::Http,
        created: (number % 2) as i64,
        attachments: vec![Attachment { gateway: GatewayName::new("g").unwrap(), listener, hostnames }],
        rules: Vec::new(),
    }
}

fn rule() -> Rule {
    Rule {
        name: None,
        matches: vec![],
        filters: vec![],
        timeouts: None,
        retry: None,
        action: Action::Respond(200),
    }
}

fn absolute(path: &str) -> Option<String> {
    path.starts_with('/').then(|| path.to_owned())
}

/// Expressions as the controller lets them through.
fn regex(pattern: &str) -> Option<String> {
    let whole = format!("^(?:{pattern})$");
    let valid = regex::Regex::new(pattern).is_ok()
        && regex::RegexBuilder::new(&whole).size_limit(1 << 16).build().is_ok();
    valid.then(|| pattern.to_owned())
}

fn condition(is_regex: bool, text: &str) -> Option<(&str, StringMatch)> {
    let (name, value) = text.split_once('=')?;
    let value =
        if is_regex { StringMatch::Regex(regex(value)?) } else { StringMatch::Exact(value.to_owned()) };
    (!name.is_empty()).then_some((name, value))
}

fn request(text: &str) -> Option<Request> {
    let mut parts = text.splitn(3, ' ');
    let (method, host, target) = (parts.next()?, parts.next()?, parts.next()?);
    // What HTTP and its parser let through.
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    (is_host && path.starts_with('/')).then(|| Request {
        socket: SOCKET.parse().unwrap(),
        host: host.to_owned(),
        path: path.to_owned(),
        query: query.map(str::to_owned),
        method: method.to_owned(),
        headers: HeaderMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_build_routers_that_find_something() {
        for entry in std::fs::read_dir("seeds").unwrap() {
            let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            router_match(text.as_bytes());
            let mut input = Input::default();
            for line in text.lines() {
                let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
                assert!(input.take_line(kind, rest).is_some(), "{line}");
            }
            let (router, _) = Router::build(&input.state());
            assert!(input.requests.iter().any(|request| look_up(&router, request).is_some()), "{text}");
        }
    }
}
