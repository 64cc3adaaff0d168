//! Primaries that die under traffic, with the failover task's own settings: how many requests fail.
//!
//! The outage lasts 13 s, so that the first ejection ends in it; `UNDERSTUDY_OUTAGE_SECONDS=65` makes it as long
//! as the one that was measured on Envoy.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Gateway, backend, pod, task};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use understudy_testbed::Backend;

fn outage() -> Duration {
    let seconds = std::env::var("UNDERSTUDY_OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(13))
}

/// Sends requests at a steady rate, each on a connection of its own. Returns the answers that were no success.
async fn load(address: SocketAddr, per_second: u32, length: Duration) -> (usize, Vec<String>) {
    let end = Instant::now() + length;
    let mut beat = interval(Duration::from_secs(1) / per_second);
    beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut requests = JoinSet::new();
    while Instant::now() < end {
        beat.tick().await;
        requests.spawn(pod(address, "/test"));
    }
    let answers = requests.join_all().await;
    let failed =
        answers.iter().filter(|pod| !pod.starts_with("active") && *pod != "passive").cloned().collect();
    (answers.len(), failed)
}

async fn dead_primary(more: &str) -> (Gateway, Backend, Vec<String>) {
    let (active, passive) = (backend("active").await, backend("passive").await);
    let gateway = Gateway::start(&task(&[active.address()], passive.address(), more), &[]).await;
    assert_eq!(load(gateway.address, 50, Duration::from_secs(1)).await.1, Vec::<String>::new());
    active.kill().await;
    let before = gateway.requests_to(active.address()).await;
    let (sent, failed) = load(gateway.address, 50, outage()).await;
    assert!(sent as u64 >= outage().as_secs() * 49, "{sent} requests");
    let after = gateway.requests_to(active.address()).await;
    assert_eq!(after - before, 1, "one connect of a client's request, and after that only the trials' own");
    (gateway, passive, failed)
}

#[tokio::test]
async fn a_primary_that_stays_dead_fails_no_request() {
    // Envoy 1.40 with the same settings: 116 of 3,250 in 65 s.
    let (_gateway, _passive, failed) = dead_primary("").await;
    assert_eq!(failed, Vec::<String>::new());
}

#[tokio::test]
async fn a_primary_that_stays_dead_fails_exactly_one_request_with_num_retries_zero() {
    let (_gateway, _passive, failed) = dead_primary("  retry: {numRetries: 0}\n").await;
    assert_eq!(failed, ["503"]);
}

#[tokio::test]
async fn three_primaries_killed_together_fail_no_request() {
    let mut active = Vec::new();
    for index in 0..3 {
        active.push(backend(&format!("active-{index}")).await);
    }
    let passive = backend("passive").await;
    let addresses: Vec<SocketAddr> = active.iter().map(Backend::address).collect();
    let gateway = Gateway::start(&task(&addresses, passive.address(), ""), &[]).await;
    let start = Instant::now();
    let traffic = tokio::spawn(load(gateway.address, 200, Duration::from_secs(4)));
    // Between two requests: the rate leaves 5 ms.
    sleep_until(start + Duration::from_millis(1502)).await;
    for backend in &active {
        backend.kill().await;
    }
    let (sent, failed) = traffic.await.unwrap();
    assert!(sent >= 700, "{sent} requests");
    assert_eq!(failed, Vec::<String>::new());
    assert!(passive.requests() > 300);
}
