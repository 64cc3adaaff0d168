//! What users see: the access log, the metrics, the acknowledgement.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{HOST, Proxy, Setup, eventually, fallback, no_retry, primary};
use understudy_conf::store::{read_reports, reports_file};
use understudy_conf::{HeaderValue, HttpFilter, Percent, SwitchKind};
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

#[tokio::test]
async fn a_switch_is_reported_soon_with_the_backends_that_it_concerns_and_counters_alone_are_not() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    let reports = || read_reports(proxy.folder()).unwrap().unwrap_or_default();
    eventually("the first report", || async { reports().started_ms > 0 }).await;
    assert!(reports().pools.is_empty(), "a sound pool is left out");
    let written = || std::fs::metadata(reports_file(proxy.folder())).unwrap().modified().unwrap();
    let first = written();
    proxy.pods(20).await;
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    // A machine that is busy for half a minute may write the counters.
    assert!(written() == first || first.elapsed().unwrap().as_secs() >= 25);

    active.kill().await;
    proxy.pods(1).await;
    eventually("the failover", || async { reports().switches.len() >= 2 }).await;
    let seen = reports();
    let kinds: Vec<SwitchKind> = seen.switches.iter().map(|switch| switch.kind).collect();
    assert_eq!(kinds, [SwitchKind::Ejection, SwitchKind::Failover]);
    for (index, switch) in seen.switches.iter().enumerate() {
        assert_eq!(switch.seq, index as u64 + 1);
        assert_eq!(switch.backends, ["backend/default/0"], "{switch:?}");
        assert!(switch.at_ms >= seen.started_ms);
    }
    let endpoint = &seen.pools[0].endpoints[0];
    let since = endpoint.health.since_ms.unwrap();
    assert!(since.abs_diff(seen.switches[0].at_ms) < 1000, "{since} {:?}", seen.switches[0]);
    assert_eq!(endpoint.backend, "backend/default/0");
}

#[tokio::test]
async fn a_reference_without_an_endpoint_is_reported() {
    let passive = fallback().await;
    let proxy = Setup::new(&[], &[passive.address()]).start().await;
    eventually("the report", || async {
        let reports = read_reports(proxy.folder()).unwrap().unwrap_or_default();
        reports.pools.iter().any(|pool| pool.without_endpoints == ["backend/default/0"])
    })
    .await;
}
