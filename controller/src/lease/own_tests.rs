#![allow(clippy::unwrap_used, reason = "tests end there")]

use http::Method;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::*;
use crate::cluster::Key;
use crate::fake_api::FakeApi;
use crate::lease::Generations;

const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/understudy-system/leases/understudy-node-n1";

struct Pod {
    served: watch::Sender<Served>,
    pools: watch::Sender<Option<String>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

fn start(api: &FakeApi, pod: &str) -> Pod {
    let sidecar = Sidecar { namespace: "understudy-system".into(), pod: pod.into(), node: "n1".into() };
    let (served, of_served) = watch::channel(Served::default());
    let (pools, of_pools) = watch::channel(None);
    let (stop, stopped) = oneshot::channel::<()>();
    let client = api.client();
    let task = tokio::spawn(async move {
        run(client, Arc::new(sidecar), of_served, of_pools, async { drop(stopped.await) }).await;
    });
    Pod { served, pools, stop: Some(stop), task }
}

fn serving(generation: i64) -> Served {
    let gateways = [(Key::new("default", "eg"), generation)].into();
    let generations = Generations { gateways, ..Generations::default() };
    Served { generations: generations.into(), degraded: Vec::new() }
}

fn writes(api: &FakeApi) -> usize {
    api.count(&Method::PUT, "understudy-node-n1") + api.count(&Method::POST, "leases")
}

fn annotation(api: &FakeApi, name: &str) -> String {
    let lease = api.get(PATH).unwrap();
    lease["metadata"]["annotations"][format!("understudy.dev/{name}")].as_str().unwrap_or("").to_owned()
}

fn holder(api: &FakeApi) -> String {
    api.get(PATH).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned()
}

async fn until(what: impl Fn() -> bool) -> Duration {
    let began = Instant::now();
    let done = async {
        while !what() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(120), done).await.unwrap();
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_slowly_and_a_change_is_written_at_once() {
    let api = FakeApi::default();
    let pod = start(&api, "a");
    until(|| api.get(PATH).is_some()).await;
    sleep(Duration::from_secs(105)).await;
    assert!((10..=12).contains(&writes(&api)), "{}", writes(&api));
    pod.served.send_replace(serving(3));
    let time = until(|| annotation(&api, "gateways") == r#"{"default/eg":3}"#).await;
    assert!(time < Duration::from_millis(100), "{time:?}");
    pod.pools.send_replace(Some("{}".into()));
    let time = until(|| annotation(&api, "pools") == "{}").await;
    assert!(time <= Duration::from_millis(1100), "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn content_that_changes_all_the_time_is_written_once_a_second() {
    let api = FakeApi::default();
    let pod = start(&api, "a");
    for generation in 0..600 {
        pod.served.send_replace(serving(generation));
        sleep(Duration::from_millis(100)).await;
    }
    assert!((55..=62).contains(&writes(&api)), "{}", writes(&api));
    until(|| annotation(&api, "gateways") == r#"{"default/eg":599}"#).await;
}

#[tokio::test(start_paused = true)]
async fn the_newer_pod_of_a_node_takes_the_lease_and_the_older_one_leaves_it_alone() {
    let api = FakeApi::default();
    let mut old = start(&api, "old");
    until(|| api.get(PATH).is_some()).await;
    sleep(Duration::from_secs(15)).await;
    let new = start(&api, "new");
    new.served.send_replace(serving(2));
    until(|| holder(&api) == "new").await;
    for _ in 0..50 {
        old.served.send_replace(serving(1));
        sleep(Duration::from_secs(1)).await;
        assert_eq!(holder(&api), "new");
    }
    // The end of the older one takes nothing from the newer.
    drop(old.stop.take());
    old.task.await.unwrap();
    assert_eq!(holder(&api), "new");
    drop(new);
}

#[tokio::test(start_paused = true)]
async fn an_older_pod_takes_the_lease_again_when_the_newer_one_is_gone() {
    let api = FakeApi::default();
    let _old = start(&api, "old");
    until(|| api.get(PATH).is_some()).await;
    let new = start(&api, "new");
    until(|| holder(&api) == "new").await;
    sleep(Duration::from_secs(30)).await;
    new.task.abort();
    let time = until(|| holder(&api) == "old").await;
    assert!(time < STALE + RENEW * 2, "{time:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_removes_its_lease() {
    let api = FakeApi::default();
    let mut pod = start(&api, "a");
    until(|| api.get(PATH).is_some()).await;
    drop(pod.stop.take());
    pod.task.await.unwrap();
    assert_eq!(api.get(PATH), None);
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for() {
    let api = FakeApi::default();
    api.set_failure(Some(503));
    let pod = start(&api, "a");
    sleep(Duration::from_secs(300)).await;
    let tries = api.log().len();
    assert!((20..=60).contains(&tries), "{tries}");
    api.set_failure(None);
    let time = until(|| api.get(PATH).is_some()).await;
    assert!(time <= RENEW, "{time:?}");
    drop(pod);
}

#[test]
fn a_long_name_of_a_node_still_gives_a_name_of_a_lease() {
    assert_eq!(lease_name("n1"), "understudy-node-n1");
    assert!(lease_name(&"n.".repeat(126)).len() <= 253);
    assert!(!lease_name(&"n.".repeat(126)).ends_with('.'));
}
