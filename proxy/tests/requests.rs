//! Requests and answers on their way: headers, bodies, filters, connections.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{HOST, Setup, all, fallback, no_retry, primary, retry};
use understudy_conf::{HeaderValue, HttpFilter, PathRewrite, RetryTrigger, UrlRewrite};
use understudy_testbed::{Answer, Behaviour, Client, Request};

#[tokio::test]
async fn a_post_to_a_refusing_primary_reaches_the_fallback_whatever_its_size() {
    // R12: no byte of the body was read yet, so nothing had to be kept.
    for size in [32 * 1024, 64 * 1024, 1024 * 1024, 10 * 1024 * 1024] {
        let (active, passive) = (primary().await, fallback().await);
        let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
        active.kill().await;
        passive.set(Behaviour::RequestBody);
        let body: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        let response = proxy.send(&Request::new("POST", HOST, "/test").body(body.clone())).await.unwrap();
        assert_eq!(response.status, 200);
        assert!(response.body == body, "{size} bytes arrive as they were sent");
    }
}

#[tokio::test]
async fn a_post_that_was_answered_503_is_retried_up_to_the_buffer_limit_and_passed_on_above_it() {
    let limit = 32 * 1024;
    for (size, expected) in [(limit, 200), (limit + 1, 503), (1024 * 1024, 503)] {
        let (active, passive) = (primary().await, fallback().await);
        let setup = Setup::new(&[active.address()], &[passive.address()])
            .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
        let proxy = setup.start().await;
        active.set(Behaviour::Status(503));
        passive.set(Behaviour::RequestBody);
        let body = vec![b'b'; size];
        let response = proxy.send(&Request::new("POST", HOST, "/test").body(body.clone())).await.unwrap();
        assert_eq!(response.status, expected, "{size} bytes; never a 507");
        if expected == 200 {
            assert!(response.body == body);
        }
    }
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(Answer::status(200).content(understudy_testbed::Content::RequestBody).chunked());
    let body: Vec<u8> = (0..200_000).map(|index| (index % 253) as u8).collect();
    let response = proxy.send(&Request::new("POST", HOST, "/test").chunked_body(body.clone())).await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body == body);
}

#[tokio::test]
async fn a_request_gains_what_the_field_expects_and_loses_what_is_hop_by_hop() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let request = Request::get(HOST, "/test?a=1")
        .header("X-Forwarded-For", "192.0.2.7")
        .header("Connection", "x-private")
        .header("X-Private", "secret")
        .header("Keep-Alive", "timeout=5")
        .header("TE", "trailers")
        .header("X-Public", "yes");
    assert_eq!(proxy.send(&request).await.unwrap().status, 200);
    let seen = active.observed().log().last().unwrap().clone();
    assert_eq!(seen.target, "/test?a=1");
    assert_eq!(seen.header("host"), Some(HOST));
    assert_eq!(seen.header("x-forwarded-for"), Some("192.0.2.7, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(36));
    assert_eq!(seen.header("x-public"), Some("yes"));
    for gone in ["x-private", "keep-alive", "te"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn r13_retry_headers_of_a_client_are_ignored() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_retry(no_retry());
    let proxy = setup.start().await;
    active.set(Behaviour::Status(503));
    let request = Request::get(HOST, "/test")
        .header("x-envoy-retry-on", "5xx")
        .header("x-envoy-max-retries", "3")
        .header("x-envoy-upstream-rq-timeout-ms", "1");
    assert_eq!(proxy.send(&request).await.unwrap().status, 503);
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn filters_of_the_rule_and_of_the_reference_act_and_leave_failover_intact() {
    // G6: in Envoy Gateway a filter on a reference turns failover into a split.
    let (active, passive) = (primary().await, fallback().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()]);
    let header = |name: &str, value: &str| HeaderValue { name: name.to_owned(), value: value.to_owned() };
    setup.filters = vec![
        HttpFilter::RequestHeaders {
            set: vec![header("x-rule", "set")],
            add: vec![header("x-many", "added")],
            remove: vec!["x-secret".to_owned()],
        },
        HttpFilter::ResponseHeaders {
            set: vec![header("x-answer", "rule")],
            add: Vec::new(),
            remove: vec!["x-backend".to_owned()],
        },
        HttpFilter::UrlRewrite(UrlRewrite {
            hostname: Some("inner.example".to_owned()),
            path: Some(PathRewrite::Prefix("/inner".to_owned())),
        }),
    ];
    setup.ref_filters = vec![HttpFilter::RequestHeaders {
        set: vec![header("x-ref", "yes")],
        add: Vec::new(),
        remove: Vec::new(),
    }];
    let proxy = setup.start().await;
    let request = Request::get(HOST, "/test/deep?q=1").header("x-secret", "s").header("x-many", "own");
    let response = proxy.send(&request).await.unwrap();
    assert_eq!(
        (response.status, response.header("x-answer"), response.header("x-backend")),
        (200, Some("rule"), None)
    );
    let seen = active.observed().log().last().unwrap().clone();
    assert_eq!(seen.target, "/inner/deep?q=1");
    assert_eq!(seen.header("host"), Some("inner.example"));
    assert_eq!(seen.header("x-forwarded-host"), Some(HOST));
    assert_eq!(
        (seen.header("x-rule"), seen.header("x-ref"), seen.header("x-secret")),
        (Some("set"), Some("yes"), None)
    );
    active.kill().await;
    assert_eq!(proxy.pods(5).await, all("passive", 5));
    assert_eq!(passive.observed().log().last().unwrap().header("x-ref"), Some("yes"));
}

#[tokio::test]
async fn what_no_route_matches_is_404_with_an_empty_body() {
    // R14
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let response = proxy.send(&Request::get(HOST, "/other")).await.unwrap();
    assert_eq!((response.status, response.body.len()), (404, 0));
    assert_eq!(active.requests(), 0);
}

#[tokio::test]
async fn a_connection_carries_many_requests_also_after_an_answer_of_our_own() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    for path in ["/test", "/other", "/test", "/test"] {
        let expected = if path == "/test" { 200 } else { 404 };
        assert_eq!(client.get(HOST, path).await.unwrap().status, expected);
    }
    assert_eq!(active.connections(), 1, "the connection to the endpoint is kept, too");
}

#[tokio::test]
async fn head_has_no_body_and_a_404_to_head_neither() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    for (path, status) in [("/test", 200), ("/other", 404), ("/test", 200)] {
        let response = client.send_request(&Request::new("HEAD", HOST, path)).await.unwrap();
        assert_eq!((response.status, response.body.len()), (status, 0));
    }
}

#[tokio::test]
async fn informational_answers_pass() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(Answer::status(200).interim(103, &[("link", "</style.css>; rel=preload")]));
    let response = proxy.get().await;
    assert_eq!(response.status, 200);
    assert_eq!(response.interim.first().map(|interim| interim.status), Some(103));
}

#[tokio::test]
async fn a_client_that_goes_away_charges_nobody() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.next(1, Behaviour::Hang);
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(&Request::get(HOST, "/test").to_bytes()).await.unwrap();
    assert!(active.wait_until(common::PATIENCE, |observed| observed.requests == 1).await);
    client.reset();
    assert_eq!(proxy.pods(6).await, all("active", 6));
}
