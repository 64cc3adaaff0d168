//! A look-up by a scan over everything, written straight from the specification. What the router must equal,
//! in the property tests and under the fuzzer.

use std::cmp::Reverse;
use std::net::SocketAddr;

use http::HeaderMap;
use understudy_conf::{Hostname, HttpMatch, Listener, PathMatch, State, StringMatch};
use understudy_router::{RequestParts, Router};

/// A request as a test writes it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) socket: SocketAddr,
    pub(crate) host: String,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) method: String,
    pub(crate) headers: HeaderMap,
}

/// The label of the rule that a request belongs to, and the prefix that fitted.
pub(crate) type Found = Option<(String, Option<String>)>;

pub(crate) fn scan(state: &State, request: &Request) -> Found {
    let host = hostname(&request.host);
    let listeners =
        state.gateways.values().flat_map(|gateway| gateway.listeners.iter().map(move |l| (gateway, l)));
    let (gateway, listener): (_, &Listener) = listeners
        .filter(|(_, listener)| listener.bind.contains(&request.socket))
        .filter(|(_, listener)| host_fits(listener.hostname.as_ref(), &host))
        .max_by_key(|(_, listener)| specificity(listener.hostname.as_ref()))?;
    let mut candidates = Vec::new();
    for route in state.routes.values() {
        for attachment in &route.attachments {
            if attachment.gateway != gateway.name || attachment.listener != listener.name {
                continue;
            }
            let hostnames: Vec<Option<&Hostname>> = match attachment.hostnames.is_empty() {
                true => vec![None],
                false => attachment.hostnames.iter().map(Some).collect(),
            };
            for hostname in hostnames.into_iter().filter(|hostname| host_fits(*hostname, &host)) {
                for (rule_index, rule) in route.rules.iter().enumerate() {
                    for (match_index, http_match) in rule.matches.iter().enumerate() {
                        if fits(http_match, request) {
                            let rank = (
                                specificity(hostname),
                                path_rank(&http_match.path),
                                http_match.method.is_some(),
                                http_match.headers.len(),
                                http_match.query.len(),
                                Reverse(if route.created == 0 { i64::MAX } else { route.created }),
                                Reverse((&route.name, rule_index, match_index)),
                            );
                            candidates.push((rank, http_match));
                        }
                    }
                }
            }
        }
    }
    let (rank, http_match) = candidates.into_iter().max_by(|(a, _), (b, _)| a.cmp(b))?;
    let Reverse((route, rule_index, _)) = rank.6;
    let prefix = match &http_match.path {
        PathMatch::Prefix(prefix) => Some(prefix.trim_end_matches('/').to_owned()),
        _ => None,
    };
    Some((format!("{route}/rule/{rule_index}"), prefix))
}

/// A host in lower case, without its port (digits after the only colon: RFC 9110 section 7.2) and without one
/// trailing dot. What is no host with a port stays whole, and fits no hostname.
fn hostname(host: &str) -> String {
    let with_port = regex::Regex::new("^([^:]*):[0-9]*$").unwrap();
    let name = with_port.replace(host, "$1");
    name.strip_suffix('.').unwrap_or(&name).to_lowercase()
}

/// Exact before wildcard before none, then the longer one.
fn specificity(hostname: Option<&Hostname>) -> (usize, usize) {
    match hostname {
        None => (0, 0),
        Some(name) if name.as_str().starts_with('*') => (1, name.as_str().len()),
        Some(name) => (2, name.as_str().len()),
    }
}

fn host_fits(hostname: Option<&Hostname>, host: &str) -> bool {
    hostname.is_none_or(|hostname| match hostname.as_str().strip_prefix('*') {
        Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
        None => hostname.as_str() == host,
    })
}

fn path_rank(path: &PathMatch) -> (usize, usize) {
    match path {
        PathMatch::Exact(_) => (2, 0),
        PathMatch::Regex(pattern) => (1, pattern.len()),
        PathMatch::Prefix(prefix) => (0, prefix.trim_end_matches('/').len()),
    }
}

fn fits(http_match: &HttpMatch, request: &Request) -> bool {
    let path = match &http_match.path {
        PathMatch::Exact(path) => *path == request.path,
        PathMatch::Regex(pattern) => whole(pattern, &request.path),
        PathMatch::Prefix(prefix) => {
            let wanted: Vec<&str> = prefix.trim_end_matches('/').split('/').collect();
            let elements: Vec<&str> = request.path.split('/').collect();
            elements.starts_with(&wanted)
        }
    };
    path && http_match.method.as_ref().is_none_or(|method| method.0 == request.method)
        && http_match.headers.iter().all(|header| {
            // Values are bytes; not all are text.
            let values: Vec<&[u8]> =
                request.headers.get_all(&header.name).iter().map(|value| value.as_bytes()).collect();
            !values.is_empty() && bytes_fit(&header.value, &values.join(&b","[..]))
        })
        && http_match.query.iter().all(|wanted| {
            let query = request.query.clone().unwrap_or_default();
            let value = query.split('&').find_map(|pair| {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                (name == wanted.name).then(|| value.to_owned())
            });
            value.is_some_and(|value| text_fits(&wanted.value, &value))
        })
}

fn text_fits(text: &StringMatch, value: &str) -> bool {
    bytes_fit(text, value.as_bytes())
}

fn bytes_fit(text: &StringMatch, value: &[u8]) -> bool {
    match text {
        StringMatch::Exact(text) => text.as_bytes() == value,
        StringMatch::Regex(pattern) => {
            regex::bytes::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(value)
        }
    }
}

fn whole(pattern: &str, text: &str) -> bool {
    regex::Regex::new(&format!("^(?:{pattern})$")).unwrap().is_match(text)
}

/// What the router says.
pub(crate) fn look_up(router: &Router, request: &Request) -> Found {
    let parts = RequestParts {
        host: &request.host,
        path: &request.path,
        query: request.query.as_deref(),
        method: &request.method,
        headers: &request.headers,
    };
    let found = router.socket(&request.socket)?.lookup(&parts)?;
    Some((found.rule.label.to_string(), found.matched_prefix.map(str::to_owned)))
}
