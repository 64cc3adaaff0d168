//! What users see: the access log, the metrics, the acknowledgement.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{HOST, Proxy, Setup, eventually, fallback, no_retry, primary};
use understudy_conf::{HeaderValue, HttpFilter, Percent};
use understudy_proxy::access_log::LogDestination;
use understudy_proxy::{AccessLogOptions, LogFormat};
use understudy_testbed::Request;

const POOL: &str = "httproute/default/ha-example/rule/0";

async fn lines(file: &std::path::Path, count: usize) -> Vec<serde_json::Value> {
    let read = || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<_>>()
    };
    eventually("the log's lines", || async { read().len() >= count }).await;
    read()
}

#[tokio::test]
async fn the_access_log_says_what_happened_to_a_request_that_failed_over() {
    let (active, passive) = (primary().await, fallback().await);
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("access.log");
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let proxy = Proxy::start_with(&setup.state(), |options| {
        let destination = LogDestination::File(file.clone());
        options.access_log = AccessLogOptions { destination, format: LogFormat::Json };
    })
    .await;
    active.kill().await;
    let request = Request::get(HOST, "/test?a=1").header("X-Request-Id", "mine");
    assert_eq!(proxy.send(&request).await.unwrap().status, 200);
    // A line is written after its answer: the next request must not overtake it.
    lines(&file, 1).await;
    passive.kill().await;
    assert_eq!(proxy.get().await.status, 503);
    let seen = lines(&file, 2).await;
    let text = |index: usize, field: &str| seen[index][field].as_str().map(str::to_owned);
    let address = |address: std::net::SocketAddr| Some(address.to_string());
    assert_eq!(
        (&seen[0]["status"], &seen[0]["attempts"], &seen[0]["retries"]),
        (&200.into(), &2.into(), &1.into())
    );
    assert_eq!(
        (text(0, "pool").as_deref(), text(0, "endpoint")),
        (Some("fallback"), address(passive.address()))
    );
    assert_eq!(text(0, "cause").as_deref(), Some("connection refused"));
    assert_eq!(text(0, "request_id").as_deref(), Some("mine"), "the client's own");
    assert_eq!(seen[1]["status"], 503);
    assert_eq!(text(1, "cause").as_deref(), Some("connection refused"));
    assert!(text(1, "flags").is_some_and(|flags| flags.contains("UF")), "{}", seen[1]);
}

#[tokio::test]
async fn the_metrics_say_which_priority_serves() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(no_retry())
        .change_policy(|policy| policy.panic_threshold = Percent::new(0).unwrap());
    let proxy = setup.start().await;
    let serving = async |expected: i64| {
        let metrics = proxy.admin("/metrics").await.text();
        let line = format!("understudy_pool_serving{{pool=\"{POOL}\"}} {expected}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    };
    serving(0).await;
    active.kill().await;
    proxy.get().await;
    serving(1).await;
    passive.kill().await;
    proxy.get().await;
    serving(-1).await;
}

#[tokio::test]
async fn what_was_wrong_with_a_pool_and_is_repaired_is_no_longer_told() {
    let (active, passive) = (primary().await, fallback().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()]);
    let wrong = HeaderValue { name: "no header".to_owned(), value: "x".to_owned() };
    setup.ref_filters =
        vec![HttpFilter::RequestHeaders { set: vec![wrong], add: Vec::new(), remove: Vec::new() }];
    let mut proxy = setup.start().await;
    proxy.wait_for_acknowledgement(|ack| !ack.degraded.is_empty()).await;
    setup.ref_filters.clear();
    proxy.publish(&setup.state()).await;
    proxy.wait_for_acknowledgement(|ack| ack.degraded.is_empty()).await;
}
