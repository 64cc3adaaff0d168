#![allow(clippy::unwrap_used, reason = "tests end there")]

use serde_json::{Value, json};

use super::*;
use crate::fake_api::FakeApi;

fn path(node: &str) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/understudy-system/leases/understudy-node-{node}")
}

fn lease(node: &str, renewed: &str) -> Value {
    json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": format!("understudy-node-{node}"), "namespace": "understudy-system",
            "labels": {"understudy.dev/sidecar": "true"},
            "annotations": {"understudy.dev/node": node, "understudy.dev/gateways": "{\"default/eg\":1}"},
        },
        "spec": {"holderIdentity": format!("pod-of-{node}"), "renewTime": renewed},
    })
}

fn now() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

struct Rig {
    api: FakeApi,
    leading: watch::Sender<bool>,
    sidecars: watch::Receiver<Option<Arc<[ServingSidecar]>>>,
}

fn start(api: &FakeApi) -> Rig {
    let sidecar = Sidecar { namespace: "understudy-system".into(), pod: "p".into(), node: "n1".into() };
    let (leading, of_leading) = watch::channel(true);
    let (sender, sidecars) = watch::channel(None);
    tokio::spawn(run(api.client(), Arc::new(sidecar), of_leading, sender));
    Rig { api: api.clone(), leading, sidecars }
}

impl Rig {
    fn nodes(&self) -> Option<Vec<String>> {
        self.sidecars.borrow().as_ref().map(|all| all.iter().map(|one| one.node.clone()).collect())
    }

    async fn until(&self, nodes: Option<&[&str]>) -> Duration {
        let began = Instant::now();
        let done = async {
            while self.nodes() != nodes.map(|nodes| nodes.iter().map(|node| (*node).to_owned()).collect()) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        let found = timeout(Duration::from_secs(1200), done).await;
        assert!(found.is_ok(), "{:?}", self.nodes());
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn sidecars_come_with_their_leases_count_while_they_renew_them_and_are_forgotten_after_ten_minutes() {
    let api = FakeApi::default();
    api.put(&path("n1"), lease("n1", &now()));
    let rig = start(&api);
    rig.until(Some(&["n1"])).await;
    rig.api.put(&path("n2"), lease("n2", &now()));
    rig.until(Some(&["n1", "n2"])).await;
    for _ in 0..5 {
        sleep(Duration::from_secs(10)).await;
        rig.api.put(&path("n2"), lease("n2", &now()));
    }
    assert_eq!(rig.nodes().unwrap(), ["n2"]);
    let stale = rig.until(Some(&[])).await;
    assert!((STALE..STALE + LOOK * 2).contains(&stale), "{stale:?}");
    assert!(rig.api.get(&path("n2")).is_some());
    sleep(FORGET).await;
    assert_eq!((rig.api.get(&path("n1")), rig.api.get(&path("n2"))), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_removed_does_not_count_at_once() {
    let api = FakeApi::default();
    api.put(&path("n1"), lease("n1", &now()));
    let rig = start(&api);
    rig.until(Some(&["n1"])).await;
    rig.api.remove(&path("n1"));
    assert!(rig.until(Some(&[])).await < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn what_was_left_long_ago_does_not_count_until_it_is_renewed() {
    let api = FakeApi::default();
    api.put(&path("n1"), lease("n1", "2026-01-01T00:00:00.000000Z"));
    let rig = start(&api);
    rig.until(Some(&[])).await;
    // With a clock that is wrong by months it still lives.
    rig.api.put(&path("n1"), lease("n1", "2026-01-01T00:00:10.000000Z"));
    rig.until(Some(&["n1"])).await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_knows_nothing_of_the_others() {
    let api = FakeApi::default();
    api.put(&path("n1"), lease("n1", &now()));
    let rig = start(&api);
    rig.until(Some(&["n1"])).await;
    rig.leading.send_replace(false);
    rig.until(None).await;
    rig.leading.send_replace(true);
    rig.until(Some(&["n1"])).await;
}
