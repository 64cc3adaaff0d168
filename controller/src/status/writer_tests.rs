#![allow(clippy::unwrap_used, reason = "tests end there")]

use http::Method;
use serde_json::json;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::super::tests::Scene;
use super::*;
use crate::cluster::Key;
use crate::fake_api::FakeApi;
use crate::lease::Generations;

const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/gateways/eg";
const ROUTE: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/default/httproutes/shop";

const CLUSTER: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: understudy, generation: 1}
spec: {controllerName: understudy.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg, generation: 1}
spec:
  gatewayClassName: understudy
  listeners:
    - {name: http, protocol: HTTP, port: 8080}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: active, generation: 1}
spec: {endpoints: [{ip: {address: 10.0.0.1, port: 3000}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, generation: 1}
spec:
  parentRefs: [{name: eg}]
  rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: active}]}]
"#;

/// Where an object stands at the API server.
fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let (version, kind, name) = (
        text(&object["apiVersion"]),
        text(&object["kind"]).to_lowercase(),
        text(&object["metadata"]["name"]),
    );
    match kind.as_str() {
        "gatewayclass" => format!("/apis/{version}/gatewayclasses/{name}"),
        _ => format!("/apis/{version}/namespaces/default/{kind}s/{name}"),
    }
}

/// An API server that holds some objects, and a writer beside it.
struct Rig {
    api: FakeApi,
    passes: watch::Sender<Option<Arc<Pass>>>,
    leading: watch::Sender<bool>,
    served: watch::Sender<Served>,
    sidecars: watch::Sender<Option<Arc<[ServingSidecar]>>>,
    addresses: watch::Sender<Arc<Addresses>>,
    paths: Vec<String>,
    task: JoinHandle<()>,
}

impl Rig {
    fn new(text: &str) -> Self {
        let api = FakeApi::default();
        let mut paths = Vec::new();
        for document in text.split("---") {
            let object: Value = serde_yaml::from_str(document).unwrap();
            paths.push(path(&object));
            api.put(&path(&object), object);
        }
        let (passes, of_passes) = watch::channel(None);
        let (leading, of_leading) = watch::channel(true);
        let (served, of_served) = watch::channel(serving(1));
        let (sidecars, of_sidecars) = watch::channel(Some(Arc::from([])));
        let (addresses, of_addresses) = watch::channel(Arc::default());
        let sources = Sources {
            passes: of_passes,
            leading: of_leading,
            served: of_served,
            sidecars: of_sidecars,
            addresses: of_addresses,
        };
        let sidecar = Sidecar { namespace: "understudy-system".into(), pod: "p".into(), node: "n1".into() };
        let task = tokio::spawn(run(api.client(), Arc::new(sidecar), sources));
        Self { api, passes, leading, served, sidecars, addresses, paths, task }
    }

    /// Does what the watch does: what the API server has now becomes a pass.
    fn watch(&self) {
        self.passes.send_replace(Some(Arc::new(self.scene().into_pass(1))));
    }

    fn scene(&self) -> Scene {
        let texts = self.paths.iter().filter_map(|path| self.api.get(path)).map(|object| object.to_string());
        Scene::read(&texts.collect::<Vec<_>>().join("\n---\n"))
    }

    fn writes(&self) -> usize {
        self.api.count(&Method::PATCH, "/status")
    }

    /// Waits until something is as it should be.
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let done = async {
            while !what(self) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(Duration::from_secs(60), done).await.unwrap();
    }

    fn condition(&self, path: &str, pointer: &str, kind: &str) -> Option<String> {
        let object = self.api.get(path)?;
        let conditions = object.pointer(pointer)?.as_array()?;
        let found = conditions.iter().find(|condition| condition["type"] == kind)?;
        Some(format!("{} {}", found["status"].as_str()?, found["reason"].as_str()?))
    }
}

fn serving(generation: i64) -> Served {
    let gateways = [(Key::new("default", "eg"), generation)].into();
    let generations = Generations { gateways, ..Generations::default() };
    Served { generations: generations.into(), degraded: Vec::new() }
}

#[tokio::test(start_paused = true)]
async fn every_status_is_written_once_and_what_differs_in_nothing_never() {
    let rig = Rig::new(CLUSTER);
    rig.watch();
    rig.until(|rig| rig.writes() == 4).await;
    assert_eq!(rig.condition(ROUTE, "/status/parents/0/conditions", "Accepted").unwrap(), "True Accepted");
    assert_eq!(rig.condition(GATEWAY, "/status/conditions", "Programmed").unwrap(), "True Programmed");
    // The old pass again, new ones that show what was written, and time.
    for _ in 0..5 {
        rig.watch();
        sleep(Duration::from_secs(100)).await;
    }
    rig.sidecars.send_replace(Some(Arc::from([])));
    sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.writes(), 4);
    // And with the clock of another start.
    let again = Rig { api: rig.api.clone(), ..Rig::new(CLUSTER) };
    again.watch();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.writes(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_gateway_is_programmed_when_the_last_ready_node_serves_its_generation() {
    let rig = Rig::new(CLUSTER);
    let other = |generation: i64| {
        let gateways = [(Key::new("default", "eg"), generation)].into();
        Some(Arc::from([ServingSidecar { node: "n2".into(), gateways, ..ServingSidecar::default() }]))
    };
    rig.sidecars.send_replace(other(0));
    rig.served.send_replace(serving(0));
    rig.watch();
    let programmed = |rig: &Rig| rig.condition(GATEWAY, "/status/conditions", "Programmed");
    rig.until(|rig| programmed(rig).as_deref() == Some("False Pending")).await;
    rig.served.send_replace(serving(1));
    sleep(Duration::from_secs(5)).await;
    assert_eq!(programmed(&rig).unwrap(), "False Pending");
    let message = rig.api.get(GATEWAY).unwrap()["status"]["conditions"][1]["message"].clone();
    assert_eq!(message, "Generation 1 is not served yet by n2.");
    rig.sidecars.send_replace(other(1));
    rig.until(|rig| programmed(rig).as_deref() == Some("True Programmed")).await;
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes() {
    let rig = Rig::new(CLUSTER);
    rig.leading.send_replace(false);
    rig.watch();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.writes(), 0);
    rig.leading.send_replace(true);
    rig.until(|rig| rig.writes() == 4).await;
    rig.leading.send_replace(false);
    sleep(Duration::from_secs(1)).await;
    rig.api.remove("/apis/gateway.envoyproxy.io/v1alpha1/namespaces/default/backends/active");
    rig.watch();
    sleep(Duration::from_secs(100)).await;
    assert_eq!(rig.writes(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_writer_ends_with_the_passes() {
    let mut rig = Rig::new(CLUSTER);
    rig.watch();
    rig.until(|rig| rig.writes() == 4).await;
    let (sender, _) = watch::channel(None);
    drop(std::mem::replace(&mut rig.passes, sender));
    timeout(Duration::from_secs(1), &mut rig.task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_another_controller_wrote_in_between_is_kept() {
    let rig = Rig::new(CLUSTER);
    let pass = rig.scene().into_pass(1);
    let theirs =
        json!({"parentRef": {"name": "other"}, "controllerName": "example.com/gateway", "conditions": []});
    let mut route = rig.api.get(ROUTE).unwrap();
    route["status"] = json!({ "parents": [theirs] });
    rig.api.put(ROUTE, route);
    rig.passes.send_replace(Some(Arc::new(pass)));
    rig.until(|rig| rig.writes() == 4).await;
    let parents = rig.api.get(ROUTE).unwrap()["status"]["parents"].clone();
    assert_eq!((&parents[0], parents.as_array().unwrap().len()), (&theirs, 2));
    let conflicts = rig.api.log().iter().filter(|one| one.code == 409).count();
    assert_eq!(conflicts, 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_new_routes_are_few_writes_of_their_gateway_and_counted_right_within_two_seconds() {
    let rig = Rig::new(CLUSTER);
    let base = rig.scene();
    for count in (10..=1000).step_by(10) {
        let scene = base.with_routes(count);
        rig.passes.send_replace(Some(Arc::new(scene.into_pass(1))));
        sleep(Duration::from_millis(100)).await;
    }
    let last = Instant::now();
    rig.until(|rig| rig.api.get(GATEWAY).unwrap()["status"]["listeners"][0]["attachedRoutes"] == 1000).await;
    assert!(last.elapsed() < Duration::from_secs(2), "{:?}", last.elapsed());
    let writes = rig.api.count(&Method::PATCH, "gateways/eg/status");
    assert!(writes <= 12, "{writes}");
}

#[tokio::test(start_paused = true)]
async fn a_flapping_backend_costs_a_write_each_one_and_a_half_seconds_at_most() {
    let rig = Rig::new(CLUSTER);
    rig.watch();
    rig.until(|rig| rig.writes() == 4).await;
    let backend = &rig.paths[2];
    let object = rig.api.get(backend).unwrap();
    let before = rig.api.count(&Method::PATCH, "httproutes/shop/status");
    for step in 0..300 {
        if step % 2 == 0 {
            rig.api.remove(backend)
        } else {
            rig.api.put(backend, object.clone())
        }
        rig.watch();
        sleep(Duration::from_millis(200)).await;
    }
    // A minute of it.
    let writes = rig.api.count(&Method::PATCH, "httproutes/shop/status") - before;
    assert!(writes <= 43, "{writes}");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(
        rig.condition(ROUTE, "/status/parents/0/conditions", "ResolvedRefs").unwrap(),
        "True ResolvedRefs"
    );
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_away_is_waited_for_and_then_everything_is_written() {
    let rig = Rig::new(CLUSTER);
    rig.api.set_failure(Some(503));
    rig.watch();
    sleep(Duration::from_secs(300)).await;
    let tries = rig.api.log().len();
    assert!((5..=30).contains(&tries), "{tries}");
    rig.api.set_failure(None);
    let back = Instant::now();
    rig.until(|rig| rig.writes() == 4).await;
    assert!(back.elapsed() < Duration::from_secs(35), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_status_that_the_api_server_refuses_is_tried_ever_less_often() {
    let rig = Rig::new(CLUSTER);
    rig.api.set_failure(Some(422));
    rig.watch();
    sleep(Duration::from_secs(600)).await;
    let tries = rig.api.log().len();
    assert!((4..=40).contains(&tries), "{tries}");
    rig.api.set_failure(None);
    sleep(Duration::from_secs(301)).await;
    assert_eq!(rig.writes(), 4);
}

#[tokio::test(start_paused = true)]
async fn an_object_that_the_api_server_does_not_find_is_tried_again_while_passes_have_it() {
    let rig = Rig::new(CLUSTER);
    let route = rig.api.get(ROUTE).unwrap();
    let pass = Some(Arc::new(rig.scene().into_pass(1)));
    rig.api.remove(ROUTE);
    rig.passes.send_replace(pass);
    sleep(Duration::from_secs(600)).await;
    let tries = rig.api.log().iter().filter(|one| one.code == 404).count();
    // Each in both versions of the kind.
    assert!((6..=30).contains(&tries), "{tries}");
    rig.api.put(ROUTE, route);
    sleep(Duration::from_secs(301)).await;
    assert_eq!(rig.writes(), 4);
    // Without it, there is no more to try.
    rig.api.remove(ROUTE);
    rig.watch();
    let requests = rig.api.log().len();
    sleep(Duration::from_secs(600)).await;
    assert!(rig.api.log()[requests..].iter().all(|one| one.code < 300));
}

#[tokio::test(start_paused = true)]
async fn somebody_who_always_writes_something_else_is_not_fought() {
    let rig = Rig::new(CLUSTER);
    rig.watch();
    rig.until(|rig| rig.writes() == 4).await;
    for _ in 0..1800 {
        let mut route = rig.api.get(ROUTE).unwrap();
        route["status"] = json!({ "parents": [] });
        rig.api.put(ROUTE, route);
        rig.watch();
        sleep(Duration::from_secs(1)).await;
    }
    // Half an hour of it.
    let writes = rig.api.count(&Method::PATCH, "httproutes/shop/status");
    assert!((3..=20).contains(&writes), "{writes}");
}

#[tokio::test(start_paused = true)]
async fn of_two_writers_with_one_lease_exactly_one_writes_and_the_other_follows_within_fifteen_seconds() {
    let rigs = [Rig::new(CLUSTER), Rig::new(CLUSTER)];
    // Both at one API server.
    let api = rigs[0].api.clone();
    let mut parts = Vec::new();
    for (index, rig) in rigs.iter().enumerate() {
        rig.leading.send_replace(false);
        let sidecar = Sidecar {
            namespace: "understudy-system".into(),
            pod: format!("p{index}"),
            node: format!("n{index}"),
        };
        let (leading, of_leading) = watch::channel(false);
        let (_stop, stopped) = oneshot::channel::<()>();
        let client = api.client();
        let sources = Sources {
            passes: rig.passes.subscribe(),
            leading: of_leading.clone(),
            served: rig.served.subscribe(),
            sidecars: rig.sidecars.subscribe(),
            addresses: rig.addresses.subscribe(),
        };
        let sidecar = Arc::new(sidecar);
        let writer = tokio::spawn(run(client.clone(), sidecar.clone(), sources));
        let leader = tokio::spawn(async move {
            crate::lease::run_leader(client, sidecar, leading, async { drop(stopped.await) }).await;
        });
        parts.push((writer, leader, of_leading, _stop));
    }
    for rig in &rigs {
        rig.passes.send_replace(Some(Arc::new(rigs[0].scene().into_pass(1))));
    }
    rigs[0].until(|rig| rig.writes() == 4).await;
    let first = usize::from(*parts[1].2.borrow());
    assert!(*parts[first].2.borrow() && !*parts[1 - first].2.borrow());
    parts[first].0.abort();
    parts[first].1.abort();
    rigs[0].api.put(
        &rigs[0].paths[2],
        json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend",
            "metadata": {"name": "active", "generation": 2},
            "spec": {"endpoints": [{"ip": {"address": "10.0.0.2", "port": 3000}}]},
        }),
    );
    for rig in &rigs {
        rig.passes.send_replace(Some(Arc::new(rigs[0].scene().into_pass(2))));
    }
    let killed = Instant::now();
    rigs[0].until(|rig| rig.writes() == 5).await;
    assert!(killed.elapsed() < Duration::from_secs(15), "{:?}", killed.elapsed());
}
