//! Gateway API's rules of matching and precedence, one test each.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code)]
mod common;

use common::*;
use http::HeaderMap;
use understudy_conf::{Action, HttpFilter, HttpMatch, Protocol, Redirect, Route};
use understudy_router::{RequestParts, Router};

fn build(state: &understudy_conf::State) -> Router {
    let (router, degraded) = Router::build(state);
    assert_eq!(degraded, [""; 0]);
    router
}

/// One route with one rule per match.
fn rules(matches: Vec<HttpMatch>) -> Router {
    let rules = matches.into_iter().map(|http_match| rule(vec![http_match])).collect();
    build(&simple(vec![route("r", &[], rules)]))
}

#[test]
fn a_prefix_matches_whole_elements_and_its_trailing_slash_does_not_matter() {
    for text in ["/a", "/a/"] {
        let router = rules(vec![prefix(text)]);
        for (target, expected) in [
            ("/a", "r/rule/0"),
            ("/a/", "r/rule/0"),
            ("/a/b", "r/rule/0"),
            ("/a//b", "r/rule/0"),
            ("/a?q", "r/rule/0"),
            ("/ab", "404"),
            ("/", "404"),
            ("/A", "404"),
            ("//a", "404"),
            ("/%61", "404"),
            ("a", "404"),
        ] {
            assert_eq!(find(&router, "h", target, "GET", &[]), expected, "{text} {target}");
        }
    }
    let all = rules(vec![prefix("/")]);
    for target in ["/", "/a", "//", "/a/b?c", ""] {
        assert_eq!(find(&all, "h", target, "GET", &[]), "r/rule/0", "{target}");
    }
    assert_eq!(find(&all, "h", "*", "OPTIONS", &[]), "404");
}

#[test]
fn an_exact_path_comes_before_an_expression_and_that_before_the_longest_prefix() {
    let router = rules(vec![
        prefix("/"),
        prefix("/a"),
        prefix("/a/b"),
        regex("/a/.*"),
        exact("/a/x"),
        regex("/a/b.*"),
    ]);
    for (target, expected) in [
        ("/a/x", "r/rule/4"),
        ("/a/x/", "r/rule/3"),
        ("/a/y", "r/rule/3"),
        ("/a/b/c", "r/rule/5"),
        ("/a", "r/rule/1"),
        ("/b", "r/rule/0"),
    ] {
        assert_eq!(find(&router, "h", target, "GET", &[]), expected, "{target}");
    }
}

#[test]
fn the_longest_prefix_wins_and_a_shorter_one_is_tried_where_the_rest_does_not_fit() {
    let router = rules(vec![prefix("/a"), with_header(prefix("/a/b"), "x", "1"), prefix("/")]);
    assert_eq!(find(&router, "h", "/a/b/c", "GET", &[("x", "1")]), "r/rule/1");
    assert_eq!(find(&router, "h", "/a/b/c", "GET", &[]), "r/rule/0");
    assert_eq!(find(&router, "h", "/c", "GET", &[("x", "1")]), "r/rule/2");
}

#[test]
fn a_method_then_more_headers_then_more_query_parameters_win() {
    let p = || prefix("/");
    let router = rules(vec![
        p(),
        with_query(with_query(p(), "a", "1"), "b", "2"),
        with_header(p(), "x", "1"),
        with_header(with_header(p(), "x", "1"), "y", "2"),
        with_method(p(), "POST"),
        with_query(with_header(p(), "x", "1"), "a", "1"),
    ]);
    for (target, method, headers, expected) in [
        ("/", "GET", &[][..], "r/rule/0"),
        ("/?b=2&a=1", "GET", &[], "r/rule/1"),
        ("/?b=2&a=1", "GET", &[("x", "1")], "r/rule/5"),
        ("/?b=2&a=2", "GET", &[("X", "1")], "r/rule/2"),
        ("/?b=2&a=1", "GET", &[("x", "1"), ("y", "2")], "r/rule/3"),
        ("/?b=2&a=1", "POST", &[("x", "1"), ("y", "2")], "r/rule/4"),
        ("/", "post", &[], "r/rule/0"),
        ("/", "GET", &[("x", "2")], "r/rule/0"),
    ] {
        assert_eq!(find(&router, "h", target, method, headers), expected, "{target} {method} {headers:?}");
    }
}

#[test]
fn the_oldest_route_wins_a_tie_then_its_name_then_the_first_rule() {
    let aged =
        |name: &str, created: i64| Route { created, ..route(name, &[], vec![rule(vec![prefix("/")])]) };
    for (routes, expected) in [
        (vec![aged("httproute/a/a", 2), aged("httproute/b/b", 1)], "httproute/b/b/rule/0"),
        (vec![aged("httproute/a/a", 0), aged("httproute/b/b", 1)], "httproute/b/b/rule/0"),
        (vec![aged("httproute/b/a", 1), aged("httproute/a/b", 1)], "httproute/a/b/rule/0"),
        (vec![aged("httproute/a/b", 0), aged("httproute/a/a", 0)], "httproute/a/a/rule/0"),
    ] {
        assert_eq!(find(&build(&simple(routes)), "h", "/", "GET", &[]), expected);
    }
    let router = rules(vec![prefix("/a"), prefix("/a")]);
    assert_eq!(find(&router, "h", "/a", "GET", &[]), "r/rule/0");
}

#[test]
fn an_exact_host_comes_before_the_longest_wildcard_and_that_before_none() {
    let on = |name: &str, hosts: &[&str], http_match| route(name, hosts, vec![rule(vec![http_match])]);
    let router = build(&simple(vec![
        on("any", &[], prefix("/")),
        on("wide", &["*.example.com"], prefix("/")),
        on("long", &["*.b.example.com"], prefix("/")),
        on("name", &["a.b.example.com", "other.test"], prefix("/only")),
    ]));
    for (host, target, expected) in [
        ("a.b.example.com", "/only", "name/rule/0"),
        ("A.B.Example.COM.:8080", "/only", "name/rule/0"),
        ("other.test:80", "/only", "name/rule/0"),
        // Where the more specific host has no rule that fits, the less specific one is tried.
        ("a.b.example.com", "/", "long/rule/0"),
        ("x.y.b.example.com", "/only", "long/rule/0"),
        ("b.example.com", "/", "wide/rule/0"),
        ("example.com", "/", "any/rule/0"),
        ("badexample.com", "/", "any/rule/0"),
        ("", "/", "any/rule/0"),
        ("10.0.0.1", "/", "any/rule/0"),
        ("[::1]:80", "/", "any/rule/0"),
    ] {
        assert_eq!(find(&router, host, target, "GET", &[]), expected, "{host}{target}");
    }
    // A host counts more than a path: the exact path of the wider host is not looked at.
    let router = build(&simple(vec![
        on("wide", &["*.example.com"], exact("/x")),
        on("name", &["a.example.com"], prefix("/")),
    ]));
    assert_eq!(find(&router, "a.example.com", "/x", "GET", &[]), "name/rule/0");
}

#[test]
fn a_request_belongs_to_one_listener_and_to_its_routes_only() {
    let name = "gateway/default/eg";
    let listeners = vec![
        listener("any", None),
        listener("wild", Some("*.example.com")),
        listener("name", Some("a.example.com")),
    ];
    let on =
        |listener, hosts: &[&str]| route_on(name, listener, listener, hosts, vec![rule(vec![prefix("/")])]);
    let router =
        build(&state(vec![gateway(name, listeners)], vec![on("any", &[]), on("wild", &["*.example.com"])]));
    assert_eq!(find(&router, "b.example.com", "/", "GET", &[]), "wild/rule/0");
    assert_eq!(find(&router, "example.com", "/", "GET", &[]), "any/rule/0");
    // The most specific listener has no route, and no other listener takes its place.
    assert_eq!(find(&router, "a.example.com", "/", "GET", &[]), "404");
    let table = router.socket(&SOCKET.parse().unwrap()).unwrap();
    assert_eq!(table.listener("A.example.com:1").unwrap().listener.as_str(), "name");
}

#[test]
fn the_bound_socket_selects_the_gateway_before_any_hostname_does() {
    let at = |name: &str, socket: &str| {
        let mut listener = listener("http", None);
        listener.bind = vec![socket.parse().unwrap()];
        gateway(name, vec![listener])
    };
    let on = |gateway: &str, name| route_on(gateway, "http", name, &["h"], vec![rule(vec![prefix("/")])]);
    let router = build(&state(
        vec![at("g1", "127.0.0.1:80"), at("g2", "127.0.0.2:80"), at("g3", "0.0.0.0:81"), at("g4", "[::]:82")],
        vec![on("g1", "one"), on("g2", "two"), on("g3", "three"), on("g4", "four")],
    ));
    for (socket, expected) in [
        ("127.0.0.1:80", "one/rule/0"),
        ("[::ffff:127.0.0.1]:80", "one/rule/0"),
        ("127.0.0.2:80", "two/rule/0"),
        ("127.0.0.3:80", "404"),
        // A connection to a socket that is bound to all addresses has an address of its own.
        ("10.0.0.1:81", "three/rule/0"),
        ("[::1]:81", "404"),
        ("[fe80::1%7]:82", "four/rule/0"),
        ("10.0.0.1:82", "four/rule/0"),
    ] {
        assert_eq!(find_on(&router, socket, "h", "/", "GET", &[]), expected, "{socket}");
    }
}

#[test]
fn listeners_that_share_a_socket_and_a_hostname_or_belong_to_two_gateways_are_named() {
    let mut tcp = listener("tcp", None);
    tcp.protocol = Protocol::Tcp;
    let first = gateway("g1", vec![listener("a", Some("h")), listener("b", Some("h")), tcp]);
    let (router, degraded) = Router::build(&state(
        vec![first, gateway("g2", vec![listener("c", None)])],
        vec![route_on("g1", "tcp", "r", &[], vec![])],
    ));
    assert_eq!(
        degraded,
        [
            "r is attached to listener tcp of g1, which serves no HTTP: it gets nothing there",
            "listener b of g1 gets nothing on 127.0.0.1:8080: listener a has the same hostname there",
            "listener c of g2 gets nothing on 127.0.0.1:8080: the socket belongs to g1",
        ]
    );
    assert_eq!(router.socket(&SOCKET.parse().unwrap()).unwrap().listener("x"), None);
}

#[test]
fn a_rule_that_does_not_compile_answers_500_and_is_named() {
    let mut broken = rule(vec![prefix("/ok"), regex("/("), with_header(prefix("/header"), "a b", "1")]);
    broken.name = Some("mine".to_owned());
    let mut filtered = rule(vec![prefix("/filter")]);
    filtered.filters =
        vec![HttpFilter::RequestHeaders { set: vec![], add: vec![], remove: vec!["a b".to_owned()] }];
    let mut redirecting = rule(vec![prefix("/redirect")]);
    let redirect =
        Redirect { scheme: Some("ftp".to_owned()), hostname: None, port: None, path: None, status: 302 };
    redirecting.action = Action::Redirect(redirect);
    let (router, degraded) = Router::build(&simple(vec![route(
        "r",
        &[],
        vec![broken, filtered, redirecting, rule(vec![prefix("/")])],
    )]));
    assert_eq!(degraded.len(), 4, "{degraded:#?}");
    assert!(
        degraded[0].starts_with("r/rule/0 answers 500: match 1: the regular expression \"/(\""),
        "{degraded:?}"
    );
    assert!(degraded[1].starts_with("r/rule/0 answers 500: match 2: \"a b\" is no name"), "{degraded:?}");
    assert!(degraded[2].starts_with("r/rule/1 answers 500: \"a b\" is no name"), "{degraded:?}");
    assert!(
        degraded[3].starts_with("r/rule/2 answers 500: a redirect to the scheme \"ftp\""),
        "{degraded:?}"
    );
    let rules: Vec<_> = router.rules().iter().flatten().collect();
    for (id, rule) in rules.iter().enumerate() {
        assert_eq!(rule.id, id);
        assert_eq!(rule.action, Action::Respond(if id == 3 { 200 } else { 500 }), "{id}");
    }
    assert_eq!(rules[0].name.as_deref(), Some("mine"));
    assert_eq!(find(&router, "h", "/ok", "GET", &[]), "r/rule/0");
    assert_eq!(find(&router, "h", "/filter", "GET", &[]), "r/rule/1");
    assert_eq!(find(&router, "h", "/redirect", "GET", &[]), "r/rule/2");
    // What cannot be evaluated matches nothing.
    assert_eq!(find(&router, "h", "/header", "GET", &[]), "r/rule/3");
}

#[test]
fn a_match_tells_its_listener_and_the_prefix_that_fitted() {
    let router = rules(vec![prefix("/a/"), exact("/x"), regex("/y"), prefix("/")]);
    let headers = HeaderMap::new();
    let table = router.socket(&SOCKET.parse().unwrap()).unwrap();
    for (path, expected) in
        [("/a/b", Some("/a")), ("/a", Some("/a")), ("/x", None), ("/y", None), ("/b", Some(""))]
    {
        let parts = RequestParts { host: "h", path, query: None, method: "GET", headers: &headers };
        let found = table.lookup(&parts).unwrap();
        assert_eq!(found.matched_prefix, expected, "{path}");
        assert_eq!(found.listener.port, 80);
        assert_eq!(found.listener.listener.as_str(), "http");
        assert_eq!(found.listener.protocol, Protocol::Http);
        assert!(path.starts_with(found.matched_prefix.unwrap_or_default()));
    }
}
