#![allow(clippy::unwrap_used, reason = "tests end there")]

use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::fake_api::FakeApi;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/understudy-system/leases/understudy-leader";

struct Candidate {
    leading: watch::Receiver<bool>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

fn start(api: &FakeApi, pod: &str) -> Candidate {
    let sidecar =
        Sidecar { namespace: "understudy-system".into(), pod: pod.into(), node: format!("node-of-{pod}") };
    let (sender, leading) = watch::channel(false);
    let (stop, stopped) = oneshot::channel::<()>();
    let client = api.client();
    let task = tokio::spawn(async move {
        run(client, Arc::new(sidecar), sender, async { drop(stopped.await) }).await;
    });
    Candidate { leading, stop: Some(stop), task }
}

impl Candidate {
    fn leads(&self) -> bool {
        *self.leading.borrow()
    }

    async fn wait(&mut self, value: bool) -> Duration {
        let began = Instant::now();
        self.leading.wait_for(|leading| *leading == value).await.unwrap();
        began.elapsed()
    }

    async fn stop(&mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap();
    }
}

fn holder(api: &FakeApi) -> String {
    api.get(PATH).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

#[tokio::test(start_paused = true)]
async fn exactly_one_of_two_leads_and_keeps_leading() {
    let api = FakeApi::default();
    let (mut a, mut b) = (start(&api, "a"), start(&api, "b"));
    tokio::select! { _ = a.wait(true) => {}, _ = b.wait(true) => {} }
    let first = a.leads();
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        assert_eq!((a.leads(), b.leads()), (first, !first));
    }
    assert_eq!(holder(&api), if first { "a" } else { "b" });
    // Renewed each 3 s.
    let renewals = api.count(&Method::PUT, "understudy-leader");
    assert!((18..=22).contains(&renewals), "{renewals}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_killed_is_replaced_within_fifteen_seconds() {
    // Wherever the kill falls between two renewals and two looks.
    for offset in (0..6000).step_by(250) {
        let api = FakeApi::default();
        let mut a = start(&api, "a");
        a.wait(true).await;
        let mut b = start(&api, "b");
        sleep(Duration::from_secs(20) + Duration::from_millis(offset)).await;
        a.task.abort();
        let time = b.wait(true).await;
        assert!(time < Duration::from_secs(13), "{offset}: {time:?}");
        assert_eq!(holder(&api), "b");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_releases_the_lease_and_the_other_leads_within_seconds() {
    let api = FakeApi::default();
    let mut a = start(&api, "a");
    a.wait(true).await;
    let mut b = start(&api, "b");
    sleep(Duration::from_secs(20)).await;
    a.stop().await;
    assert!(!a.leads());
    assert!(b.wait(true).await <= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_api_server_is_silent_stops_before_another_could_begin() {
    let api = FakeApi::default();
    let mut a = start(&api, "a");
    a.wait(true).await;
    sleep(Duration::from_secs(30)).await;
    api.set_silent(true);
    let stopped = a.wait(false).await;
    assert!(stopped <= TIMING.duration - TIMING.margin, "{stopped:?}");
    // And goes on when it is back.
    sleep(Duration::from_secs(300)).await;
    assert!(!a.leads());
    api.set_silent(false);
    assert!(a.wait(true).await < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_leader_stays_one_through_an_api_server_that_fails_for_a_moment() {
    let api = FakeApi::default();
    let mut a = start(&api, "a");
    a.wait(true).await;
    sleep(Duration::from_secs(30)).await;
    api.set_failure(Some(500));
    sleep(Duration::from_secs(4)).await;
    api.set_failure(None);
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        assert!(a.leads());
    }
}

#[tokio::test(start_paused = true)]
async fn two_never_lead_at_once_whatever_the_api_server_does() {
    let api = FakeApi::default();
    let mut candidates = [start(&api, "a"), start(&api, "b"), start(&api, "c")];
    let mut terms = 0;
    for round in 0..3000_u64 {
        match fastrand_like(round) % 60 {
            0 => api.set_silent(true),
            1..4 => api.set_silent(false),
            4 => api.set_failure(Some(500)),
            5..9 => api.set_failure(None),
            9 => api.remove(PATH),
            10 => api.put(PATH, json!({"metadata": {"name": "understudy-leader"}, "spec": {}})),
            _ => {}
        }
        if round % 700 == 0 {
            let index = usize::try_from(round / 700 % 3).unwrap();
            candidates[index].task.abort();
            candidates[index] = start(&api, &format!("next-{round}"));
        }
        sleep(Duration::from_millis(300)).await;
        let leaders = candidates.iter().filter(|candidate| candidate.leads()).count();
        assert!(leaders <= 1 || is_disturbed(round), "{round}: {leaders}");
        terms += leaders;
    }
    assert!(terms > 500, "{terms}");
}

/// Numbers that look random and are the same in every run.
fn fastrand_like(round: u64) -> u64 {
    let mixed = (round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 33
}

/// Whoever deletes or empties the Lease by hand gives it away while it is held: for the time of a renewal two may
/// believe that they lead. Nothing can be done about that, and versions keep their writes apart.
fn is_disturbed(round: u64) -> bool {
    (round.saturating_sub(40)..=round).any(|round| matches!(fastrand_like(round) % 60, 9 | 10))
}
