//! What browsers are told, as HTTPRoute's conformance tests and its documentation ask for it.

use super::*;

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in lines {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn list(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn preflight(cors: &Cors, request: &[(&'static str, &str)]) -> HeaderMap {
    let (cors, request) = (CompiledCors::build(cors).unwrap(), headers(request));
    assert!(CompiledCors::is_preflight(&Method::OPTIONS, &request));
    let mut answer = HeaderMap::new();
    cors.apply_preflight(&request, &mut answer);
    cors.apply(&request, &mut answer);
    answer
}

fn answered(cors: &Cors, request: &[(&'static str, &str)], answer: &[(&'static str, &str)]) -> HeaderMap {
    let mut answer = headers(answer);
    CompiledCors::build(cors).unwrap().apply(&headers(request), &mut answer);
    answer
}

/// The first route of the conformance test.
fn full() -> Cors {
    Cors {
        allow_origins: list(&["https://www.foo.com", "https://*.bar.com"]),
        allow_methods: list(&["GET", "OPTIONS"]),
        allow_headers: list(&["x-header-1", "x-header-2"]),
        expose_headers: list(&["x-header-3", "x-header-4"]),
        max_age: 3600,
        allow_credentials: true,
    }
}

#[test]
fn a_preflight_from_an_allowed_origin_is_told_all_that_is_configured() {
    for origin in ["https://www.foo.com", "https://xpto.www.bar.com"] {
        let request = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "x-header-1, x-header-2"),
        ];
        let expected = headers(&[
            ("access-control-allow-methods", "GET, OPTIONS"),
            ("access-control-allow-headers", "x-header-1, x-header-2"),
            ("access-control-max-age", "3600"),
            ("vary", "Origin"),
            ("access-control-allow-origin", origin),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "x-header-3, x-header-4"),
        ]);
        assert_eq!(preflight(&full(), &request), expected);
    }
}

#[test]
fn a_preflight_from_another_origin_is_told_nothing() {
    let request = [("origin", "https://foobar.com"), ("access-control-request-method", "GET")];
    assert_eq!(preflight(&full(), &request), headers(&[("vary", "Origin")]));
}

#[test]
fn wildcards_give_back_what_was_asked_for_and_nothing_where_nothing_was_asked() {
    let any = list(&["*"]);
    let cors = Cors {
        allow_origins: any.clone(),
        allow_methods: list(&["GET", "*"]),
        allow_headers: any,
        ..Cors::default()
    };
    for allow_credentials in [false, true] {
        let cors = Cors { allow_credentials, ..cors.clone() };
        let answer = preflight(
            &cors,
            &[("origin", "https://a.example:12345"), ("access-control-request-method", "PUT")],
        );
        assert_eq!(answer["access-control-allow-origin"], "https://a.example:12345", "never *");
        assert_eq!(answer["access-control-allow-methods"], "PUT");
        assert_eq!(answer.get("access-control-allow-headers"), None);
        assert_eq!(answer["access-control-max-age"], "5", "the default");
        assert_eq!(answer.contains_key("access-control-allow-credentials"), allow_credentials);
    }
}

#[test]
fn lists_that_are_not_configured_are_left_out() {
    let cors = Cors { allow_origins: list(&["https://a.example"]), ..Cors::default() };
    let answer =
        preflight(&cors, &[("origin", "https://a.example"), ("access-control-request-method", "POST")]);
    for absent in ["methods", "headers", "credentials"] {
        assert_eq!(answer.get(format!("access-control-allow-{absent}")), None);
    }
    assert_eq!(answer.get("access-control-expose-headers"), None);
}

#[test]
fn only_options_with_an_origin_and_a_method_to_ask_for_is_a_preflight() {
    let (origin, method) = (("origin", "https://a"), ("access-control-request-method", "GET"));
    for (of, lines, expected) in [
        (Method::OPTIONS, &[origin, method][..], true),
        (Method::GET, &[origin, method], false),
        (Method::OPTIONS, &[origin], false),
        (Method::OPTIONS, &[method], false),
        (Method::OPTIONS, &[("origin", ""), method], false),
    ] {
        assert_eq!(CompiledCors::is_preflight(&of, &headers(lines)), expected, "{of} {lines:?}");
    }
}

#[test]
fn an_answer_to_an_allowed_origin_replaces_what_the_endpoint_said() {
    let own = [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-credentials", "true"),
        ("access-control-expose-headers", "x-own"),
        ("vary", "Accept-Encoding"),
    ];
    let answer = answered(&full(), &[("origin", "https://www.foo.com")], &own);
    assert_eq!(
        answer.get_all("access-control-allow-origin").iter().collect::<Vec<_>>(),
        ["https://www.foo.com"]
    );
    assert_eq!(answer["access-control-expose-headers"], "x-header-3, x-header-4");
    assert_eq!(answer.get_all("vary").iter().collect::<Vec<_>>(), ["Accept-Encoding", "Origin"]);
    let without = Cors { allow_credentials: false, expose_headers: Vec::new(), ..full() };
    let answer = answered(&without, &[("origin", "https://www.foo.com"), ("cookie", "a=b")], &own);
    assert_eq!(answer.get("access-control-allow-credentials"), None, "not configured, not said");
    assert_eq!(answer["access-control-expose-headers"], "x-own");
}

#[test]
fn an_answer_to_another_origin_or_to_none_stays_but_for_vary() {
    let own = [("access-control-allow-origin", "https://foobar.com"), ("vary", "accept, origin")];
    for request in [&[("origin", "https://foobar.com")][..], &[("origin", "")], &[]] {
        assert_eq!(answered(&full(), request, &own), headers(&own));
    }
    assert_eq!(answered(&full(), &[], &[("vary", "*")]), headers(&[("vary", "*")]));
}

#[test]
fn a_wildcard_of_exposed_headers_is_said_only_without_credentials() {
    let cors = Cors { allow_credentials: false, expose_headers: list(&["*", "x-one"]), ..full() };
    let request = [("origin", "https://www.foo.com")];
    assert_eq!(answered(&cors, &request, &[])["access-control-expose-headers"], "*");
    let cors = Cors { allow_credentials: true, ..cors };
    assert_eq!(answered(&cors, &request, &[])["access-control-expose-headers"], "x-one");
}

#[test]
fn what_is_not_valid_is_named() {
    for (cors, expected) in [
        (Cors { allow_origins: list(&["foo.com"]), ..Cors::default() }, "\"foo.com\" is no origin"),
        (Cors { allow_methods: list(&["A B"]), ..Cors::default() }, "\"A B\" is neither"),
        (Cors { allow_headers: list(&["x\n"]), ..Cors::default() }, "\"x\\n\" is neither"),
    ] {
        let problem = CompiledCors::build(&cors).unwrap_err();
        assert!(problem.starts_with(expected), "{problem}");
    }
}
