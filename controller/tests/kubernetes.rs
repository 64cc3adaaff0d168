//! A cluster is followed: on an API server in this process, with the state on disk as the proxy reads it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests end there")]

mod fake_api;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fake_api::FakeApi;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;
use understudy_conf::store::{ROOT_FILE, Read, Reader};
use understudy_conf::{Action, RefTarget, State};
use understudy_controller::{ClusterOptions, Health, Options, Reason, Report, Sidecar, follow_cluster};

/// Longer than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

const ROUTES: &str = "apis/gateway.networking.k8s.io/v1/httproutes";
const BACKENDS: &str = "apis/gateway.envoyproxy.io/v1alpha1/backends";
const SLICES: &str = "apis/discovery.k8s.io/v1/endpointslices";
const SERVICES: &str = "api/v1/services";
const SECRETS: &str = "api/v1/secrets";
const CONFIG_MAPS: &str = "api/v1/configmaps";

const BASE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: understudy, uid: c}
spec: {controllerName: understudy.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec: {gatewayClassName: understudy, listeners: [{name: http, protocol: HTTP, port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: understudy-config, namespace: understudy-system}
data: {understudy.yaml: 'extensionApis: {enableBackend: true}'}
";

fn backend(name: &str, port: u16) -> String {
    format!(
        "\n---\napiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\n\
         spec: {{endpoints: [{{ip: {{address: 10.0.0.1, port: {port}}}}}]}}\n"
    )
}

fn route(name: &str, backend: &str) -> String {
    format!(
        "\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
         spec: {{parentRefs: [{{name: eg}}], hostnames: [{name}.example], rules: [{{backendRefs: \
         [{{group: gateway.envoyproxy.io, kind: Backend, name: {backend}}}]}}]}}\n"
    )
}

struct World {
    api: FakeApi,
    folder: tempfile::TempDir,
    reports: mpsc::UnboundedReceiver<Report>,
    health: Arc<Health>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    async fn start(objects: &str) -> Self {
        let api = FakeApi::start().await;
        api.apply(objects);
        Self::follow(api, tempfile::tempdir().unwrap())
    }

    fn follow(api: FakeApi, folder: tempfile::TempDir) -> Self {
        let (sender, reports) = mpsc::unbounded_channel();
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let sidecar = Sidecar { namespace: "understudy-system".into(), pod: "p".into(), node: "n".into() };
        let options = ClusterOptions {
            rediscovery: Duration::from_millis(100),
            ..ClusterOptions::new(Options::default(), sidecar)
        };
        let health = options.health.clone();
        let (client, state) = (api.client(), folder.path().join("state"));
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            let on_report = |report: &Report| drop(sender.send(report.clone()));
            follow_cluster(client, options, state, shutdown, on_report).await.unwrap();
        });
        Self { api, folder, reports, health, stop: Some(stop), task }
    }

    fn state_folder(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn state(&self) -> Arc<State> {
        read_state(&self.state_folder())
    }

    /// The first report from now on that fits.
    async fn report_with(&mut self, fits: impl Fn(&Report) -> bool) -> Report {
        let mut last = None;
        let found = timeout(PATIENCE, async {
            loop {
                let report = self.reports.recv().await.expect("a report");
                if fits(&report) {
                    return report;
                }
                last = Some(report);
            }
        })
        .await;
        found.unwrap_or_else(|_| panic!("no report fits; the last one: {last:#?}"))
    }

    async fn stop(mut self) -> (FakeApi, tempfile::TempDir) {
        drop(self.stop.take());
        timeout(PATIENCE, &mut self.task).await.expect("an end in time").unwrap();
        (self.api, self.folder)
    }
}

fn read_state(folder: &Path) -> Arc<State> {
    match Reader::new(folder).read().unwrap() {
        Read::State(state) => state,
        Read::Unchanged => panic!("nothing was read"),
    }
}

fn endpoints(state: &State, backend: &str) -> Vec<String> {
    let backend = state.backends.get(backend);
    backend
        .map(|backend| backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect())
        .unwrap_or_default()
}

fn serves(report: &Report, backend: &str, port: u16) -> bool {
    endpoints(&report.state, backend) == [format!("10.0.0.1:{port}")]
}

fn first_action<'a>(state: &'a State, route: &str) -> &'a Action {
    &state.routes[route].rules[0].action
}

/// Every file of a folder with its content.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.append(&mut files(&entry.path()));
        } else {
            found.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn nothing_is_published_before_every_kind_was_listed() {
    let api = FakeApi::start().await;
    api.apply(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a")));
    api.set_held(SECRETS, true);
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    for (collection, _) in fake_api::COLLECTIONS
        .iter()
        .filter(|(collection, _)| !["v1alpha2", "v1alpha3"].iter().any(|older| collection.contains(older)))
    {
        if *collection != "apis/gateway.networking.k8s.io/v1beta1/httproutes" {
            timeout(PATIENCE, world.api.requested(|request| request.contains(&format!("{collection}?"))))
                .await
                .unwrap();
        }
    }
    // A change comes after the lists, and even then nothing is written.
    world.api.apply(&backend("a", 2));
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!world.state_folder().join(ROOT_FILE).exists());
    assert!(!world.health.is_published());
    world.api.set_held(SECRETS, false);
    let report = world.report_with(|_| true).await;
    assert!(serves(&report, "backend/default/a", 2), "{report:#?}");
    assert_eq!(report.state.validate_references(), Ok(()));
    assert_eq!(world.state().routes.len(), 1);
    assert!(world.health.is_published());
    world.stop().await;
}

#[tokio::test]
async fn a_cluster_gives_the_state_that_the_same_manifest_gives() {
    let text = fs::read_to_string("../conf/examples/first-own.yaml").unwrap();
    let api = FakeApi::start().await;
    api.apply(&BASE[BASE.find("apiVersion: v1\n").unwrap()..]);
    api.apply(&text);
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    let report = world.report_with(|_| true).await;
    let expected = understudy_controller::check_text(text, &Options::default());
    let mut found = (*report.state).clone();
    found.version = expected.state.version;
    assert_eq!(found, *expected.state);
    assert!(report.diagnostics.iter().all(|said| said.file.is_none() && said.line.is_none()));
    world.stop().await;
}

#[tokio::test]
async fn changes_are_followed_whether_lists_come_as_streams_or_in_pages() {
    for streams in [true, false] {
        let api = FakeApi::start().await;
        api.set_streams(streams);
        let many: String = (0..250).map(|number| backend(&format!("b{number}"), 7)).collect();
        api.apply(&(BASE.to_owned() + &many + &route("r", "b249")));
        let mut world = World::follow(api, tempfile::tempdir().unwrap());
        world.report_with(|report| serves(report, "backend/default/b249", 7)).await;
        world.api.apply(&backend("b249", 8));
        world.report_with(|report| serves(report, "backend/default/b249", 8)).await;
        world.api.delete(BACKENDS, "default", "b249");
        world.report_with(|report| report.state.backends.is_empty()).await;
        let paged = world.api.requests().iter().any(|request| request.contains("backends?&limit"));
        assert_eq!(paged, !streams, "{:#?}", world.api.requests());
        world.stop().await;
    }
}

#[tokio::test]
async fn a_kind_that_the_cluster_lacks_counts_as_empty_and_joins_when_it_appears() {
    let api = FakeApi::start().await;
    let kinds = [BACKENDS, "apis/gateway.envoyproxy.io/v1alpha1/backendtrafficpolicies"];
    api.set_absent(&kinds, true);
    api.apply(&(BASE.to_owned() + &route("r", "a")));
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    let report = world.report_with(|_| true).await;
    assert_eq!(first_action(&report.state, "httproute/default/r"), &Action::Respond(500));
    world.api.apply(&backend("a", 1));
    world.api.set_absent(&kinds, false);
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    world.stop().await;
}

/// What the ClusterRole of the first installations does not name.
const NEWER: [&str; 7] = [
    "apis/networking.k8s.io/v1/servicecidrs",
    "apis/gateway.networking.k8s.io/v1/listenersets",
    "apis/gateway.networking.k8s.io/v1/grpcroutes",
    "apis/gateway.networking.k8s.io/v1/tlsroutes",
    "apis/gateway.networking.k8s.io/v1/tcproutes",
    "apis/gateway.networking.k8s.io/v1alpha2/tcproutes",
    "apis/gateway.networking.k8s.io/v1/udproutes",
];

#[tokio::test]
async fn under_the_cluster_role_of_an_older_version_everything_that_it_names_is_served() {
    for streams in [true, false] {
        let api = FakeApi::start().await;
        api.set_streams(streams);
        api.set_forbidden(&NEWER, true);
        api.apply(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a") + &tcp_route("v1")));
        let mut world = World::follow(api, tempfile::tempdir().unwrap());
        let report = world.report_with(|_| true).await;
        assert!(serves(&report, "backend/default/a", 1), "{report:#?}");
        assert!(matches!(first_action(&report.state, "httproute/default/r"), Action::Forward(_)));
        assert!(!report.state.routes.contains_key("tcproute/default/db"));
        // Changes act as ever.
        world.api.apply(&backend("a", 2));
        world.report_with(|report| serves(report, "backend/default/a", 2)).await;
        // With the right comes the rest.
        world.api.set_forbidden(&NEWER, false);
        world.report_with(|report| report.state.routes.contains_key("tcproute/default/db")).await;
        world.stop().await;
    }
}

#[tokio::test]
async fn nothing_is_published_while_a_kind_is_forbidden_that_says_who_may_do_what() {
    let api = FakeApi::start().await;
    let grants = ["apis/gateway.networking.k8s.io/v1beta1/referencegrants"];
    api.set_forbidden(&grants, true);
    api.apply(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a")));
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    let asked =
        |world: &World| world.api.requests().iter().filter(|one| one.contains("referencegrants")).count();
    let mut changed = world.api.changes();
    while asked(&world) < 6 {
        changed.changed().await.unwrap();
    }
    assert!(world.reports.try_recv().is_err() && !world.health.is_published());
    world.api.set_forbidden(&grants, false);
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    world.stop().await;
}

/// A TCP listener, and a route of one version to a Backend of another namespace that a grant allows.
fn tcp_route(version: &str) -> String {
    format!(
        "
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: streams}}
spec: {{gatewayClassName: understudy, listeners: [{{name: tcp, protocol: TCP, port: 9000}}]}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {{name: db, namespace: other}}
spec: {{endpoints: [{{ip: {{address: 10.0.0.1, port: 5432}}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: tcp, namespace: other}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: TCPRoute, namespace: default}}]
  to: [{{group: gateway.envoyproxy.io, kind: Backend}}]
---
apiVersion: gateway.networking.k8s.io/{version}
kind: TCPRoute
metadata: {{name: db}}
spec:
  parentRefs: [{{name: streams}}]
  rules: [{{backendRefs: [{{group: gateway.envoyproxy.io, kind: Backend, name: db, namespace: other}}]}}]
"
    )
}

#[tokio::test]
async fn a_tcp_route_joins_when_its_kind_appears_and_loses_its_backend_when_the_grant_is_revoked() {
    const ROUTE: &str = "tcproute/default/db";
    let tcp =
        ["apis/gateway.networking.k8s.io/v1/tcproutes", "apis/gateway.networking.k8s.io/v1alpha2/tcproutes"];
    let api = FakeApi::start().await;
    api.set_absent(&tcp, true);
    api.apply(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a") + &tcp_route("v1")));
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    let report = world.report_with(|_| true).await;
    assert!(!report.state.routes.contains_key(ROUTE));
    assert!(matches!(first_action(&report.state, "httproute/default/r"), Action::Forward(_)));
    world.api.set_absent(&tcp, false);
    let forwards = |report: &Report| {
        report.state.routes.contains_key(ROUTE)
            && matches!(first_action(&report.state, ROUTE), Action::Forward(_))
    };
    world.report_with(forwards).await;
    world.api.delete("apis/gateway.networking.k8s.io/v1beta1/referencegrants", "other", "tcp");
    world.report_with(|report| first_action(&report.state, ROUTE) == &Action::Respond(500)).await;
    world.api.apply(&tcp_route("v1"));
    world.report_with(forwards).await;
    world.stop().await;
}

#[tokio::test]
async fn a_tcp_route_of_an_older_version_is_served_where_the_newer_one_is_not_there() {
    let api = FakeApi::start().await;
    api.set_absent(&["apis/gateway.networking.k8s.io/v1/tcproutes"], true);
    api.apply(&(BASE.to_owned() + &tcp_route("v1alpha2")));
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    let report = world.report_with(|_| true).await;
    assert!(matches!(first_action(&report.state, "tcproute/default/db"), Action::Forward(_)), "{report:#?}");
    world.stop().await;
}

#[tokio::test]
async fn objects_of_a_kind_whose_definition_was_removed_are_gone() {
    let mut world = World::start(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a"))).await;
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    world.api.set_absent(&[BACKENDS], true);
    world
        .report_with(|report| first_action(&report.state, "httproute/default/r") == &Action::Respond(500))
        .await;
    world.api.set_absent(&[BACKENDS], false);
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    world.stop().await;
}

#[tokio::test]
async fn an_older_version_of_a_kind_is_watched_where_the_newer_one_is_not_there() {
    let api = FakeApi::start().await;
    let older = "apis/gateway.networking.k8s.io/v1beta1/httproutes";
    api.set_absent(&[ROUTES], true);
    api.set_absent(&[older], false);
    api.apply(
        &(BASE.to_owned() + &backend("a", 1) + &route("r", "a").replace("k8s.io/v1", "k8s.io/v1beta1")),
    );
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    assert!(world.api.requests().iter().any(|request| request.contains(&format!("{older}?"))));
    world.stop().await;
}

#[tokio::test]
async fn a_watch_that_expired_is_begun_anew_and_what_was_deleted_meanwhile_is_gone() {
    let mut world = World::start(
        &(BASE.to_owned() + &backend("a", 1) + &backend("b", 1) + &route("r", "a") + &route("s", "b")),
    )
    .await;
    world.report_with(|report| report.state.routes.len() == 2).await;
    world.api.set_down(true);
    world.api.delete(ROUTES, "default", "s");
    world.api.apply(&backend("a", 2));
    world.api.forget_history();
    world.api.set_down(false);
    let gone = |report: &Report| report.state.routes.len() == 1 && serves(report, "backend/default/a", 2);
    world.report_with(gone).await;
    world.stop().await;
}

#[tokio::test]
async fn changes_that_were_made_while_the_api_server_was_away_are_seen_afterwards_and_nothing_is_touched_meanwhile()
 {
    let mut world = World::start(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a"))).await;
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    let before = files(&world.state_folder());
    world.api.set_down(true);
    world.api.apply(&backend("a", 2));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(files(&world.state_folder()) == before);
    world.api.set_down(false);
    world.report_with(|report| serves(report, "backend/default/a", 2)).await;
    let lists = |api: &FakeApi| {
        api.requests()
            .iter()
            .filter(|line| line.contains("/backends?") && line.contains("sendInitialEvents"))
            .count()
    };
    assert_eq!(lists(&world.api), 1, "it goes on from where it was");
    world.stop().await;
}

#[tokio::test]
async fn connections_that_break_again_and_again_lose_nothing() {
    let mut world = World::start(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a"))).await;
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    for port in 2..7 {
        world.api.disconnect();
        world.api.apply(&backend("a", port));
        world.report_with(|report| serves(report, "backend/default/a", port)).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn an_object_that_became_garbage_keeps_its_last_good_version_and_the_others_move_on() {
    let mut world = World::start(
        &(BASE.to_owned() + &backend("a", 1) + &backend("b", 1) + &route("r", "a") + &route("s", "b")),
    )
    .await;
    world.report_with(|report| report.state.routes.len() == 2).await;
    for spec in [
        json!("nothing"),
        json!({"endpoints": [{"ip": {"address": "10.0.0.1", "port": "many"}}]}),
        json!({"endpoints": [{}]}),
    ] {
        world.api.apply_object(json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend", "metadata": {"name": "a"}, "spec": spec}));
        let kept =
            |report: &Report| report.diagnostics.iter().any(|said| said.reason == Reason::LastGoodKept);
        let report = world.report_with(kept).await;
        assert!(serves(&report, "backend/default/a", 1));
        assert!(
            report
                .diagnostics
                .iter()
                .any(|said| said.to_string().starts_with("error: Backend default/a: spec"))
        );
        world.api.apply(&backend("a", 1));
        world.report_with(|report| !kept(report)).await;
    }
    world.api.apply(&backend("b", 2));
    world.report_with(|report| serves(report, "backend/default/b", 2)).await;
    world.stop().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_read_is_made_up_for_by_a_list() {
    let mut world = World::start(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a"))).await;
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    for (port, line) in [
        (2, "{\"type\": \"ADDED\", \"object\": "),
        (3, "<html>"),
        (4, "{\"type\": \"SOMETHING\"}"),
        (5, "[]"),
    ] {
        world.api.send_garbage(BACKENDS, line);
        world.api.apply(&backend("a", port));
        world.report_with(|report| serves(report, "backend/default/a", port)).await;
    }
    world.stop().await;
}

#[tokio::test]
async fn a_burst_of_changes_is_published_in_few_versions_and_wholly() {
    let mut world = World::start(BASE).await;
    world.report_with(|_| true).await;
    let began = tokio::time::Instant::now();
    for number in 0..500 {
        world.api.apply(
            &(backend(&format!("b{number}"), 7) + &route(&format!("r{number}"), &format!("b{number}"))),
        );
    }
    let report = world
        .report_with(|report| report.state.routes.len() == 500 && report.state.backends.len() == 500)
        .await;
    let took = began.elapsed();
    assert_eq!(report.state.validate_references(), Ok(()));
    let versions = u128::from(world.state().version);
    assert!(versions <= 3 + took.as_millis() / 30, "{versions} versions in {took:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_change_of_an_endpoint_slice_writes_the_endpoints_of_its_service_and_nothing_else() {
    let service = |name: &str| {
        format!(
            "\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80, targetPort: 8080}}]}}\n\
             ---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\n\
             spec: {{parentRefs: [{{name: eg}}], rules: [{{backendRefs: [{{name: {name}, port: 80}}]}}]}}\n"
        )
    };
    let services: String = (0..50)
        .map(|number| service(&format!("s{number}")) + &slice(&format!("s{number}"), &[1], "ready: true"))
        .collect();
    let mut world = World::start(&(BASE.to_owned() + &services)).await;
    world.report_with(|report| report.state.backends.len() == 50).await;
    let before = files(&world.state_folder());
    world.api.apply(&slice("s7", &[1, 2], "ready: true"));
    world.report_with(|report| endpoints(&report.state, "service/default/s7/80").len() == 2).await;
    let after = files(&world.state_folder());
    let new: Vec<_> = after
        .iter()
        .filter(|(path, content)| before.get(*path) != Some(content))
        .map(|(path, _)| path)
        .collect();
    // The set of endpoints, its index, and the root.
    assert_eq!(new.len(), 3, "{new:#?}");
    world.stop().await;
}

fn slice(service: &str, hosts: &[u8], conditions: &str) -> String {
    let endpoints: Vec<_> = hosts
        .iter()
        .map(|host| format!("{{addresses: [10.0.0.{host}], conditions: {{{conditions}}}}}"))
        .collect();
    format!(
        "\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}\n\
         addressType: IPv4\nports: [{{port: 8080}}]\nendpoints: [{}]\n",
        endpoints.join(", ")
    )
}

#[tokio::test]
async fn a_name_of_a_service_is_its_pods_and_a_service_scaled_to_zero_has_none_at_once() {
    let objects = "
---
apiVersion: v1
kind: Service
metadata: {name: active}
spec: {ports: [{port: 3000, targetPort: 8080}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: active}
spec: {endpoints: [{fqdn: {hostname: active.default.svc.cluster.local, port: 3000}}]}
";
    let name = "backend/default/active";
    let mut world = World::start(&(BASE.to_owned() + objects + &route("r", "active"))).await;
    // Without any slice a Service of a cluster is empty; DNS would not know more.
    let report = world.report_with(|_| true).await;
    assert_eq!((endpoints(&report.state, name), report.state.backends.len()), (Vec::new(), 1));
    let steps: [(&[u8], &str, &[&str]); 5] = [
        (&[1, 2], "ready: true", &["10.0.0.1:8080", "10.0.0.2:8080"]),
        (&[1], "ready: false, serving: true, terminating: true", &["10.0.0.1:8080"]),
        (&[1], "ready: false, serving: false, terminating: true", &[]),
        (&[3], "ready: true", &["10.0.0.3:8080"]),
        (&[], "", &[]),
    ];
    for (hosts, conditions, expected) in steps {
        world.api.apply(&slice("active", hosts, conditions));
        world.report_with(|report| endpoints(&report.state, name) == expected).await;
    }
    world.api.apply(&slice("active", &[4], "ready: true"));
    world.report_with(|report| endpoints(&report.state, name) == ["10.0.0.4:8080"]).await;
    world.api.delete(SLICES, "default", "active-1");
    world.report_with(|report| endpoints(&report.state, name).is_empty()).await;
    // A name of no Service is for DNS.
    world.api.delete(SERVICES, "default", "active");
    world
        .report_with(|report| endpoints(&report.state, name) == ["active.default.svc.cluster.local:3000"])
        .await;
    world.stop().await;
}

fn certificate(name: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.self_signed(&key).unwrap().pem().replace("\r\n", "\n"), key.serialize_pem())
}

fn secret(name: &str, pair: &(String, String)) -> serde_json::Value {
    let bytes = |text: &str| serde_json::to_value(k8s_openapi::ByteString(text.as_bytes().to_vec())).unwrap();
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": name},
        "data": {"tls.crt": bytes(&pair.0), "tls.key": bytes(&pair.1)}})
}

#[tokio::test]
async fn of_secrets_only_those_that_something_refers_to_are_read() {
    let api = FakeApi::start().await;
    let (one, two) = (certificate("a.example"), certificate("a.example"));
    api.apply(BASE);
    api.apply_object(secret("used", &one));
    for number in 0..20 {
        api.apply_object(secret(&format!("unused{number}"), &one));
    }
    api.apply(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: tls}
spec:
  gatewayClassName: understudy
  listeners: [{name: https, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: used}]}}]
",
    );
    let mut world = World::follow(api, tempfile::tempdir().unwrap());
    let chain =
        |report: &Report| report.state.certificates.get("secret/default/used").map(|pair| pair.chain.clone());
    // The very first state has it: nobody is sent away in the meantime.
    let report = world.report_with(|_| true).await;
    assert_eq!(chain(&report).as_ref(), Some(&one.0));
    world.api.apply_object(secret("used", &two));
    world.report_with(|report| chain(report).as_ref() == Some(&two.0)).await;
    world.api.delete(SECRETS, "default", "used");
    world.report_with(|report| report.state.certificates.is_empty()).await;
    world.api.apply_object(secret("used", &one));
    world.report_with(|report| chain(report).as_ref() == Some(&one.0)).await;
    let requests = world.api.requests();
    let lists = requests.iter().filter(|line| line.contains("/secrets?") || line.contains("/configmaps?"));
    assert!(
        lists.clone().count() >= 2 && lists.clone().all(|line| line.ends_with(" metadata")),
        "{requests:#?}"
    );
    assert!(!requests.iter().any(|line| line.contains("unused")), "{requests:#?}");
    world.stop().await;
}

#[tokio::test]
async fn a_controller_that_finds_no_api_server_leaves_the_published_state_alone() {
    let mut world = World::start(&(BASE.to_owned() + &backend("a", 1) + &route("r", "a"))).await;
    world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    let (api, folder) = world.stop().await;
    let before = files(&folder.path().join("state"));
    api.set_down(true);
    let mut world = World::follow(api, folder);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(files(&world.state_folder()) == before);
    // What stands there is served, so the pod need not be taken away.
    assert!(world.health.is_published());
    world.api.set_down(false);
    let report = world.report_with(|_| true).await;
    assert!(serves(&report, "backend/default/a", 1));
    assert_eq!(world.state().version, 1, "the same state is no new version");
    world.stop().await;
}

#[tokio::test]
async fn backends_are_served_only_where_the_config_map_allows_it() {
    let objects =
        BASE.replace("enableBackend: true", "enableBackend: false") + &backend("a", 1) + &route("r", "a");
    let mut world = World::start(&objects).await;
    let off = |report: &Report| first_action(&report.state, "httproute/default/r") == &Action::Respond(500);
    let report = world.report_with(off).await;
    let said: Vec<_> =
        report.diagnostics.iter().map(|said| (said.object.as_deref().unwrap_or(""), said.reason)).collect();
    for object in ["Backend default/a", "HTTPRoute default/r"] {
        assert!(said.contains(&(object, Reason::UnsupportedValue)), "{said:?}");
    }
    let settings = |text: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"understudy.yaml": text},
            "metadata": {"name": "understudy-config", "namespace": "understudy-system"}})
    };
    let on = |report: &Report| serves(report, "backend/default/a", 1);
    world.api.apply_object(settings("extensionApis:\n  enableBackend: true\n"));
    world.report_with(on).await;
    world.api.apply_object(settings("extensionApis: ["));
    let report = world.report_with(|report| report.has_errors()).await;
    assert!(on(&report), "what cannot be read keeps what was said last");
    assert!(
        report
            .diagnostics
            .iter()
            .any(|said| said.object.as_deref() == Some("ConfigMap understudy-system/understudy-config"))
    );
    world.api.apply_object(settings("extensionApis: {enableBackend: true}"));
    world.report_with(|report| !report.has_errors()).await;
    world.api.delete(CONFIG_MAPS, "understudy-system", "understudy-config");
    world.report_with(off).await;
    world.stop().await;
}

#[tokio::test]
async fn fields_of_another_projects_crds_that_are_unknown_here_are_named_and_do_no_harm() {
    let mut world = World::start(&(BASE.to_owned() + &route("r", "a"))).await;
    world.api.apply_object(json!({"apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend",
        "metadata": {"name": "a"}, "spec": {"fromTheFuture": {"a": 1},
            "endpoints": [{"ip": {"address": "10.0.0.1", "port": 1}}]}}));
    let report = world.report_with(|report| serves(report, "backend/default/a", 1)).await;
    let named = report.diagnostics.iter().find(|said| said.reason == Reason::UnknownField).unwrap();
    assert!(!named.is_error() && named.field.as_deref() == Some("spec.fromTheFuture"));
    world.stop().await;
}

#[tokio::test]
async fn a_reference_to_a_backend_that_is_not_served_leaves_the_others_of_its_rule_alone() {
    let objects = BASE.replace("enableBackend: true", "enableBackend: false")
        + &backend("a", 1)
        + &slice("s", &[1], "ready: true")
        + "
---
apiVersion: v1
kind: Service
metadata: {name: s}
spec: {ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r}
spec:
  parentRefs: [{name: eg}]
  rules: [{backendRefs: [{name: s, port: 80}, {group: gateway.envoyproxy.io, kind: Backend, name: a}]}]
";
    let mut world = World::start(&objects).await;
    let report = world.report_with(|_| true).await;
    let refs = &report.state.pools["httproute/default/r/rule/0"].refs;
    assert!(
        matches!(refs[0].target, RefTarget::Backend(_)) && matches!(refs[1].target, RefTarget::Invalid(_)),
        "{refs:?}"
    );
    world.stop().await;
}
