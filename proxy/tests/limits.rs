//! Limits of a pool on real sockets: what overflows, what waits, what is told to the client.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{HOST, Proxy, Setup, eventually, fallback, millis, no_retry, primary};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use understudy_conf::{CircuitBreaker, Overflow};
use understudy_testbed::{Behaviour, Client, Request, Response};

/// Long enough for all requests of a test to be under way together.
const SLOW: Duration = Duration::from_secs(2);

fn limited(setup: Setup, change: impl FnOnce(&mut CircuitBreaker)) -> Setup {
    setup.change_policy(|policy| change(&mut policy.circuit_breaker))
}

/// Sends so many requests at once, each on its own connection.
async fn at_once(proxy: &Proxy, count: usize) -> Vec<Response> {
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let address = proxy.address;
        tasks.spawn(async move {
            let mut client = Client::connect(address).await.unwrap().with_timeout(Duration::from_secs(30));
            client.get(HOST, "/test").await.unwrap()
        });
    }
    tasks.join_all().await
}

/// How many were answered by each pod; failures by their status.
fn counts(responses: &[Response]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for response in responses {
        let pod = response.pod().filter(|_| response.status == 200);
        *counts.entry(pod.unwrap_or(response.status.to_string())).or_default() += 1;
    }
    counts
}

fn expected(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

#[tokio::test]
async fn b2_twelve_at_once_with_room_for_five_go_to_the_fallback_while_it_has_room() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let proxy = limited(setup, |breaker| breaker.max_parallel_requests = 5).start().await;
    active.set(Behaviour::delayed(SLOW));
    passive.set(Behaviour::delayed(SLOW));
    let responses = at_once(&proxy, 12).await;
    assert_eq!(counts(&responses), expected(&[("active", 5), ("passive", 5), ("503", 2)]));
    for response in responses.iter().filter(|response| response.status == 503) {
        assert_eq!(response.header("x-envoy-overloaded"), Some("true"));
        assert_eq!(response.text(), "upstream overflow");
    }
    active.heal();
    assert_eq!(proxy.pods(3).await, common::all("active", 3), "O9: nobody is charged, and the room is free");
}

#[tokio::test]
async fn b2_an_overflow_is_rejected_where_that_is_asked_for() {
    // B2, as the real Envoy: 5 ok, 7 UO, nobody ejected. R5: no retry either.
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(common::retry(&[understudy_conf::RetryTrigger::Status5xx]));
    let setup = limited(setup, |breaker| {
        breaker.max_parallel_requests = 5;
        breaker.overflow = Overflow::Reject;
    });
    let proxy = setup.start().await;
    active.set(Behaviour::delayed(SLOW));
    assert_eq!(counts(&at_once(&proxy, 12).await), expected(&[("active", 5), ("503", 7)]));
    assert_eq!(passive.requests(), 0);
    active.heal();
    assert_eq!(proxy.pods(3).await, common::all("active", 3));
}

#[tokio::test]
async fn b3_two_connections_and_one_place_to_wait_serve_three_of_twelve() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = limited(Setup::new(&[active.address()], &[passive.address()]), |breaker| {
        breaker.max_connections = 2;
        breaker.max_pending_requests = 1;
        breaker.overflow = Overflow::Reject;
    });
    let mut proxy = setup.start().await;
    active.set(Behaviour::delayed(SLOW));
    passive.set(Behaviour::delayed(SLOW));
    assert_eq!(counts(&at_once(&proxy, 12).await), expected(&[("active", 3), ("503", 9)]));
    let setup = limited(setup, |breaker| breaker.overflow = Overflow::Fallback);
    proxy.publish(&setup.state()).await;
    let responses = at_once(&proxy, 12).await;
    assert_eq!(counts(&responses), expected(&[("active", 3), ("passive", 2), ("503", 7)]));
}

#[tokio::test]
async fn b3_all_that_wait_are_served_in_the_end() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let proxy = limited(setup, |breaker| breaker.max_connections = 3).start().await;
    active.set(Behaviour::delayed(Duration::from_millis(5)));
    for _ in 0..3 {
        assert_eq!(counts(&at_once(&proxy, 100).await), expected(&[("active", 100)]));
    }
    assert!(active.connections() <= 30, "they are used again: {}", active.connections());
}

#[tokio::test]
async fn b3_waiting_ends_with_the_requests_time() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(no_retry())
        .change_policy(|policy| policy.passive = None)
        .with_request_timeout(millis(500));
    let proxy = limited(setup, |breaker| breaker.max_connections = 1).start().await;
    active.set(Behaviour::Hang);
    let responses = at_once(&proxy, 4).await;
    assert_eq!(counts(&responses), expected(&[("504", 4)]));
    assert_eq!(passive.requests(), 0, "those that wait do not overflow");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_connection_back() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = limited(Setup::new(&[active.address()], &[passive.address()]), |breaker| {
        breaker.max_connections = 1;
        breaker.max_pending_requests = 0;
    });
    let proxy = setup.start().await;
    active.set(Behaviour::Hang);
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(b"GET /test HTTP/1.1\r\nHost: www.example.com\r\n\r\n").await.unwrap();
    assert!(active.wait_until(common::PATIENCE, |seen| seen.log().count() == 1).await);
    assert_eq!(proxy.pods(1).await, ["passive"], "the one connection is in use");
    client.reset();
    active.heal();
    eventually("the connection is free", async || proxy.pods(1).await == ["active"]).await;
}

#[tokio::test]
async fn a_limit_of_each_endpoint_spreads_requests_and_then_overflows() {
    let (one, two, passive) = (primary().await, primary().await, fallback().await);
    let setup = limited(Setup::new(&[one.address(), two.address()], &[passive.address()]), |breaker| {
        breaker.max_connections_per_endpoint = Some(2);
        breaker.max_pending_requests = 0;
    });
    let proxy = setup.start().await;
    for backend in [&one, &two, &passive] {
        backend.set(Behaviour::delayed(SLOW));
    }
    let responses = at_once(&proxy, 8).await;
    assert_eq!(counts(&responses), expected(&[("active", 4), ("passive", 2), ("503", 2)]));
    assert_eq!((one.requests(), two.requests()), (2, 2));
}

#[tokio::test]
async fn a_connection_is_closed_after_as_many_requests_as_it_may_carry() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = limited(Setup::new(&[active.address()], &[passive.address()]), |breaker| {
        breaker.max_requests_per_connection = Some(3);
    });
    let proxy = Proxy::start_with(&setup.state(), |options| options.threads = 1).await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    for _ in 0..9 {
        assert_eq!(client.send_request(&Request::get(HOST, "/test")).await.unwrap().status, 200);
    }
    assert_eq!(active.connections(), 3);
    let observed = active.observed();
    let log: Vec<_> = observed.log().collect();
    let closing: Vec<usize> =
        (0..log.len()).filter(|&index| log[index].header("connection") == Some("close")).collect();
    assert_eq!(closing, [2, 5, 8], "the endpoint is told");
}

#[tokio::test]
async fn no_connection_is_used_again_that_is_older_than_it_may_grow() {
    let longest = Duration::from_millis(400);
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .change_policy(|policy| policy.timeouts.max_connection = Some(millis(400)));
    let proxy = Proxy::start_with(&setup.state(), |options| options.threads = 1).await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    // When each connection was first used, and last.
    let mut used: BTreeMap<u64, (Instant, Instant)> = BTreeMap::new();
    let start = Instant::now();
    while start.elapsed() < longest * 4 {
        let before = Instant::now();
        assert_eq!(client.get(HOST, "/test").await.unwrap().status, 200);
        let connection = active.observed().log().last().unwrap().connection;
        used.entry(connection).or_insert((Instant::now(), before)).1 = before;
        sleep(Duration::from_millis(10)).await;
    }
    assert!((4..=10).contains(&used.len()), "{}", used.len());
    for (first, last) in used.values() {
        assert!(last.saturating_duration_since(*first) <= longest, "{:?}", *last - *first);
    }
    // What is idle does not live on for an hour.
    assert!(active.wait_until(common::PATIENCE, |observed| observed.open == 0).await);
    assert_eq!(passive.requests(), 0);
}
