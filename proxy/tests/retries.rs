//! What a request goes through between its first attempt and its last.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{HOST, PATIENCE, Setup, all, endpoint, fallback, millis, passive, primary, retry};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use understudy_conf::{BackOff, PassiveHealthCheck, Percent, RetryTrigger};
use understudy_testbed::{Answer, Behaviour, Client, Content, Request};

/// The head of a POST, and its body in two pieces as they go over the wire.
fn in_two_pieces(body: &[u8], half: usize, chunked: bool) -> (Vec<u8>, Vec<u8>) {
    let frame = |piece: &[u8]| {
        if chunked {
            [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
        } else {
            piece.to_vec()
        }
    };
    let framing = match chunked {
        true => "Transfer-Encoding: chunked".to_owned(),
        false => format!("Content-Length: {}", body.len()),
    };
    let head = format!("POST /test HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n");
    let first = [head.as_bytes(), &frame(&body[..half])].concat();
    let end: &[u8] = if chunked { b"0\r\n\r\n" } else { b"" };
    (first, [&frame(&body[half..]), end].concat())
}

#[tokio::test]
async fn r12_an_answer_that_is_retried_while_the_client_still_sends_takes_the_whole_body_along() {
    for chunked in [false, true] {
        for (before, after) in [(10_000, 10_000), (10_000, 500_000), (32_768, 1_000_000)] {
            let (active, passive) = (primary().await, fallback().await);
            let setup = Setup::new(&[active.address()], &[passive.address()])
                .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
            let proxy = setup.start().await;
            active.set(Answer::status(503).early());
            passive.set(Behaviour::RequestBody);
            let body: Vec<u8> = (0..before + after).map(|index| (index % 251) as u8).collect();
            let (first, rest) = in_two_pieces(&body, before, chunked);
            let mut client = Client::connect(proxy.address).await.unwrap();
            client.send(&first).await.unwrap();
            // Only now is the rest sent: the second attempt is under way.
            let second = passive.wait_until(PATIENCE, |observed| observed.requests == 1);
            tokio::select! {
                seen = second => assert!(seen, "no second attempt"),
                early = client.read_some() => panic!("{before} bytes: {:?}", String::from_utf8(early.unwrap())),
            }
            client.send(&rest).await.unwrap();
            let response = client.read_response("POST").await.unwrap();
            assert_eq!(response.status, 200);
            assert!(response.body == body, "{before} + {after} bytes, chunked: {chunked}");
        }
    }
}

#[tokio::test]
async fn r12_a_body_beyond_the_limit_gives_up_its_retry_while_the_client_still_sends() {
    for size in [33_000, 50_000, 64 * 1024, 70_000, 200_000] {
        let active = endpoint(move |mut stream| async move {
            let mut body = vec![0; size];
            stream.read_exact(&mut body).await.unwrap();
            stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await.unwrap();
            let _ = stream.read_to_end(&mut body).await;
        })
        .await;
        let passive = fallback().await;
        let setup = Setup::new(&[active], &[passive.address()])
            .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
        let proxy = setup.start().await;
        let (first, rest) = in_two_pieces(&vec![b'b'; size + 1000], size, false);
        let mut client = Client::connect(proxy.address).await.unwrap();
        client.send(&first).await.unwrap();
        let head = client.read_head().await.unwrap();
        assert_eq!(head.status, 503, "{size} bytes");
        client.send(&rest).await.unwrap();
        assert_eq!(client.read_body(head, "POST").await.unwrap().text(), "busy");
        assert_eq!(passive.requests(), 0);
        proxy.wait_until_idle().await;
    }
}

#[tokio::test]
async fn an_informational_answer_does_not_stand_for_the_answer() {
    for (hangs, status) in [(false, 503), (true, 504)] {
        let active = endpoint(move |mut stream| async move {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
            stream.read_exact(&mut [0; 5]).await.unwrap();
            if hangs {
                let _ = stream.read_u8().await;
            }
        })
        .await;
        let passive = fallback().await;
        let setup = Setup::new(&[active], &[passive.address()]).with_request_timeout(millis(400));
        let proxy = setup.start().await;
        let request = Request::new("POST", HOST, "/test").header("Expect", "100-continue").body("hello");
        let response = proxy.send(&request).await.unwrap();
        assert_eq!(response.status, status);
        assert_eq!(response.interim.first().map(|interim| interim.status), Some(100));
        assert_eq!(proxy.pods(3).await, all("passive", 3), "the endpoint is to blame");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_silent_for_too_long_before_its_answer_is_504_and_ejects() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_request_timeout(millis(0))
        .change_policy(|policy| policy.timeouts.stream_idle = millis(300));
    let proxy = setup.start().await;
    active.set(Behaviour::Hang);
    assert_eq!(proxy.get().await.status, 504);
    assert_eq!(proxy.pods(3).await, all("passive", 3));
}

#[tokio::test]
async fn o7_a_stream_that_is_cut_since_nothing_moved_ejects_nobody() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .change_policy(|policy| policy.timeouts.stream_idle = millis(1000));
    let proxy = setup.start().await;
    active.next(1, Behaviour::StallMidBody);
    assert!(proxy.send(&Request::get(HOST, "/test")).await.is_err());
    assert_eq!(proxy.pods(3).await, all("active", 3));
    // A client that does not read stops the stream as well.
    active.next(1, Answer::status(200).content(Content::Size(60_000_000)));
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(&Request::get(HOST, "/test").to_bytes()).await.unwrap();
    assert!(active.wait_until(PATIENCE, |observed| observed.requests == 5).await);
    proxy.wait_until_idle().await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
}

#[tokio::test]
async fn r9_when_no_endpoint_is_left_after_the_back_off_the_client_gets_the_last_failure() {
    // Both endpoints are out by the time of the retries: the fallback with its first refused connection, the
    // primary with the last of the answers.
    let count = 20;
    let (active, passive_backend) = (primary().await, fallback().await);
    let mut retries = retry(&[RetryTrigger::GatewayError]);
    retries.back_off = BackOff { base_interval: millis(600), max_interval: millis(600) };
    let setup = Setup::new(&[active.address()], &[passive_backend.address()])
        .with_retry(retries)
        .change_policy(|policy| {
            policy.panic_threshold = Percent::new(0).unwrap();
            policy.passive = Some(PassiveHealthCheck {
                consecutive_5xx_errors: count,
                split_external_local_origin_errors: true,
                ..passive()
            });
        });
    let proxy = setup.start().await;
    active.set(Answer::status(502).delay(Duration::from_millis(300)));
    passive_backend.kill().await;
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..count {
        let address = proxy.address;
        requests.spawn(async move { understudy_testbed::get(address, HOST, "/test").await.unwrap() });
    }
    let answers = requests.join_all().await;
    assert!(answers.iter().all(|answer| answer.text() != "no healthy upstream"), "{answers:?}");
    assert!(answers.iter().any(|answer| answer.status == 502), "{answers:?}");
}

#[tokio::test]
async fn r7_a_back_off_ends_with_the_requests_limit() {
    let (active, passive) = (primary().await, fallback().await);
    let mut retries = retry(&[RetryTrigger::RetriableStatusCodes]);
    retries.back_off = BackOff { base_interval: millis(3_600_000), max_interval: millis(3_600_000) };
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(retries)
        .with_request_timeout(millis(300));
    let proxy = setup.start().await;
    active.set(Behaviour::Status(503));
    let start = Instant::now();
    assert_eq!(proxy.get().await.status, 504);
    assert!(start.elapsed() >= Duration::from_millis(300) && start.elapsed() < Duration::from_secs(5));
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn all_attempts_of_a_request_carry_the_same_identifier() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]))
        .change_policy(|policy| policy.passive = None);
    let proxy = setup.start().await;
    active.set(Behaviour::Status(503));
    let long = "x".repeat(129);
    for (own, kept) in [(None, false), (Some("abc-1"), true), (Some(long.as_str()), false)] {
        let mut request = Request::get(HOST, "/test");
        if let Some(own) = own {
            request = request.header("X-Request-Id", own);
        }
        assert_eq!(proxy.send(&request).await.unwrap().status, 200);
        let id = |backend: &understudy_testbed::Backend| {
            let seen = backend.observed().log().last().unwrap().clone();
            seen.header("x-request-id").map(str::to_owned).unwrap()
        };
        assert_eq!(id(&active), id(&passive));
        assert_eq!(Some(id(&active).as_str()) == own, kept);
    }
}

#[tokio::test]
async fn hostile_bytes_in_forwarding_headers_harm_nobody() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    let mut bytes = format!("GET /test HTTP/1.1\r\nHost: {HOST}\r\nX-Forwarded-For: ").into_bytes();
    bytes
        .extend_from_slice(b"\xff\xfe, 1.2.3.4\r\nX-Forwarded-For: \"evil\"\r\nX-Request-Id: a\xffb\r\n\r\n");
    client.send(&bytes).await.unwrap();
    assert_eq!(client.read_response("GET").await.unwrap().status, 200);
    let seen = active.observed().log().last().unwrap().clone();
    assert_eq!(seen.header("x-forwarded-for"), Some("\"evil\", 127.0.0.1"));
    assert_eq!(seen.header("x-request-id").map(str::len), Some(36));
}
