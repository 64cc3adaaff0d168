//! HTTP/2 to endpoints and from clients, on real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use common::{HOST, PATIENCE, Proxy, Setup, eventually, millis, no_retry, retry};
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use understudy_conf::{Http2Keepalive, RetryTrigger, RuleTimeouts};
use understudy_testbed::{Backend, Behaviour, Blackhole, Client, H2Backend, H2Behaviour, H2Client, Request};

async fn backends() -> (H2Backend, H2Backend) {
    (H2Backend::start("active").await.unwrap(), H2Backend::start("passive").await.unwrap())
}

fn setup(active: &H2Backend, passive: &H2Backend) -> Setup {
    Setup::new(&[active.address()], &[passive.address()]).over_h2()
}

async fn client(proxy: &Proxy) -> H2Client {
    H2Client::connect(proxy.address, HOST).await.unwrap()
}

/// Who answered so many requests over one connection, one after the other; failures as their status.
async fn names(client: &H2Client, count: usize) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let response = client.get("/test").await.unwrap();
        names.push(if response.status == 200 { response.text() } else { response.status.to_string() });
    }
    names
}

fn all(name: &str, count: usize) -> Vec<String> {
    vec![name.to_owned(); count]
}

/// So many requests at once over one connection: how often each outcome came.
async fn at_once(client: &H2Client, count: usize) -> BTreeMap<String, usize> {
    let mut calls = JoinSet::new();
    for _ in 0..count {
        let call = client.begin(Method::GET, "/test", &[], true).await.unwrap();
        calls.spawn(call.finish());
    }
    let mut outcomes = BTreeMap::new();
    for outcome in calls.join_all().await {
        let outcome = match outcome {
            Ok(response) if response.status == 200 => response.text(),
            Ok(response) => response.status.to_string(),
            Err(error) => error.to_string(),
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    outcomes
}

fn post(body: Vec<u8>) -> Request {
    Request::new("POST", HOST, "/test").body(body)
}

fn outcomes(list: &[(&str, usize)]) -> BTreeMap<String, usize> {
    list.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn requests_of_both_versions_reach_an_endpoint_of_http_2() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let over_h1 = proxy.send(&Request::get(HOST, "/test?a=b").header("x-mine", "1")).await.unwrap();
    assert_eq!((over_h1.status, over_h1.text().as_str()), (200, "active"));
    let over_h2 = client(&proxy).await.get("/test").await.unwrap();
    assert_eq!((over_h2.status, over_h2.text().as_str()), (200, "active"));
    let log = active.log();
    assert_eq!(log[0].uri.to_string(), format!("http://{HOST}/test?a=b"));
    assert_eq!(log[0].headers["x-mine"], "1");
    assert_eq!(log[0].headers["x-forwarded-for"], "127.0.0.1");
    assert!(!log[0].headers.contains_key("connection") && !log[0].headers.contains_key("host"));
    assert_eq!(log[1].uri.to_string(), format!("http://{HOST}/test"));
}

#[tokio::test]
async fn a_client_of_http_2_reaches_an_endpoint_of_http_1_1() {
    let active = Backend::start("active").await.unwrap();
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    active.set(Behaviour::RequestBody);
    let client = client(&proxy).await;
    let body = vec![b'a'; 300_000];
    let response = client.post("/test", body.clone()).await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.body == body);
    assert!(!response.headers.contains_key("transfer-encoding"));
}

#[tokio::test]
async fn requests_at_once_share_a_connection() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    active.set(H2Behaviour::Delayed(Duration::from_millis(200)));
    let client = client(&proxy).await;
    assert_eq!(at_once(&client, 100).await, outcomes(&[("active", 100)]));
    // One client's connection belongs to one worker, and so do its requests.
    assert_eq!(active.connections(), 1);
    assert!(active.most_streams() > 50, "{}", active.most_streams());
}

#[tokio::test]
async fn bodies_of_every_size_pass_both_ways() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::RequestBody);
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    for size in [0, 1, 16 * 1024, 64 * 1024 + 1, 3_000_000] {
        let body: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
        let response = client.post("/test", body.clone()).await.unwrap();
        assert!(response.status == 200 && response.body == body, "{size} over HTTP/2");
        for chunked in [false, true] {
            let request = Request::new("POST", HOST, "/test");
            let request =
                if chunked { request.chunked_body(body.clone()) } else { request.body(body.clone()) };
            let response = proxy.send(&request).await.unwrap();
            assert!(response.status == 200 && response.body == body, "{size} over HTTP/1.1, {chunked}");
        }
    }
}

#[tokio::test]
async fn a_post_to_a_refusing_primary_reaches_the_fallback_whatever_its_size() {
    let (active, passive) = backends().await;
    passive.set(H2Behaviour::RequestBody);
    active.kill().await;
    for size in [32 * 1024, 64 * 1024, 1024 * 1024, 10 * 1024 * 1024] {
        let proxy = setup(&active, &passive).start().await;
        let body = vec![b'p'; size];
        let response = client(&proxy).await.post("/test", body.clone()).await.unwrap();
        assert!(response.status == 200 && response.body == body, "{size} over HTTP/2");
        let proxy = setup(&active, &passive).start().await;
        let response = proxy.send(&post(body.clone())).await.unwrap();
        assert!(response.status == 200 && response.body == body, "{size} over HTTP/1.1");
    }
}

#[tokio::test]
async fn pools_of_both_versions_fail_over_to_each_other() {
    // In both directions, with a body, from both kinds of clients.
    let new = H2Backend::start("new").await.unwrap();
    let old = Backend::start("old").await.unwrap();
    new.set(H2Behaviour::RequestBody);
    old.set(Behaviour::RequestBody);
    for new_first in [true, false] {
        let (first, second) = if new_first {
            new.kill().await;
            (new.address(), old.address())
        } else {
            old.kill().await;
            new.restart().await.unwrap();
            (old.address(), new.address())
        };
        for over_h2 in [true, false] {
            let setup = Setup { h2: vec![u32::from(!new_first)], ..Setup::new(&[first], &[second]) };
            let proxy = setup.start().await;
            let body = vec![b'b'; 200_000];
            for round in 0..3 {
                let (status, answer) = if over_h2 {
                    let response = client(&proxy).await.post("/test", body.clone()).await.unwrap();
                    (response.status, response.body)
                } else {
                    let response = proxy.send(&post(body.clone())).await.unwrap();
                    (response.status, response.body)
                };
                assert!(status == 200 && answer == body, "{new_first} {over_h2} {round}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_of_503_with_a_body_is_retried_up_to_the_buffer_limit() {
    // R12
    let (active, passive) = backends().await;
    passive.set(H2Behaviour::RequestBody);
    for (size, status) in [(1000, 200), (32 * 1024, 200), (32 * 1024 + 1, 503), (1024 * 1024, 503)] {
        active.set(H2Behaviour::Status(503));
        let retries = retry(&[RetryTrigger::RetriableStatusCodes]);
        let proxy = setup(&active, &passive).with_retry(retries).start().await;
        let body = vec![b'p'; size];
        let response = client(&proxy).await.post("/test", body.clone()).await.unwrap();
        assert_eq!(response.status, status, "{size}");
        if status == 200 {
            assert!(response.body == body, "{size}");
        }
    }
}

#[tokio::test]
async fn a_hundred_streams_through_the_primarys_death_and_return_get_their_answers() {
    let (active, passive) = backends().await;
    let mut setup = setup(&active, &passive).with_retry(retry(&[RetryTrigger::Reset]));
    let policy = setup.policy.as_mut().unwrap();
    policy.passive.as_mut().unwrap().base_ejection_time = millis(300);
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(at_once(&client, 100).await, outcomes(&[("active", 100)]));
    // Under way when it dies: their answers are due, and `reset` allows another attempt.
    active.set(H2Behaviour::Hang);
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let call = client.begin(Method::GET, "/test", &[], true).await.unwrap();
        calls.spawn(call.finish());
    }
    assert!(active.wait_for_streams(PATIENCE, 100).await);
    active.kill().await;
    let answers = calls.join_all().await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|response| response.text() == "passive")));
    assert_eq!(at_once(&client, 100).await, outcomes(&[("passive", 100)]));
    // And back, while requests go on: none fails.
    active.set(H2Behaviour::Name);
    active.restart().await.unwrap();
    eventually("the primary's return", || async {
        let seen = at_once(&client, 100).await;
        let known = seen.keys().all(|name| name == "active" || name == "passive");
        assert!(known, "{seen:?}");
        seen == outcomes(&[("active", 100)])
    })
    .await;
    assert!(client.is_open());
}

#[tokio::test]
async fn without_the_trigger_only_requests_that_were_under_way_are_lost() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    assert_eq!(at_once(&client, 50).await, outcomes(&[("active", 50)]));
    active.set(H2Behaviour::Hang);
    let mut calls = JoinSet::new();
    for _ in 0..50 {
        let call = client.begin(Method::GET, "/test", &[], true).await.unwrap();
        calls.spawn(call.finish());
    }
    assert!(active.wait_for_streams(PATIENCE, 50).await);
    active.kill().await;
    assert!(calls.join_all().await.iter().all(|answer| answer.as_ref().unwrap().status == 503));
    assert_eq!(at_once(&client, 100).await, outcomes(&[("passive", 100)]));
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_request() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 3).await, all("active", 3));
    for _ in 0..5 {
        active.restart().await.unwrap();
        assert_eq!(names(&client, 3).await, all("active", 3));
    }
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn r3_a_refused_stream_is_moved_at_once_and_ejects() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    active.set(H2Behaviour::Refuse);
    let client = client(&proxy).await;
    assert_eq!(names(&client, 5).await, all("passive", 5));
    assert_eq!(active.requests(), 1);
}

#[tokio::test]
async fn with_num_retries_zero_a_refused_stream_is_503() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).with_retry(no_retry()).start().await;
    active.set(H2Behaviour::Refuse);
    let client = client(&proxy).await;
    let mut expected = all("passive", 5);
    "503".clone_into(&mut expected[0]);
    assert_eq!(names(&client, 5).await, expected);
}

#[tokio::test]
async fn r3_the_trigger_refused_stream_retries_beyond_the_safe_moves() {
    // Only one endpoint: the safe retry never goes to the same one twice, the policy's does.
    let active = H2Backend::start("active").await.unwrap();
    let mut setup =
        Setup::new(&[active.address()], &[]).over_h2().with_retry(retry(&[RetryTrigger::RefusedStream]));
    setup.policy.as_mut().unwrap().passive = None;
    let proxy = setup.start().await;
    active.next(2, H2Behaviour::Refuse);
    let client = client(&proxy).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    assert_eq!(active.requests(), 3);
}

#[tokio::test]
async fn a_reset_stream_is_503_and_ejects_and_is_retried_with_the_trigger() {
    for (triggers, first) in [(None, "503"), (Some(retry(&[RetryTrigger::Reset])), "passive")] {
        let (active, passive) = backends().await;
        let mut setup = setup(&active, &passive);
        setup.policy.as_mut().unwrap().retry = triggers;
        let proxy = setup.start().await;
        // INTERNAL_ERROR
        active.set(H2Behaviour::Reset(2));
        let client = client(&proxy).await;
        let mut expected = all("passive", 5);
        first.clone_into(&mut expected[0]);
        assert_eq!(names(&client, 5).await, expected);
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_leaves_the_others_on_its_connection_alone() {
    let (active, passive) = backends().await;
    let mut setup = setup(&active, &passive);
    setup.policy.as_mut().unwrap().passive = None;
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    active.next(1, H2Behaviour::Delayed(Duration::from_millis(300)));
    let slow = client.begin(Method::GET, "/test", &[], true).await.unwrap();
    assert!(active.wait_for_streams(PATIENCE, 1).await);
    active.next(1, H2Behaviour::Reset(2));
    assert_eq!(names(&client, 1).await, all("503", 1));
    assert_eq!(slow.finish().await.unwrap().text(), "active");
    assert_eq!(active.connections(), 1);
}

#[tokio::test]
async fn an_answer_cut_in_its_body_resets_the_clients_stream_and_ejects() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    active.set(H2Behaviour::ResetMidBody);
    let client = client(&proxy).await;
    let error = client.get("/test").await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{error}");
    assert_eq!(names(&client, 5).await, all("passive", 5));
}

#[tokio::test]
async fn an_endpoint_that_says_goodbye_ends_no_request_and_is_not_charged() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    active.set(H2Behaviour::Delayed(Duration::from_millis(200)));
    let slow = client.begin(Method::GET, "/test", &[], true).await.unwrap();
    assert!(active.wait_for_streams(PATIENCE, 1).await);
    active.go_away();
    active.set(H2Behaviour::Name);
    for _ in 0..20 {
        assert_eq!(names(&client, 1).await, all("active", 1));
    }
    assert_eq!(slow.finish().await.unwrap().text(), "active");
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn an_endpoint_that_speaks_only_http_1_1_is_ejected_and_its_request_moves() {
    let active = Backend::start("active").await.unwrap();
    let passive = H2Backend::start("passive").await.unwrap();
    let proxy = Setup::new(&[active.address()], &[passive.address()]).over_h2().start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 5).await, all("passive", 5));
    assert_eq!(active.requests(), 0);
}

#[tokio::test]
async fn a_hanging_stream_is_504_at_the_request_timeout_and_its_endpoint_ejected() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).with_request_timeout(millis(300)).start().await;
    active.set(H2Behaviour::Hang);
    let client = client(&proxy).await;
    let start = Instant::now();
    assert_eq!(names(&client, 1).await, all("504", 1));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(names(&client, 5).await, all("passive", 5));
    // The endpoint is told to stop, on a connection that stands.
    assert!(active.wait_for_streams(PATIENCE, 0).await);
    assert_eq!(active.connections(), 1);
}

#[tokio::test]
async fn a_limit_that_one_stream_reaches_ends_no_other() {
    let (active, passive) = backends().await;
    let mut setup = setup(&active, &passive);
    setup.policy.as_mut().unwrap().passive = None;
    setup.timeouts = Some(RuleTimeouts { request: Some(millis(600)), backend_request: Some(millis(200)) });
    let proxy = setup.with_retry(retry(&[RetryTrigger::Reset])).start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    // Otherwise that one might pass for the next.
    assert!(active.wait_for_streams(PATIENCE, 0).await);
    active.next(1, H2Behaviour::Hang);
    let hanging = client.begin(Method::GET, "/test", &[], true).await.unwrap();
    assert!(active.wait_for_streams(PATIENCE, 1).await);
    active.next(1, H2Behaviour::StallMidBody);
    let mut stalled = client.begin(Method::GET, "/test", &[], true).await.unwrap();
    assert_eq!(stalled.head().await.unwrap(), 200);
    // O8: the attempt's own limit, then another endpoint.
    assert_eq!(hanging.finish().await.unwrap().text(), "passive");
    assert_eq!(names(&client, 3).await, all("active", 3));
    // O7: its body may take as long as the request.
    let start = Instant::now();
    let error = stalled.finish().await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(active.connections(), 1);
}

#[tokio::test]
async fn a_stream_that_is_silent_for_too_long_is_cut_and_ejects_nobody() {
    let (active, passive) = backends().await;
    let setup = setup(&active, &passive).change_policy(|policy| policy.timeouts.stream_idle = millis(200));
    let proxy = setup.start().await;
    active.next(1, H2Behaviour::StallMidBody);
    let client = client(&proxy).await;
    let error = client.get("/test").await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{error}");
    assert_eq!(names(&client, 3).await, all("active", 3));
    // Before its headers it is the endpoint's fault.
    active.next(1, H2Behaviour::Hang);
    assert_eq!(names(&client, 4).await, [&all("504", 1)[..], &all("passive", 3)].concat());
}

#[tokio::test]
async fn a_black_hole_is_given_up_at_the_connect_timeout_and_at_the_limit_of_one_attempt() {
    let blackhole = Blackhole::start().await.unwrap();
    let passive = H2Backend::start("passive").await.unwrap();
    // Each has a port of its own: a proxy that ends keeps its port for a moment.
    let setup = || Setup::new(&[blackhole.address()], &[passive.address()]).over_h2();
    let by_connect = setup().change_policy(|policy| policy.timeouts.connect = millis(200));
    let mut retries = retry(&[RetryTrigger::ConnectFailure]);
    retries.per_try_timeout = Some(millis(200));
    let by_attempt = setup().with_retry(retries);
    for setup in [by_connect, by_attempt] {
        let proxy = setup.start().await;
        let client = client(&proxy).await;
        let start = Instant::now();
        assert_eq!(at_once(&client, 20).await, outcomes(&[("passive", 20)]));
        assert!(start.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn an_endpoint_that_takes_fewer_streams_refuses_none() {
    let (active, passive) = backends().await;
    active.set_max_streams(Some(10));
    active.set(H2Behaviour::Delayed(Duration::from_millis(20)));
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    for _ in 0..3 {
        assert_eq!(at_once(&client, 80).await, outcomes(&[("active", 80)]));
    }
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn a_connection_takes_as_many_streams_as_the_policy_says() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::Delayed(Duration::from_millis(200)));
    let setup = setup(&active, &passive).change_policy(|policy| policy.http2.max_concurrent_streams = 10);
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(at_once(&client, 40).await, outcomes(&[("active", 40)]));
    assert_eq!(active.connections(), 4);
}

#[tokio::test]
async fn b3_connections_are_limited_and_not_streams() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::Delayed(Duration::from_millis(100)));
    let setup = setup(&active, &passive).change_policy(|policy| {
        policy.http2.max_concurrent_streams = 10;
        policy.circuit_breaker.max_connections = 2;
        policy.circuit_breaker.overflow = understudy_conf::Overflow::Reject;
    });
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    // 20 at once, and the rest waits for its turn.
    assert_eq!(at_once(&client, 60).await, outcomes(&[("active", 60)]));
    assert_eq!(active.most_streams(), 20);
    assert_eq!(active.connections(), 2);
}

#[tokio::test]
async fn a_connection_is_replaced_after_as_many_requests_as_it_may_carry() {
    let (active, passive) = backends().await;
    let setup = setup(&active, &passive)
        .change_policy(|policy| policy.circuit_breaker.max_requests_per_connection = Some(5));
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 20).await, all("active", 20));
    assert_eq!(active.connections(), 4);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_time() {
    let (active, passive) = backends().await;
    let setup =
        setup(&active, &passive).change_policy(|policy| policy.timeouts.connection_idle = millis(100));
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    sleep(Duration::from_millis(400)).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    assert_eq!(active.connections(), 2);
    // With a request under way it is not idle.
    active.set(H2Behaviour::Delayed(Duration::from_millis(500)));
    assert_eq!(names(&client, 1).await, all("active", 1));
}

#[tokio::test]
async fn trailers_pass_from_an_endpoint_to_a_client_of_http_2_and_are_lost_to_one_of_http_1_1() {
    let (active, passive) = backends().await;
    let trailers =
        vec![("x-checksum".to_owned(), "abc".to_owned()), ("x-checksum".to_owned(), "def".to_owned())];
    active.set(H2Behaviour::Trailers(trailers));
    let proxy = setup(&active, &passive).start().await;
    let response = client(&proxy).await.get("/test").await.unwrap();
    let values: Vec<_> =
        response.trailers.get_all("x-checksum").iter().map(|value| value.to_str().unwrap()).collect();
    assert_eq!((response.text().as_str(), values), ("active", vec!["abc", "def"]));
    let response = proxy.get().await;
    assert_eq!((response.status, response.text().as_str()), (200, "active"));
    assert!(response.trailers.is_empty());
}

#[tokio::test]
async fn head_options_and_answers_without_a_body_work_in_every_combination() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    let mut h1 = Client::connect(proxy.address).await.unwrap();
    for method in ["HEAD", "OPTIONS", "DELETE"] {
        let call = client.begin(method.parse().unwrap(), "/test", &[], true).await.unwrap();
        let response = call.finish().await.unwrap();
        assert_eq!(response.status, 200, "{method}");
        let request = Request::new(method, HOST, "/test");
        let response = h1.send_request(&request).await.unwrap();
        assert_eq!((response.status, response.body.is_empty()), (200, method == "HEAD"), "{method}");
    }
    active.set(H2Behaviour::Status(304));
    assert_eq!(h1.send_request(&Request::get(HOST, "/test")).await.unwrap().status, 304);
    active.set(H2Behaviour::Name);
    assert_eq!(h1.send_request(&Request::get(HOST, "/test")).await.unwrap().status, 200);
}

#[tokio::test]
async fn informational_answers_reach_a_client_of_http_1_1_and_not_one_of_http_2() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::Interim);
    let proxy = setup(&active, &passive).start().await;
    let response = proxy.get().await;
    assert_eq!((response.status, response.text().as_str()), (200, "active"));
    assert_eq!(response.interim.len(), 1);
    assert_eq!(response.interim[0].status, 103);
    assert_eq!(names(&client(&proxy).await, 2).await, all("active", 2));
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::Early);
    active.set_window(Some(1000));
    let proxy = setup(&active, &passive).start().await;
    let body = vec![b'e'; 5_000_000];
    assert_eq!(client(&proxy).await.post("/test", body.clone()).await.unwrap().text(), "active");
    let response = proxy.send(&post(body)).await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "active"));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_stream_at_the_endpoint_and_charges_nobody() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    for behaviour in [H2Behaviour::Hang, H2Behaviour::StallMidBody] {
        active.set(behaviour);
        let h2 = client(&proxy).await;
        let mut call = h2.begin(Method::GET, "/test", &[], true).await.unwrap();
        assert!(active.wait_for_streams(PATIENCE, 1).await);
        call.reset();
        drop(call);
        assert!(active.wait_for_streams(PATIENCE, 0).await);
        let mut h1 = Client::connect(proxy.address).await.unwrap();
        h1.send(&Request::get(HOST, "/test").to_bytes()).await.unwrap();
        assert!(active.wait_for_streams(PATIENCE, 1).await);
        drop(h1);
        assert!(active.wait_for_streams(PATIENCE, 0).await);
    }
    proxy.wait_until_idle().await;
    active.set(H2Behaviour::Name);
    assert_eq!(names(&client(&proxy).await, 3).await, all("active", 3));
}

/// A way to an endpoint that can go silent without closing: where it stands, and how to silence it.
async fn way_to(endpoint: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (silence, silent) = watch::channel(false);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let mut silent = silent.clone();
            tokio::spawn(async move {
                let mut far = TcpStream::connect(endpoint).await.unwrap();
                let silent = async {
                    let _ = silent.wait_for(|silent| *silent).await;
                };
                let silenced = tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut near, &mut far) => false,
                    () = silent => true,
                };
                if silenced {
                    // Both sockets stay open.
                    std::future::pending::<()>().await;
                }
            });
        }
    });
    (address, silence)
}

#[tokio::test]
async fn a_connection_whose_endpoint_answers_no_ping_is_given_up() {
    let (active, passive) = backends().await;
    let (address, silence) = way_to(active.address()).await;
    let setup = Setup::new(&[address], &[passive.address()])
        .over_h2()
        .with_retry(retry(&[RetryTrigger::Reset]))
        .change_policy(|policy| {
            let keepalive = Http2Keepalive { interval: millis(100), timeout: millis(2000) };
            policy.http2.keepalive = Some(keepalive);
        });
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 1).await, all("active", 1));
    sleep(Duration::from_millis(700)).await;
    // Who answers keeps its connection.
    assert_eq!(names(&client, 1).await, all("active", 1));
    assert_eq!(active.connections(), 1);
    silence.send_replace(true);
    let start = Instant::now();
    assert_eq!(names(&client, 3).await, all("passive", 3));
    assert!(start.elapsed() < Duration::from_secs(10), "its limit is 15 s otherwise");
}

#[tokio::test]
async fn a_503_is_retried_from_one_version_to_the_other_with_its_body() {
    let new = H2Backend::start("new").await.unwrap();
    let old = Backend::start("old").await.unwrap();
    for new_first in [true, false] {
        let (first, second) =
            if new_first { (new.address(), old.address()) } else { (old.address(), new.address()) };
        new.set(if new_first { H2Behaviour::Status(503) } else { H2Behaviour::RequestBody });
        old.set(if new_first { Behaviour::RequestBody } else { Behaviour::Status(503) });
        for over_h2 in [true, false] {
            let setup = Setup { h2: vec![u32::from(!new_first)], ..Setup::new(&[first], &[second]) }
                .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
            let proxy = setup.start().await;
            let body: Vec<u8> = (0..20_000).map(|index| (index % 251) as u8).collect();
            // The second request finds the endpoint ejected.
            for round in 0..2 {
                let (status, answer) = if over_h2 {
                    let response = client(&proxy).await.post("/test", body.clone()).await.unwrap();
                    (response.status, response.body)
                } else {
                    let response = proxy.send(&post(body.clone())).await.unwrap();
                    (response.status, response.body)
                };
                assert!(status == 200 && answer == body, "{new_first} {over_h2} {round}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_of_http_2_after_an_attempt_over_http_1_1_is_the_last_on_its_connection() {
    let (old, new) = (Backend::start("old").await.unwrap(), H2Backend::start("new").await.unwrap());
    let setup = Setup { h2: vec![1], ..Setup::new(&[old.address()], &[new.address()]) }
        .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
    let proxy = setup.start().await;
    old.set(Behaviour::Status(503));
    let mut client = Client::connect(proxy.address).await.unwrap();
    let response = client.get(HOST, "/test").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "new"));
    assert!(!response.keeps_alive());
    let counted = r#"code_class="2xx",route="httproute/default/ha-example/rule/0"} 1"#;
    eventually("its count as a success", || async { proxy.admin("/metrics").await.text().contains(counted) })
        .await;
    // From here on the first attempt is over HTTP/2, and connections are kept.
    let mut client = Client::connect(proxy.address).await.unwrap();
    for _ in 0..3 {
        let response = client.get(HOST, "/test").await.unwrap();
        assert_eq!((response.text().as_str(), response.keeps_alive()), ("new", true));
    }
}

#[tokio::test]
async fn requests_that_do_not_wait_for_the_answer_before_get_theirs_in_turn() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    active.next(1, H2Behaviour::Delayed(Duration::from_millis(200)));
    active.next(1, H2Behaviour::Status(404));
    let mut h1 = Client::connect(proxy.address).await.unwrap();
    let three = [&Request::get(HOST, "/test").to_bytes()[..]; 3].concat();
    h1.send(&three).await.unwrap();
    for status in [200, 404, 200] {
        let response = h1.read_response("GET").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (status, "active"));
    }
}

#[tokio::test]
async fn h6_an_active_check_speaks_the_version_of_its_endpoint() {
    let (active, passive) = backends().await;
    let probe = understudy_conf::ActiveProbe::Http(understudy_conf::HttpProbe::get("/healthz"));
    let check = understudy_conf::ActiveHealthCheck {
        interval: millis(100),
        ..understudy_conf::ActiveHealthCheck::new(probe)
    };
    let setup =
        setup(&active, &passive).change_policy(|policy| policy.active = Some(std::sync::Arc::new(check)));
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(names(&client, 3).await, all("active", 3));
    assert!(active.log().iter().any(|request| request.uri.path() == "/healthz"));
    active.set(H2Behaviour::Status(503));
    eventually("the fallback", || async { names(&client, 1).await == all("passive", 1) }).await;
}

#[tokio::test]
async fn every_answer_belongs_to_its_request_through_many_deaths_of_the_primary() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::RequestBody);
    passive.set(H2Behaviour::RequestBody);
    let setup = setup(&active, &passive).with_retry(retry(&[RetryTrigger::Reset])).change_policy(|policy| {
        let passive = policy.passive.as_mut().unwrap();
        passive.base_ejection_time = millis(50);
        passive.interval = millis(50);
    });
    let proxy = setup.start().await;
    let client = std::sync::Arc::new(client(&proxy).await);
    let (stop, stopped) = watch::channel(false);
    let mut loops = JoinSet::new();
    for number in 0..50_u32 {
        let (client, stopped) = (client.clone(), stopped.clone());
        loops.spawn(async move {
            let mut count = 0_u32;
            while !*stopped.borrow() {
                let body = format!("{number}-{count}-").repeat(1 + (count as usize % 200));
                match client.post("/test", body.clone()).await {
                    Ok(response) => {
                        assert_eq!(response.status, 200, "{}", response.text());
                        assert!(response.text() == body, "request {number}-{count} got another answer");
                    }
                    // It died in the middle of this answer, of which the client has the head.
                    Err(error) => assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{error}"),
                }
                count += 1;
            }
            count
        });
    }
    for _ in 0..10 {
        let before = active.requests();
        eventually("requests at the primary", || async { active.requests() > before + 50 }).await;
        active.kill().await;
        sleep(Duration::from_millis(20)).await;
        active.restart().await.unwrap();
    }
    stop.send_replace(true);
    let counts = loops.join_all().await;
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// An endpoint that answers so many streams of each connection with 200, and says with the next one that it served
/// those and no more (GOAWAY), but keeps the connection open. Counts its connections.
async fn leaves_after(answers: u32) -> (SocketAddr, std::sync::Arc<std::sync::atomic::AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = std::sync::Arc::<std::sync::atomic::AtomicU32>::default();
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            tokio::spawn(async move {
                let mut preface = [0; 24];
                stream.read_exact(&mut preface).await.unwrap();
                stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
                let (mut head, mut answered, mut last) = ([0; 9], 0, 0);
                while stream.read_exact(&mut head).await.is_ok() {
                    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
                    stream.read_exact(&mut payload).await.unwrap();
                    let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                    let reply = match (head[3], head[4] & 1) {
                        // The SETTINGS are acknowledged.
                        (4, 0) => frame(4, 1, 0, &[]),
                        (1, _) if answered == answers => {
                            frame(7, 0, 0, &[&u32::to_be_bytes(last)[..], &[0; 4]].concat())
                        }
                        (1, _) => {
                            answered += 1;
                            last = id;
                            // `:status: 200`, which ends the headers and the stream.
                            frame(1, 5, id, &[0x88])
                        }
                        _ => continue,
                    };
                    stream.write_all(&reply).await.unwrap();
                }
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_stream_beyond_a_goaway_goes_to_the_same_endpoint_again_and_charges_nobody() {
    let (active, connections) = leaves_after(3).await;
    let passive = H2Backend::start("passive").await.unwrap();
    let proxy = Setup::new(&[active], &[passive.address()]).over_h2().start().await;
    let client = client(&proxy).await;
    for _ in 0..10 {
        // Not idempotent, and it makes no difference: nothing was processed.
        assert_eq!(client.post("/test", "x").await.unwrap().status, 200);
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 4);
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn an_endpoint_that_serves_no_stream_at_all_is_left_for_the_fallback() {
    let (active, connections) = leaves_after(0).await;
    let passive = H2Backend::start("passive").await.unwrap();
    let proxy = Setup::new(&[active], &[passive.address()]).over_h2().start().await;
    let client = client(&proxy).await;
    for _ in 0..5 {
        assert_eq!(client.post("/test", "x").await.unwrap().text(), "passive");
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
    // Many at once wait for one connection, and all of them leave it.
    let (active, _) = leaves_after(0).await;
    let proxy = Setup::new(&[active], &[passive.address()]).over_h2().start().await;
    assert_eq!(at_once(&self::client(&proxy).await, 50).await, [("passive".to_owned(), 50)].into());
}

#[tokio::test]
async fn a_client_cannot_name_headers_of_the_gateway_as_those_of_its_connection() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let request = Request::new("GET", HOST, "/test")
        .header("connection", "x-forwarded-for, x-forwarded-proto, x-request-id, x-own")
        .header("x-own", "1");
    assert_eq!(proxy.send(&request).await.unwrap().status, 200);
    let seen = &active.log()[0].headers;
    for name in ["x-forwarded-for", "x-forwarded-proto", "x-request-id"] {
        assert!(seen.contains_key(name), "{name}: {seen:?}");
    }
    assert!(!seen.contains_key("x-own"), "{seen:?}");
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks_from_an_endpoint_of_http_2() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(format!("GET /test HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nactive"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("chunked"), "{answer}");
}
