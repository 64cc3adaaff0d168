//! Each kind of failure on real sockets: what the client gets, and who serves the next request.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{HOST, Setup, all, eventually, fallback, millis, no_retry, primary, retry};
use tokio::time::Instant;
use understudy_conf::{EndpointAddress, PassiveHealthCheck, RetryTrigger, RuleTimeouts};
use understudy_testbed::{Behaviour, Blackhole, Request};

fn garbage() -> Behaviour {
    Behaviour::Garbage(b"\x16\x03\x01 this is no HTTP\r\n\r\n".to_vec())
}

#[tokio::test]
async fn a_killed_primary_fails_no_request() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    assert_eq!(proxy.pods(10).await, all("active", 10));
    active.kill().await;
    assert_eq!(proxy.pods(10).await, all("passive", 10));
}

#[tokio::test]
async fn with_num_retries_zero_exactly_one_request_fails_after_the_kill() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_retry(no_retry());
    let proxy = setup.start().await;
    assert_eq!(proxy.pods(10).await, all("active", 10));
    active.kill().await;
    let mut expected = all("passive", 10);
    "503".clone_into(&mut expected[0]);
    assert_eq!(proxy.pods(10).await, expected);
}

#[tokio::test]
async fn one_failing_status_is_passed_on_and_the_next_request_goes_to_the_fallback() {
    for status in [500, 501, 502, 503, 504, 505, 599] {
        let (active, passive) = (primary().await, fallback().await);
        let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
        active.next(1, Behaviour::Status(status));
        assert_eq!(proxy.get().await.status, status);
        assert_eq!(proxy.pods(6).await, all("passive", 6), "after {status}");
    }
}

#[tokio::test]
async fn statuses_below_500_eject_nobody() {
    for status in [404, 429] {
        let (active, passive) = (primary().await, fallback().await);
        let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
        active.next(1, Behaviour::Status(status));
        assert_eq!(proxy.get().await.status, status);
        assert_eq!(proxy.pods(6).await, all("active", 6));
    }
}

#[tokio::test]
async fn a_503_is_retried_where_the_policy_says_so() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
    let proxy = setup.start().await;
    active.set(Behaviour::Status(503));
    assert_eq!(proxy.pods(5).await, all("passive", 5));
    assert_eq!(active.requests(), 1);
}

#[tokio::test]
async fn a_connection_that_ends_before_the_answer_is_503_and_ejects() {
    for behaviour in [Behaviour::ResetBeforeHeaders, Behaviour::CloseBeforeHeaders] {
        let (active, passive) = (primary().await, fallback().await);
        let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
        active.set(behaviour);
        let response = proxy.get().await;
        assert_eq!(response.status, 503);
        assert_eq!(response.text(), "upstream connection termination");
        assert_eq!(proxy.pods(6).await, all("passive", 6));
    }
}

#[tokio::test]
async fn with_the_trigger_reset_it_is_retried() {
    for behaviour in [Behaviour::ResetBeforeHeaders, Behaviour::CloseBeforeHeaders, garbage()] {
        let (active, passive) = (primary().await, fallback().await);
        let setup =
            Setup::new(&[active.address()], &[passive.address()]).with_retry(retry(&[RetryTrigger::Reset]));
        let proxy = setup.start().await;
        active.set(behaviour);
        assert_eq!(proxy.pods(6).await, all("passive", 6));
    }
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_502_and_ejects() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(garbage());
    assert_eq!(proxy.get().await.status, 502);
    assert_eq!(proxy.pods(6).await, all("passive", 6));
}

#[tokio::test]
async fn a_hanging_endpoint_is_504_at_the_request_timeout_and_ejected() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_request_timeout(millis(300));
    let proxy = setup.start().await;
    active.set(Behaviour::Hang);
    let start = Instant::now();
    let response = proxy.get().await;
    assert_eq!((response.status, response.text().as_str()), (504, "upstream request timeout"));
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(proxy.pods(6).await, all("passive", 6));
}

#[tokio::test]
async fn a_hanging_endpoint_is_charged_when_the_limit_of_one_attempt_is_reached() {
    // O8
    let (active, passive) = (primary().await, fallback().await);
    let mut retries = retry(&[RetryTrigger::Reset]);
    retries.per_try_timeout = Some(millis(200));
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_retry(retries);
    let proxy = setup.start().await;
    active.set(Behaviour::Hang);
    assert_eq!(proxy.pods(6).await, all("passive", 6));
    assert_eq!(active.requests(), 1, "ejected by the first");
}

#[tokio::test]
async fn a_routes_backend_request_timeout_limits_one_attempt() {
    let (active, passive) = (primary().await, fallback().await);
    let mut setup =
        Setup::new(&[active.address()], &[passive.address()]).with_retry(retry(&[RetryTrigger::Reset]));
    setup.timeouts = Some(RuleTimeouts { request: Some(millis(10_000)), backend_request: Some(millis(200)) });
    let proxy = setup.start().await;
    active.set(Behaviour::Hang);
    assert_eq!(proxy.pods(3).await, all("passive", 3));
}

#[tokio::test]
async fn a_black_hole_is_ejected_after_the_first_request_though_its_connect_timeout_is_longer() {
    // O6, replaced: Envoy answers 504 to every request here.
    let (active, passive) = (Blackhole::start().await.unwrap(), fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_request_timeout(millis(300));
    let proxy = setup.start().await;
    let start = Instant::now();
    assert_eq!(proxy.get().await.status, 504);
    assert!(start.elapsed() < Duration::from_secs(5), "not the connect timeout of 10 s");
    assert_eq!(proxy.pods(6).await, all("passive", 6));
}

#[tokio::test]
async fn a_connect_timeout_moves_the_request_to_the_fallback() {
    let (active, passive) = (Blackhole::start().await.unwrap(), fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .change_policy(|policy| policy.timeouts.connect = millis(200));
    let proxy = setup.start().await;
    assert_eq!(proxy.pods(3).await, all("passive", 3));
}

#[tokio::test]
async fn a_connect_that_is_pending_when_the_limit_of_one_attempt_is_reached_is_retried() {
    // R7, replaced: Envoy waits for the whole connect timeout.
    let (active, passive) = (Blackhole::start().await.unwrap(), fallback().await);
    let mut retries = retry(&[RetryTrigger::ConnectFailure]);
    retries.per_try_timeout = Some(millis(200));
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_retry(retries);
    let proxy = setup.start().await;
    let start = Instant::now();
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    assert!(start.elapsed() < Duration::from_secs(5), "not the connect timeout of 10 s");
}

#[tokio::test]
async fn an_answer_cut_in_its_body_ejects_and_reaches_the_client_as_it_is() {
    for how in [Behaviour::ResetMidBody, Behaviour::CloseMidBody] {
        let (active, passive) = (primary().await, fallback().await);
        let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
        active.set(how);
        let cut = proxy.send(&Request::get(HOST, "/test")).await;
        assert!(cut.is_err(), "a body of half its length is an error: {cut:?}");
        assert_eq!(proxy.pods(6).await, all("passive", 6));
    }
}

#[tokio::test]
async fn o7_a_body_that_stalls_until_the_request_timeout_is_cut_and_ejects_nobody() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).with_request_timeout(millis(300));
    let proxy = setup.start().await;
    active.next(1, Behaviour::StallMidBody);
    let start = Instant::now();
    assert!(proxy.send(&Request::get(HOST, "/test")).await.is_err());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(proxy.pods(6).await, all("active", 6));
}

#[tokio::test]
async fn a_stream_that_is_silent_for_too_long_is_cut() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .change_policy(|policy| policy.timeouts.stream_idle = millis(300));
    let proxy = setup.start().await;
    active.next(1, Behaviour::StallMidBody);
    let start = Instant::now();
    assert!(proxy.send(&Request::get(HOST, "/test")).await.is_err());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_stream_that_lasts_too_long_is_504_or_cut_and_nobody_is_charged() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(retry(&[RetryTrigger::Reset, RetryTrigger::Status5xx]))
        .change_policy(|policy| policy.timeouts.max_stream = Some(millis(300)));
    let proxy = setup.start().await;
    for (behaviour, cut) in [
        (Behaviour::Hang, false),
        (Behaviour::StallMidBody, true),
        // It moves all the time, and does not end.
        (Behaviour::SlowBody { piece: 1, pause: Duration::from_millis(20) }, true),
    ] {
        active.next(1, behaviour);
        let start = Instant::now();
        let answer = proxy.send(&Request::get(HOST, "/test")).await;
        assert!(start.elapsed() >= Duration::from_millis(300));
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(answer.as_ref().ok().map(|answer| answer.status), (!cut).then_some(504));
        if let Ok(answer) = answer {
            assert_eq!(answer.text(), "upstream max stream duration reached");
        }
        assert_eq!(proxy.pods(3).await, all("active", 3), "O9");
    }
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn o25_a_request_under_way_at_an_ejected_endpoint_finishes() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.next(1, Behaviour::delayed(Duration::from_millis(600)));
    let slow = async { proxy.get().await.pod() };
    let others = async {
        assert!(active.wait_until(common::PATIENCE, |observed| observed.requests == 1).await);
        active.next(1, Behaviour::Status(500));
        assert_eq!(proxy.get().await.status, 500);
        assert_eq!(proxy.pods(2).await, all("passive", 2));
    };
    let (pod, ()) = tokio::join!(slow, others);
    assert_eq!(pod.as_deref(), Some("active"));
}

#[tokio::test]
async fn both_dead_is_503_and_the_primary_serves_as_soon_as_it_is_back() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]).change_policy(|policy| {
        let base_ejection_time = millis(300);
        policy.passive = Some(PassiveHealthCheck { base_ejection_time, ..common::passive() });
    });
    let proxy = setup.start().await;
    active.kill().await;
    passive.kill().await;
    for _ in 0..5 {
        let response = proxy.get().await;
        assert_eq!((response.status, response.text().as_str()), (503, "upstream connection failure"));
    }
    active.restart().await.unwrap();
    eventually("the primary's return", || async { proxy.get().await.pod().as_deref() == Some("active") })
        .await;
}

#[tokio::test]
async fn a_returning_primary_that_hangs_costs_its_trial_some_time_and_no_answer() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_request_timeout(millis(1_000))
        .change_policy(|policy| {
            let base_ejection_time = millis(100);
            policy.passive = Some(PassiveHealthCheck { base_ejection_time, ..common::passive() });
        });
    let proxy = setup.start().await;
    active.next(1, Behaviour::Status(500));
    assert_eq!(proxy.get().await.status, 500);
    active.set(Behaviour::Hang);
    let before = active.requests();
    eventually("two trials", || async {
        assert_eq!(proxy.get().await.pod().as_deref(), Some("passive"));
        active.requests() >= before + 2
    })
    .await;
}

#[tokio::test]
async fn a_unix_socket_is_an_endpoint_like_any_other() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("active.sock");
    let active = understudy_testbed::Backend::start_unix(&path, "active").await.unwrap();
    let passive = fallback().await;
    let mut setup = Setup::new(&[], &[passive.address()]);
    setup.refs[0].1.push(EndpointAddress::Unix { path });
    let proxy = setup.start().await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
    active.kill().await;
    assert_eq!(proxy.pods(5).await, all("passive", 5));
}

#[tokio::test]
async fn limits_that_are_not_reached_do_not_act() {
    let (active, passive) = (primary().await, fallback().await);
    let mut retries = retry(&[RetryTrigger::Reset]);
    retries.per_try_timeout = Some(millis(10_000));
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(retries)
        .with_request_timeout(millis(20_000));
    let proxy = setup.start().await;
    active.set(Behaviour::delayed(Duration::from_millis(100)));
    assert_eq!(proxy.pods(5).await, all("active", 5));
}

#[tokio::test]
async fn a_routes_own_timeouts_replace_the_policys_wholly() {
    let (active, passive) = (primary().await, fallback().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()])
        .change_policy(|policy| policy.timeouts.request = Some(millis(200)));
    setup.timeouts = Some(RuleTimeouts { request: None, backend_request: Some(millis(10_000)) });
    let proxy = setup.start().await;
    active.set(Behaviour::delayed(Duration::from_millis(600)));
    assert_eq!(proxy.pods(1).await, all("active", 1));
}

#[tokio::test]
async fn the_request_after_a_successful_trial_goes_to_the_endpoint_that_is_back() {
    for _ in 0..40 {
        let (active, passive) = (primary().await, fallback().await);
        let setup = Setup::new(&[active.address()], &[passive.address()]).change_policy(|policy| {
            let passive = PassiveHealthCheck { base_ejection_time: millis(100), ..common::passive() };
            policy.passive = Some(passive);
        });
        let proxy = setup.start().await;
        active.next(1, Behaviour::Status(500));
        assert_eq!(proxy.get().await.status, 500);
        // Each on a connection of its own, so that another thread may have the next one.
        let get = async || proxy.get().await.pod().unwrap();
        while get().await != "active" {}
        assert_eq!(get().await, "active");
    }
}

#[tokio::test]
async fn o17_the_endpoint_that_fails_too_much_of_an_interval_is_ejected_at_its_end() {
    let mut primaries = Vec::new();
    for _ in 0..5 {
        primaries.push(primary().await);
    }
    let passive = fallback().await;
    let addresses: Vec<_> = primaries.iter().map(|primary| primary.address()).collect();
    let setup = Setup::new(&addresses, &[passive.address()]).with_retry(no_retry()).change_policy(|policy| {
        policy.load_balancer = understudy_conf::LoadBalancer::RoundRobin;
        policy.passive = Some(PassiveHealthCheck {
            // Long enough for 250 requests on a machine that does much else.
            interval: millis(5_000),
            consecutive_5xx_errors: 0,
            failure_percentage_threshold: understudy_conf::Percent::new(50).ok(),
            ..common::passive()
        });
    });
    let proxy = setup.start().await;
    primaries[2].set(Behaviour::Status(500));
    let mut client = understudy_testbed::Client::connect(proxy.address).await.unwrap();
    let start = Instant::now();
    let (mut sent, mut failed) = (0, 0);
    // Ejected, it gets nothing: so many answers without a failure that it would have been asked many times.
    let mut sound_in_a_row = 0;
    while sound_in_a_row < 100 {
        assert!(start.elapsed() < common::PATIENCE * 3, "{failed} of {sent} failed");
        sent += 1;
        let sound = client.get(HOST, "/test").await.unwrap().status == 200;
        sound_in_a_row = if sound { sound_in_a_row + 1 } else { 0 };
        failed += u32::from(!sound);
    }
    assert!(failed >= 50, "not before 50 requests of an interval failed: {failed}");
    let reports = proxy.admin("/pools").await.text();
    assert!(reports.contains("requests failed"), "{reports}");
}
