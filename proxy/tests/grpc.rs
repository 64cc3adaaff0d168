//! gRPC through the proxy: calls, streams, statuses in headers, and answers of the proxy's own.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{HOST, PATIENCE, Proxy, Setup, eventually, millis, retry};
use tokio::time::{sleep, timeout};
use understudy_conf::{Policy, RetryTrigger};
use understudy_testbed::{Backend, H2Backend, H2Behaviour, H2Call, H2Client, Request, grpc_message};

const METHOD: &str = "/test.Shop/Buy";

async fn backends() -> (H2Backend, H2Backend) {
    let (active, passive) =
        (H2Backend::start("active").await.unwrap(), H2Backend::start("passive").await.unwrap());
    active.set(H2Behaviour::Grpc);
    passive.set(H2Behaviour::Grpc);
    (active, passive)
}

/// The route's prefix ends at a slash, so the method's path is below it.
fn setup(active: &H2Backend, passive: &H2Backend) -> Setup {
    Setup { path: "/".to_owned(), ..Setup::new(&[active.address()], &[passive.address()]) }.over_h2()
}

async fn client(proxy: &Proxy) -> H2Client {
    H2Client::connect(proxy.address, HOST).await.unwrap()
}

/// Who answered so many calls, each with its status of gRPC.
async fn calls(client: &H2Client, count: usize) -> Vec<(String, u16)> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let response = client.call(METHOD, b"hello").await.unwrap();
        assert_eq!(response.status, 200);
        let backend = response.backend().unwrap_or("gateway").to_owned();
        answers.push((backend, response.grpc_status().unwrap()));
    }
    answers
}

fn all(name: &str, status: u16, count: usize) -> Vec<(String, u16)> {
    vec![(name.to_owned(), status); count]
}

#[tokio::test]
async fn a_call_passes_with_its_message_and_its_trailers() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let response = client(&proxy).await.call(METHOD, b"hello").await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(0)));
    assert_eq!(response.body, grpc_message(b"hello"));
    assert!(response.headers.get("grpc-status").is_none(), "the status stands in the trailers");
    let request = &active.log()[0];
    assert_eq!(request.headers["te"], "trailers");
    assert_eq!(request.headers["content-type"], "application/grpc");
    assert_eq!(request.uri.path(), METHOD);
}

#[tokio::test]
async fn messages_of_a_stream_pass_one_by_one_in_both_directions() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).start().await;
    let client = client(&proxy).await;
    let mut call = client.stream(METHOD).await.unwrap();
    // Each answer comes before the next message is sent.
    for number in 0..20_u8 {
        call.send(grpc_message(&[number; 100]), false).await.unwrap();
        let mut read = Vec::new();
        while read.len() < 105 {
            read.extend_from_slice(&call.piece().await.unwrap().unwrap());
        }
        assert_eq!(read, grpc_message(&[number; 100]));
    }
    call.send(Default::default(), true).await.unwrap();
    let end = call.finish().await.unwrap();
    assert_eq!((end.body.len(), end.grpc_status()), (0, Some(0)));
}

#[tokio::test]
async fn o2_a_status_in_the_headers_counts_and_one_in_the_trailers_does_not() {
    for (behaviour, status, ejects) in [
        (H2Behaviour::GrpcStatus(14), 14, true),
        (H2Behaviour::GrpcStatus(13), 13, true),
        (H2Behaviour::GrpcStatus(12), 12, true),
        (H2Behaviour::GrpcStatus(5), 5, false),
        (H2Behaviour::GrpcStatus(16), 16, false),
        (H2Behaviour::GrpcTrailers(14), 14, false),
    ] {
        let (active, passive) = backends().await;
        let proxy = setup(&active, &passive).start().await;
        let client = client(&proxy).await;
        active.next(1, behaviour.clone());
        assert_eq!(calls(&client, 1).await, all("active", status, 1), "{behaviour:?}");
        let next = if ejects { "passive" } else { "active" };
        assert_eq!(calls(&client, 4).await, all(next, 0, 4), "{behaviour:?}");
    }
}

#[tokio::test]
async fn r4_a_status_in_the_headers_is_retried_by_its_trigger() {
    use RetryTrigger as T;
    for (trigger, status) in [
        (T::Cancelled, 1),
        (T::DeadlineExceeded, 4),
        (T::ResourceExhausted, 8),
        (T::Internal, 13),
        (T::Unavailable, 14),
    ] {
        let (active, passive) = backends().await;
        let proxy = setup(&active, &passive).with_retry(retry(&[trigger])).start().await;
        let client = client(&proxy).await;
        active.set(H2Behaviour::GrpcStatus(status));
        assert_eq!(calls(&client, 3).await, all("passive", 0, 3), "{trigger:?}");
        // One that it is not for, and one that came too late.
        let (active, passive) = backends().await;
        let proxy = setup(&active, &passive).with_retry(retry(&[trigger])).start().await;
        let client = self::client(&proxy).await;
        active.next(1, H2Behaviour::GrpcStatus(5));
        assert_eq!(calls(&client, 1).await, all("active", 5, 1), "{trigger:?}");
        active.next(1, H2Behaviour::GrpcTrailers(status));
        assert_eq!(calls(&client, 1).await, all("active", status, 1), "{trigger:?}");
    }
}

#[tokio::test]
async fn r14_answers_of_the_proxys_own_are_statuses_of_grpc() {
    let (active, passive) = backends().await;
    let proxy = setup(&active, &passive).with_request_timeout(millis(200)).start().await;
    let h2 = client(&proxy).await;
    active.kill().await;
    passive.set(H2Behaviour::Hang);
    let response = h2.call(METHOD, b"hello").await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(14)));
    assert_eq!(response.headers["grpc-message"], "upstream request timeout");
    assert_eq!(response.headers["content-type"], "application/grpc");
    assert!(response.trailers.is_empty() && response.body.is_empty());
    passive.kill().await;
    let response = h2.call(METHOD, b"hello").await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(14)));
    // No route.
    let other = H2Client::connect(proxy.address, HOST).await.unwrap();
    let elsewhere = Setup::new(&[active.address()], &[]).over_h2().start().await;
    drop(other);
    let response = client(&elsewhere).await.call("/other/Method", b"").await.unwrap();
    assert_eq!((response.status, response.grpc_status()), (200, Some(12)));
    // Who speaks no gRPC is answered as ever, and the metrics know only HTTP.
    assert_eq!(h2.get("/").await.unwrap().status, 503);
    for (class, count) in [("5xx", 3), ("2xx", 0)] {
        let line = format!(
            r#"understudy_requests_total{{code_class="{class}",route="httproute/default/ha-example/rule/0"}} {count}"#
        );
        eventually(&line, || async { proxy.admin("/metrics").await.text().contains(&line) }).await;
    }
}

#[tokio::test]
async fn calls_go_through_failover_and_return_without_an_error() {
    let (active, passive) = backends().await;
    let setup = setup(&active, &passive).change_policy(fast_return);
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    assert_eq!(calls(&client, 5).await, all("active", 0, 5));
    active.kill().await;
    assert_eq!(calls(&client, 20).await, all("passive", 0, 20));
    active.restart().await.unwrap();
    eventually("the primary's return", || async {
        let answers = calls(&client, 10).await;
        assert!(answers.iter().all(|(_, status)| *status == 0), "{answers:?}");
        answers == all("active", 0, 10)
    })
    .await;
}

fn fast_return(policy: &mut Policy) {
    policy.passive.as_mut().unwrap().base_ejection_time = millis(300);
}

#[tokio::test]
async fn an_endless_stream_lives_on_beyond_the_limits_of_requests_and_ends_with_its_endpoint() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::GrpcTicks(Duration::from_millis(20)));
    passive.set(H2Behaviour::GrpcTicks(Duration::from_millis(20)));
    let setup = setup(&active, &passive).change_policy(|policy| {
        fast_return(policy);
        policy.timeouts.stream_idle = millis(500);
    });
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    let mut call = client.stream(METHOD).await.unwrap();
    call.send(Default::default(), true).await.unwrap();
    for _ in 0..50 {
        assert_eq!(call.piece().await.unwrap().unwrap(), grpc_message(b"active"));
    }
    active.kill().await;
    let broken = timeout(PATIENCE, call.finish()).await.unwrap().unwrap_err();
    assert_eq!(broken.reason(), Some(h2::Reason::INTERNAL_ERROR), "{broken}");
    // The next one runs on the fallback, and stays there when the primary is back.
    let mut call = client.stream(METHOD).await.unwrap();
    call.send(Default::default(), true).await.unwrap();
    assert_eq!(call.piece().await.unwrap().unwrap(), grpc_message(b"passive"));
    active.set(H2Behaviour::Grpc);
    active.restart().await.unwrap();
    eventually("the primary's return", || async { calls_of_unary(&client).await == "active" }).await;
    for _ in 0..20 {
        assert_eq!(call.piece().await.unwrap().unwrap(), grpc_message(b"passive"));
    }
}

async fn calls_of_unary(client: &H2Client) -> String {
    // The fallback ticks without an end, so only the headers are waited for.
    let mut call = client.stream(METHOD).await.unwrap();
    call.send(Default::default(), true).await.unwrap();
    call.head().await.unwrap();
    let piece = call.piece().await.unwrap();
    call.reset();
    if piece.is_none() { "active".to_owned() } else { "passive".to_owned() }
}

#[tokio::test]
async fn a_call_over_http_1_1_gets_an_answer_of_ours_as_http_can_say_it() {
    let proxy = setup(&backends().await.0, &backends().await.1).start().await;
    let nobody = Backend::start("nobody").await.unwrap();
    nobody.kill().await;
    drop(proxy);
    let setup = Setup { path: "/".to_owned(), ..Setup::new(&[nobody.address()], &[]) };
    let proxy = setup.start().await;
    let request = Request::new("POST", HOST, METHOD).header("content-type", "application/grpc+proto");
    let response = proxy.send(&request).await.unwrap();
    assert_eq!((response.status, response.header("grpc-status")), (200, Some("14")));
    assert!(response.body.is_empty());
}

/// So many messages of a few bytes each, as fast as they are taken.
async fn send_small(call: &mut H2Call, count: usize) {
    for _ in 0..count {
        call.send(grpc_message(b"tick"), false).await.unwrap();
    }
}

#[tokio::test]
async fn many_small_messages_that_wait_for_a_slow_endpoint_end_no_connection() {
    let (active, passive) = backends().await;
    active.set_window(Some(100));
    active.set(H2Behaviour::Hang);
    let setup = setup(&active, &passive).change_policy(|policy| policy.timeouts.stream_idle = millis(60_000));
    let proxy = setup.start().await;
    let client = client(&proxy).await;
    let mut slow = client.stream(METHOD).await.unwrap();
    // As many as fit into the window that the proxy gives: each takes nine bytes.
    timeout(PATIENCE, send_small(&mut slow, 7000)).await.unwrap();
    sleep(Duration::from_millis(200)).await;
    assert!(client.is_open());
    let answer = timeout(Duration::from_millis(100), slow.head()).await;
    assert!(answer.is_err(), "the stream ended: {answer:?}");
}

#[tokio::test]
async fn many_small_messages_that_wait_for_a_slow_client_end_no_connection() {
    let (active, passive) = backends().await;
    active.set(H2Behaviour::GrpcTicks(Duration::ZERO));
    let proxy = setup(&active, &passive).start().await;
    let slow = client(&proxy).await;
    let mut call = slow.stream(METHOD).await.unwrap();
    call.send(Default::default(), true).await.unwrap();
    call.head().await.unwrap();
    // Nobody reads: what fits into the windows waits, in thousands of frames.
    sleep(Duration::from_millis(1500)).await;
    for _ in 0..5000 {
        assert_eq!(call.piece().await.unwrap().unwrap().len() % 11, 0);
    }
    assert_eq!(active.connections(), 1);
}
