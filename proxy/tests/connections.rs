//! Clients' connections: upgrades, pipelining, bodies that nobody reads, clients that go away.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{HOST, PATIENCE, Proxy, Setup, all, endpoint, eventually, fallback, millis, primary, retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};
use understudy_conf::RetryTrigger;
use understudy_testbed::{Answer, Behaviour, Blackhole, Client, Content, OnAccept, Request};

fn upgrade() -> Request {
    Request::get(HOST, "/test")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn an_upgraded_connection_lives_on_beyond_the_requests_limits() {
    let active = endpoint(|mut stream| async move {
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let mut bytes = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut bytes).await {
            stream.write_all(&bytes[..length]).await.unwrap();
        }
    })
    .await;
    let passive = fallback().await;
    let limit = Duration::from_millis(300);
    let mut retries = retry(&[RetryTrigger::Reset]);
    retries.per_try_timeout = Some(millis(200));
    let setup = Setup::new(&[active], &[passive.address()])
        .with_retry(retries)
        .with_request_timeout(millis(300))
        .change_policy(|policy| policy.timeouts.stream_idle = millis(300));
    let proxy = setup.start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(&upgrade().to_bytes()).await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 101);
    let start = Instant::now();
    while start.elapsed() < limit * 3 {
        client.send(b"ping").await.unwrap();
        assert_eq!(client.read_some().await.unwrap(), b"ping");
        sleep(Duration::from_millis(30)).await;
    }
    // Silence does not end it either.
    sleep(limit * 2).await;
    client.send(b"pong").await.unwrap();
    assert_eq!(client.read_some().await.unwrap(), b"pong");
    assert_eq!(proxy.active().await, 1);
    drop(client);
    proxy.wait_until_idle().await;
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn an_upgraded_connection_ends_with_the_longest_stream() {
    let active = endpoint(|mut stream| async move {
        let switch = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(switch).await.unwrap();
        let mut bytes = [0; 64];
        while let Ok(length @ 1..) = stream.read(&mut bytes).await {
            let _ = stream.write_all(&bytes[..length]).await;
        }
    })
    .await;
    let passive = fallback().await;
    let setup = Setup::new(&[active], &[passive.address()]).change_policy(|policy| {
        policy.timeouts.max_stream = Some(millis(500));
        policy.timeouts.stream_idle = millis(100);
    });
    let proxy = setup.start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    let start = Instant::now();
    client.send(&upgrade().to_bytes()).await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 101);
    let mut answered = 0;
    while client.send(b"ping").await.is_ok() && client.read_some().await.is_ok_and(|bytes| !bytes.is_empty())
    {
        answered += 1;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() >= Duration::from_millis(500) && start.elapsed() < Duration::from_secs(5));
    assert!(answered > 1);
    proxy.wait_until_idle().await;
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn requests_that_do_not_wait_for_the_answer_before_get_theirs_in_turn() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    active.next(1, Behaviour::delayed(Duration::from_millis(100)));
    let head = |path: &str| Request::get(HOST, path).to_bytes();
    // One while the first is under way, two more in one piece.
    client.send(&head("/test/1")).await.unwrap();
    assert!(active.wait_until(PATIENCE, |observed| observed.requests == 1).await);
    client.send(&head("/test/2")).await.unwrap();
    assert_eq!(client.read_response("GET").await.unwrap().status, 200);
    assert_eq!(client.read_response("GET").await.unwrap().status, 200);
    client.send(&[head("/test/3"), head("/other"), head("/test/4")].concat()).await.unwrap();
    for expected in [200, 404, 200] {
        assert_eq!(client.read_response("GET").await.unwrap().status, expected);
    }
    let targets: Vec<_> = active.observed().log().map(|seen| seen.target.clone()).collect();
    assert_eq!(targets, ["/test/1", "/test/2", "/test/3", "/test/4"]);
}

#[tokio::test]
async fn the_answer_to_a_body_that_no_route_wants_reaches_its_client() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let unwanted = [
        Request::new("POST", HOST, "/other").body(vec![b'b'; 8_000_000]),
        Request::new("POST", HOST, "/other").chunked_body(vec![b'c'; 8_000_000]),
    ];
    for request in unwanted.iter().cycle().take(6) {
        assert_eq!(proxy.send(request).await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn an_early_answer_reaches_a_client_that_is_still_sending() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(Answer::status(413).early());
    for _ in 0..6 {
        let request = Request::new("POST", HOST, "/test").body(vec![b'b'; 8_000_000]);
        assert_eq!(proxy.send(&request).await.unwrap().status, 413);
    }
}

#[tokio::test]
async fn a_client_that_asks_before_it_sends_its_body_is_told_that_the_connection_ends() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let asking = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    };
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(asking("/other").as_bytes()).await.unwrap();
    let response = client.read_response("POST").await.unwrap();
    assert!(response.status == 404 && !response.keeps_alive(), "{response:?}");
    // Where a route wants it, the endpoint says when to send.
    active.set(Behaviour::RequestBody);
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(asking("/test").as_bytes()).await.unwrap();
    assert!(active.wait_until(PATIENCE, |observed| observed.requests == 1).await);
    assert!(client.read_some().await.unwrap().starts_with(b"HTTP/1.1 100 "));
    client.send(b"hello").await.unwrap();
    assert_eq!(client.read_response("POST").await.unwrap().text(), "hello");
}

#[tokio::test]
async fn the_answer_to_a_failure_reaches_a_client_that_is_still_sending() {
    for _ in 0..5 {
        let active = endpoint(|stream| async move {
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        })
        .await;
        let passive = fallback().await;
        let proxy = Setup::new(&[active], &[passive.address()]).start().await;
        let request = Request::new("POST", HOST, "/test").body(vec![b'b'; 8_000_000]);
        let response = proxy.send(&request).await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (503, "upstream connection termination"));
    }
}

#[tokio::test]
async fn an_early_answer_from_an_endpoint_that_reads_no_body_leaves_no_request_behind() {
    let active = endpoint(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        // Open, and silent.
        std::future::pending::<()>().await;
    })
    .await;
    let passive = fallback().await;
    let setup = Setup::new(&[active], &[passive.address()])
        .change_policy(|policy| policy.timeouts.stream_idle = millis(300));
    let proxy = setup.start().await;
    let mut client = Client::connect(proxy.address).await.unwrap().with_timeout(PATIENCE);
    let head = format!("POST /test HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 64000000\r\n\r\n");
    client.send(head.as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move {
        let piece = vec![b'b'; 1_000_000];
        for _ in 0..64 {
            if client.send(&piece).await.is_err() {
                break;
            }
        }
        client
    });
    eventually("the request", || async { proxy.active().await == 1 }).await;
    proxy.wait_until_idle().await;
    sending.abort();
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind_in_any_phase() {
    let (active, passive) = (primary().await, fallback().await);
    let silent = Blackhole::start().await.unwrap();
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let connecting = Setup::new(&[silent.address()], &[])
        .change_policy(|policy| policy.timeouts.connect = millis(500))
        .start()
        .await;
    let get = Request::get(HOST, "/test").to_bytes();
    let upload =
        format!("POST /test HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 99999\r\n\r\nhalf").into_bytes();
    let big = Behaviour::from(Answer::status(200).content(Content::Size(50_000_000)));
    let phases = [
        (&proxy, Behaviour::Hang, &get),
        (&proxy, Behaviour::StallMidBody, &get),
        (&proxy, big, &get),
        (&proxy, Behaviour::Echo, &upload),
        (&connecting, Behaviour::Echo, &get),
    ];
    for (proxy, behaviour, bytes) in phases {
        active.set(behaviour.clone());
        let mut client = Client::connect(proxy.address).await.unwrap();
        client.send(bytes).await.unwrap();
        eventually("the request", || async { proxy.active().await == 1 }).await;
        client.reset();
        proxy.wait_until_idle().await;
        assert_eq!(passive.requests(), 0, "{behaviour:?}: the endpoint is not to blame");
    }
    active.heal();
    assert_eq!(proxy.pods(3).await, all("active", 3));
}

#[tokio::test]
async fn answers_without_a_body_leave_their_connection_free_of_limits() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_request_timeout(millis(200));
    // With one thread, so that every request finds the connection of the one before.
    let proxy = Proxy::start_with(&setup.state(), |options| options.threads = 1).await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    for (method, status) in [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 200)] {
        active.next(1, Behaviour::Status(status));
        let response = client.send_request(&Request::new(method, HOST, "/test")).await.unwrap();
        assert_eq!(response.status, status);
        sleep(Duration::from_millis(250)).await;
    }
    assert_eq!(active.connections(), 1, "no limit of a request before has closed it");
}

#[tokio::test]
async fn connections_that_died_with_a_restart_cost_no_request() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    for _ in 0..3 {
        active.next(20, Behaviour::delayed(Duration::from_millis(100)));
        let mut many = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let address = proxy.address;
            many.spawn(async move { understudy_testbed::get(address, HOST, "/test").await.unwrap().status });
        }
        assert_eq!(many.join_all().await, [200; 20]);
        active.kill().await;
        active.restart().await.unwrap();
        assert_eq!(proxy.pods(20).await, all("active", 20));
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_as_soon_as_it_stands_is_503_and_the_next_request_is_served() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.on_accept(OnAccept::Reset);
    let first = proxy.get().await.status;
    assert!(first == 503 || first == 200, "{first}");
    assert_eq!(proxy.pods(5).await, all("passive", 5));
    proxy.wait_until_idle().await;
}

#[tokio::test]
async fn requests_under_way_are_finished_when_the_proxy_stops() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.next(1, Behaviour::delayed(Duration::from_millis(300)));
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(&Request::get(HOST, "/test").to_bytes()).await.unwrap();
    assert!(active.wait_until(PATIENCE, |observed| observed.requests == 1).await);
    let (response, ()) = tokio::join!(client.read_response("GET"), proxy.stop());
    let response = response.unwrap();
    assert_eq!((response.status, response.pod().as_deref()), (200, Some("active")));
}
