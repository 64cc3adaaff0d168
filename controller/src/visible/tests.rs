//! Writing against an API server in this process, on paused time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use kube::client::Body;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use understudy_conf::{Health, PoolName, Reports, Switch, SwitchKind, store};

use super::Visible;
use super::summary::tests::{endpoint, pool};
use crate::lease::ServingSidecar;
use crate::pass::Pass;
use crate::{Options, Sidecar, Source, graph, load};

const MANIFEST: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: understudy}
spec: {controllerName: understudy.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg, namespace: default}
spec: {gatewayClassName: understudy, listeners: [{name: http, protocol: HTTP, port: 80}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: active, namespace: default, uid: uid-active, generation: 3}
spec: {endpoints: [{ip: {address: 10.244.0.7, port: 3000}}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: passive, namespace: default, uid: uid-passive, generation: 1}
spec: {fallback: true, endpoints: [{ip: {address: 10.244.0.8, port: 3000}}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: ha-example, namespace: default, uid: uid-route}
spec:
  parentRefs: [{name: eg}]
  rules:
  - backendRefs:
    - {group: gateway.envoyproxy.io, kind: Backend, name: active}
    - {group: gateway.envoyproxy.io, kind: Backend, name: passive}
---
apiVersion: v1
kind: Service
metadata: {name: active, namespace: default}
spec: {ports: [{port: 3000}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: active-1, namespace: default, labels: {kubernetes.io/service-name: active}}
addressType: IPv4
ports: [{port: 3000}]
endpoints: [{addresses: [10.244.0.7], targetRef: {kind: Pod, name: active-7d9, uid: pod-uid}}]
"#;

fn pass(manifest: &str) -> Arc<Pass> {
    let mut loader = load::Loader::default();
    loader.take_stdin(Ok(manifest.to_owned()));
    loader.refresh(&[Source::Stdin], load::Settling::TakeAll);
    let load::Loaded { cluster, mut diagnostics } = loader.load();
    let graph = graph::build_graph(&cluster, &Options::default(), 0, &mut diagnostics);
    Arc::new(Pass { cluster: Arc::new(cluster), graph, diagnostics: diagnostics.into(), version: 1 })
}

/// One request as the API server saw it.
#[derive(Debug)]
struct Seen {
    method: Method,
    path: String,
    query: String,
    body: Value,
    at: Instant,
}

/// A sidecar's writers over an API server that answers what `answer` says.
struct World {
    passes: watch::Sender<Option<Arc<Pass>>>,
    leading: watch::Sender<bool>,
    sidecars: watch::Sender<Option<Arc<[ServingSidecar]>>>,
    summary: watch::Receiver<Option<String>>,
    requests: mpsc::UnboundedReceiver<Seen>,
    folder: TempDir,
    task: JoinHandle<()>,
}

type Answer = fn(&Seen) -> (StatusCode, Value);

fn takes_all(seen: &Seen) -> (StatusCode, Value) {
    let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": []});
    (StatusCode::OK, if seen.method == Method::GET { list } else { seen.body.clone() })
}

fn start(leading: bool, answer: Answer) -> World {
    let (send, requests) = mpsc::unbounded_channel();
    let service = tower::service_fn(move |request: Request<Body>| {
        let send = send.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            let seen = Seen {
                method: parts.method,
                path: parts.uri.path().to_owned(),
                query: parts.uri.query().unwrap_or_default().to_owned(),
                body: serde_json::from_slice(&body).unwrap_or_default(),
                at: Instant::now(),
            };
            let (status, mut value) = answer(&seen);
            if seen.path.contains("/events.k8s.io/")
                && status == StatusCode::OK
                && value["metadata"].is_null()
            {
                value["metadata"] = json!({});
            }
            let _ = send.send(seen);
            let response =
                Response::builder().status(status).body(Body::from(value.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        }
    });
    let client = kube::Client::new(service, "default");
    let folder = TempDir::new().unwrap();
    let (passes, passes_seen) = watch::channel(None);
    let (leading, leading_seen) = watch::channel(leading);
    let (sidecars, sidecars_seen) = watch::channel(Some(Arc::from([])));
    let (summary, summary_seen) = watch::channel(None);
    let sidecar =
        Sidecar { namespace: "understudy-system".into(), pod: "understudy-x".into(), node: "n1".into() };
    let task = tokio::spawn(super::run(Visible {
        client,
        passes: passes_seen,
        sidecar: Arc::new(sidecar),
        leading: leading_seen,
        sidecars: sidecars_seen,
        state_dir: folder.path().to_owned(),
        summary,
    }));
    World { passes, leading, sidecars, summary: summary_seen, requests, folder, task }
}

impl World {
    fn say(&self, node: &str, text: &str) {
        self.sidecars.send_modify(|sidecars| {
            let others = sidecars.iter().flat_map(|all| all.iter()).filter(|sidecar| sidecar.node != node);
            let said = ServingSidecar {
                node: node.to_owned(),
                pools: Some(text.to_owned()),
                ..ServingSidecar::default()
            };
            *sidecars = Some(others.cloned().chain([said]).collect());
        });
    }

    /// The next write.
    async fn write(&mut self) -> Seen {
        let next = async {
            loop {
                let seen = self.requests.recv().await.unwrap();
                if seen.method != Method::GET {
                    return seen;
                }
            }
        };
        timeout(Duration::from_secs(120), next).await.unwrap()
    }

    /// The writes of some time.
    async fn writes_within(&mut self, time: Duration) -> Vec<Seen> {
        sleep(time).await;
        let mut writes = Vec::new();
        while let Ok(seen) = self.requests.try_recv() {
            if seen.method != Method::GET {
                writes.push(seen);
            }
        }
        writes
    }

    fn report(&self, reports: &Reports) {
        store::write_reports(self.folder.path(), reports).unwrap();
    }

    /// Ends it as the controller does.
    async fn end(self) {
        let Self { passes, task, .. } = self;
        drop(passes);
        timeout(Duration::from_secs(60), task).await.unwrap().unwrap();
    }
}

const SOUND: &str = r#"{"backends":{}}"#;
const OUT: &str = r#"{"backends":{"default/active":{"out":[
    {"address":"10.244.0.7:3000","pod":"active-7d9","state":"ejected","why":"connection refused","since":1795435263}]}}}"#;

fn condition(seen: &Seen, kind: &str) -> Value {
    let conditions = seen.body["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn the_leader_says_on_each_backend_who_sees_it_failing_and_what_its_role_is() {
    let mut world = start(true, takes_all);
    world.say("n1", SOUND);
    world.say("n2", OUT);
    world.passes.send_replace(Some(pass(MANIFEST)));
    let (active, passive) = (world.write().await, world.write().await);
    assert_eq!(
        (active.method.as_str(), active.path.as_str()),
        ("PATCH", "/apis/gateway.envoyproxy.io/v1alpha1/namespaces/default/backends/active/status")
    );
    assert!(active.query.contains("fieldManager=understudy-health") && active.query.contains("force=true"));
    let healthy = condition(&active, "understudy.dev/Healthy");
    assert_eq!((&healthy["status"], &healthy["reason"]), (&json!("False"), &json!("EndpointsEjected")));
    assert_eq!(
        healthy["message"],
        "endpoint 10.244.0.7:3000 (pod active-7d9): connection refused, ejected since 2026-11-23T12:01:03Z on node n2"
    );
    assert_eq!(
        (&healthy["observedGeneration"], &active.body["metadata"]["uid"]),
        (&json!(3), &json!("uid-active"))
    );
    assert_eq!(condition(&active, "understudy.dev/Role")["reason"], "Primary");
    assert_eq!(active.body["status"]["conditions"].as_array().unwrap().len(), 2, "and nobody else's");
    assert_eq!(condition(&passive, "understudy.dev/Role")["reason"], "Fallback");
    assert_eq!(condition(&passive, "understudy.dev/Healthy")["reason"], "AllHealthy");
    // Nothing changed, so nothing is written, however many passes come.
    for _ in 0..20 {
        world.passes.send_replace(Some(pass(MANIFEST)));
        assert!(world.writes_within(Duration::from_secs(5)).await.is_empty());
    }
    world.say("n2", SOUND);
    let back = world.write().await;
    assert_eq!(
        condition(&back, "understudy.dev/Healthy")["message"],
        "no endpoint fails on all 2 nodes that report"
    );
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_writes_no_condition_and_who_takes_over_only_what_differs() {
    let mut world = start(false, |seen| {
        let mut list = takes_all(seen).1;
        if seen.method == Method::GET {
            let condition = |kind: &str, status: &str, reason: &str, message: &str| {
                json!({"type": kind, "status": status, "reason": reason, "message": message, "observedGeneration": 3,
                       "lastTransitionTime": "2026-11-23T11:00:00Z"})
            };
            list["items"] = json!([{
                "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend",
                "metadata": {"name": "active", "namespace": "default", "uid": "uid-active"},
                "status": {"conditions": [
                    condition("Accepted", "True", "Accepted", ""),
                    condition("understudy.dev/Healthy", "True", "AllHealthy", "no endpoint fails on the one node that reports"),
                    condition("understudy.dev/Role", "True", "Primary", "it serves first"),
                ]},
            }]);
        }
        (StatusCode::OK, list)
    });
    world.say("n1", SOUND);
    world.passes.send_replace(Some(pass(MANIFEST)));
    assert!(world.writes_within(Duration::from_secs(30)).await.is_empty());
    world.leading.send_replace(true);
    let writes = world.writes_within(Duration::from_secs(30)).await;
    assert_eq!(writes.len(), 1, "{writes:?}");
    assert!(writes[0].path.ends_with("/backends/passive/status"));
    // The time of the last change is kept from the leader before.
    world.say("n1", OUT);
    world.write().await;
    world.leading.send_replace(false);
    assert!(world.writes_within(Duration::from_secs(5)).await.is_empty());
    world.say("n1", SOUND);
    assert!(world.writes_within(Duration::from_secs(60)).await.is_empty());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_flaps_for_ten_minutes_costs_a_write_every_ten_seconds_at_most() {
    let mut world = start(true, takes_all);
    world.passes.send_replace(Some(pass(MANIFEST)));
    let mut writes = Vec::new();
    for half_second in 0..1200 {
        world.say("n1", if half_second % 2 == 0 { OUT } else { SOUND });
        writes.extend(world.writes_within(Duration::from_millis(500)).await);
    }
    let active: Vec<&Seen> = writes.iter().filter(|seen| seen.path.contains("/active/")).collect();
    assert!((30..=63).contains(&active.len()), "{}", active.len());
    assert!(active[4..].windows(2).all(|two| two[1].at - two[0].at >= Duration::from_secs(9)));
    assert_eq!(writes.len() - active.len(), 1, "the other one does not flap");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_fails_is_asked_again_ever_more_seldom() {
    let mut world = start(true, |seen| match seen.method {
        Method::GET => takes_all(seen),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                   "message": "the server is away", "reason": "ServiceUnavailable", "code": 503}),
        ),
    });
    world.say("n1", SOUND);
    world.passes.send_replace(Some(pass(MANIFEST)));
    let writes = world.writes_within(Duration::from_secs(600)).await;
    // Two Backends, each at 2, 4, 8, 16, 32 and then 60 s distance.
    assert!((20..=40).contains(&writes.len()), "{}", writes.len());
    world.end().await;
}

fn switch(seq: u64, kind: SwitchKind) -> Switch {
    Switch {
        seq,
        at_ms: u64::MAX / 4_000_000 + seq,
        kind,
        pool: PoolName::new("httproute/default/ha-example/rule/0").unwrap(),
        endpoint: (kind == SwitchKind::Ejection).then(|| "10.244.0.7:3000".to_owned()),
        backends: vec!["backend/default/active".to_owned()],
        cause: "connection refused".to_owned(),
        lasted_ms: 12_000,
    }
}

fn reports(switches: Vec<Switch>) -> Reports {
    Reports {
        started_ms: 1,
        pools: vec![pool(
            "httproute/default/ha-example/rule/0",
            vec![endpoint("backend/default/active", "10.244.0.7:3000", Health::Ejected)],
        )],
        switches,
        ..Reports::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_is_an_event_on_the_backend_and_on_the_route_and_stands_in_the_lease() {
    let mut world = start(false, takes_all);
    world.passes.send_replace(Some(pass(MANIFEST)));
    world.report(&reports(vec![switch(1, SwitchKind::Ejection), switch(2, SwitchKind::Failover)]));
    let mut told = BTreeMap::new();
    for _ in 0..4 {
        let seen = world.write().await;
        assert_eq!(
            (seen.method.as_str(), seen.path.as_str()),
            ("POST", "/apis/events.k8s.io/v1/namespaces/default/events")
        );
        let body = &seen.body;
        assert_eq!(body["reportingController"], "understudy.dev/gateway-controller");
        assert_eq!((&body["reportingInstance"], &body["type"]), (&json!("understudy-x"), &json!("Warning")));
        assert!(body["eventTime"].is_string() && body["action"].is_string());
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let regarding = &body["regarding"];
        let key = (text(&regarding["kind"]), text(&regarding["uid"]), text(&body["reason"]));
        told.insert(key, text(&body["note"]));
    }
    let keys: Vec<_> = told.keys().map(|(kind, uid, reason)| format!("{kind} {uid} {reason}")).collect();
    assert_eq!(
        keys,
        [
            "Backend uid-active Ejected",
            "Backend uid-active Failover",
            "HTTPRoute uid-route Ejected",
            "HTTPRoute uid-route Failover"
        ]
    );
    let note = &told.values().next().unwrap();
    assert!(note.contains("10.244.0.7:3000 (pod active-7d9)") && note.contains("node n1"), "{note}");
    assert!(
        world.summary.borrow().as_ref().is_some_and(|text| text.contains(r#""pod":"active-7d9""#)),
        "{:?}",
        world.summary.borrow()
    );
    // The same once more is the same Event, seen again.
    world.report(&reports(vec![switch(2, SwitchKind::Failover), switch(3, SwitchKind::Failover)]));
    let again = world.write().await;
    assert_eq!((again.method.as_str(), &again.body["series"]["count"]), ("PATCH", &json!(2)));
    world.write().await;
    // What was left out in between is said, which takes an Event of its own.
    let flood = (4..40).map(|seq| switch(seq, SwitchKind::Failover));
    world.report(&reports(flood.collect()));
    assert_eq!(
        world.writes_within(Duration::from_secs(60)).await.len(),
        2 * 2,
        "what is left of five of each object"
    );
    world.report(&reports(vec![switch(40, SwitchKind::Failover)]));
    let (first, second) = (world.write().await, world.write().await);
    for seen in [first, second] {
        assert_eq!(seen.method, Method::POST);
        let note = seen.body["note"].as_str().unwrap();
        assert!(note.ends_with("(34 more events of this object were left out before)"), "{note}");
    }
    assert!(world.writes_within(Duration::from_secs(600)).await.is_empty());
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn events_wait_for_an_api_server_that_is_away_and_there_is_an_end_to_them() {
    let mut world =
        start(false, |_| (StatusCode::INTERNAL_SERVER_ERROR, json!({"kind": "Status", "code": 500})));
    world.passes.send_replace(Some(pass(MANIFEST)));
    for round in 0..200 {
        let switches = (0..5).map(|index| switch(round * 5 + index + 1, SwitchKind::Ejection));
        world.report(&reports(switches.collect()));
        sleep(Duration::from_secs(2)).await;
    }
    let tries = world.writes_within(Duration::from_secs(1)).await;
    // One request per pause, which grows to 30 s: 400 s have room for some 17.
    assert!((5..=25).contains(&tries.len()), "{}", tries.len());
    world.end().await;
}
