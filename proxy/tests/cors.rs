//! Cross-origin requests on real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{HOST, Setup, all, fallback, primary};
use understudy_conf::{Cors, HeaderValue, HttpFilter};
use understudy_testbed::{Answer, Behaviour, Client, Request};

const PAGE: &str = "https://www.foo.com";

fn cors() -> HttpFilter {
    HttpFilter::Cors(Cors {
        allow_origins: vec![PAGE.to_owned()],
        allow_methods: vec!["GET".to_owned(), "PUT".to_owned()],
        allow_credentials: true,
        ..Cors::default()
    })
}

fn preflight(origin: &str) -> Request {
    Request::new("OPTIONS", HOST, "/test")
        .header("Origin", origin)
        .header("Access-Control-Request-Method", "PUT")
}

#[tokio::test]
async fn a_preflight_is_answered_by_the_gateway_itself_even_when_no_endpoint_serves() {
    let (active, passive) = (primary().await, fallback().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()]);
    setup.filters = vec![cors()];
    let proxy = setup.start().await;
    active.kill().await;
    passive.kill().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    for (origin, allowed) in [(PAGE, true), ("https://foobar.com", false), (PAGE, true)] {
        let response = client.send_request(&preflight(origin)).await.unwrap();
        assert_eq!((response.status, response.body.len()), (200, 0));
        let said = |name: &str| response.header(name).map(str::to_owned);
        let expected = |value: &str| allowed.then(|| value.to_owned());
        assert_eq!(said("access-control-allow-origin"), expected(PAGE));
        assert_eq!(said("access-control-allow-methods"), expected("GET, PUT"));
        assert_eq!(said("access-control-allow-credentials"), expected("true"));
        assert_eq!(said("access-control-max-age"), expected("5"));
        assert_eq!(said("vary").as_deref(), Some("Origin"));
    }
    assert_eq!((active.requests(), passive.requests()), (0, 0));
}

#[tokio::test]
async fn an_answer_says_what_the_rule_says_in_place_of_what_the_endpoint_said() {
    let (active, passive) = (primary().await, fallback().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()]);
    // A change of the answer's headers does not undo what browsers are told.
    let wrong = HeaderValue { name: "access-control-allow-origin".to_owned(), value: "https://a".to_owned() };
    setup.filters =
        vec![cors(), HttpFilter::ResponseHeaders { set: vec![wrong], add: Vec::new(), remove: Vec::new() }];
    let proxy = setup.start().await;
    active.set(Answer::status(200).header("Access-Control-Allow-Origin", "*").header("Vary", "Accept"));
    let response = proxy.send(&Request::get(HOST, "/test").header("Origin", PAGE)).await.unwrap();
    assert_eq!(response.header_values("access-control-allow-origin"), [PAGE]);
    assert_eq!(response.header_values("vary"), ["Accept", "Origin"]);
    assert_eq!(active.observed().log().last().unwrap().header("origin"), Some(PAGE));
    // Plain OPTIONS is the endpoint's.
    let request = Request::new("OPTIONS", HOST, "/test").header("Origin", PAGE);
    assert_eq!(proxy.send(&request).await.unwrap().status, 200);
    assert_eq!(active.observed().log().last().unwrap().method, "OPTIONS");
}

#[tokio::test]
async fn cors_leaves_failover_intact_and_a_page_may_read_failures_of_ours_too() {
    // G6
    let (active, passive) = (primary().await, fallback().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()]);
    setup.filters = vec![cors()];
    let proxy = setup.start().await;
    active.kill().await;
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    passive.set(Behaviour::CloseBeforeHeaders);
    let response = proxy.send(&Request::get(HOST, "/test").header("Origin", PAGE)).await.unwrap();
    assert_eq!(response.status, 503);
    assert_eq!(response.header("access-control-allow-origin"), Some(PAGE));
}
