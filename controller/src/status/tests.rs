//! Golden pairs: manifests `tests/status/NAME.in.yaml` give statuses `tests/status/NAME.out.yaml`.
//!
//! Comments in the manifests set the scene: `#! sidecar NODE GATEWAY=GENERATION listenerset:SET=GENERATION …` is a ready
//! sidecar with what it serves, `#! degraded NODE TEXT` what it could not do, `#! address GATEWAY VALUE` the address of a Gateway, and with `#! placement service` Gateways
//! are reached by Services of their own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::cluster::Key;
use crate::load::{Loader, Settling};
use crate::watch::Kind;
use crate::{Options, Source};

/// 2026-11-23T00:00:00Z.
const NOW: i64 = 1_795_392_000;

/// A cluster with what it comes to.
pub(super) struct Scene {
    pub(super) cluster: Cluster,
    graph: Arc<Graph>,
    diagnostics: Vec<Diagnostic>,
    pub(super) sidecars: Vec<ServingSidecar>,
    addresses: Addresses,
}

impl Scene {
    pub(super) fn read(text: &str) -> Self {
        let mut loader = Loader::default();
        loader.take_stdin(Ok(text.to_owned()));
        loader.refresh(&[Source::Stdin], Settling::TakeAll);
        let loaded = loader.load();
        let mut diagnostics = loaded.diagnostics;
        let mut options = Options::default();
        if text.contains("#! placement service") {
            options.listen.placement =
                crate::Placement::Service(crate::Families::of(&[[10, 0, 0, 7].into()]));
        }
        let graph = crate::graph::build_graph(&loaded.cluster, &options, NOW, &mut diagnostics);
        crate::diagnostics::sort(&mut diagnostics);
        let mut scene = Self {
            cluster: loaded.cluster,
            graph,
            diagnostics,
            sidecars: Vec::new(),
            addresses: Addresses::new(),
        };
        for line in text.lines().filter_map(|line| line.strip_prefix("#! ")) {
            scene.set(line);
        }
        scene
    }

    /// The same with this many routes in place of its own.
    pub(super) fn with_routes(&self, count: usize) -> Self {
        let mut cluster = self.cluster.clone();
        let model = cluster.http_routes.values().next().unwrap().clone();
        for number in 0..count {
            let mut route = (*model).clone();
            route.key = Key::new("default", &format!("route-{number:04}"));
            route.label = format!("HTTPRoute {}", route.key).into();
            Arc::make_mut(&mut cluster.http_routes).insert(route.key.clone(), Arc::new(route));
        }
        Arc::make_mut(&mut cluster.http_routes).remove(&model.key);
        let mut diagnostics = Vec::new();
        let graph = crate::graph::build_graph(&cluster, &Options::default(), NOW, &mut diagnostics);
        Self { cluster, graph, diagnostics, sidecars: Vec::new(), addresses: Addresses::new() }
    }

    pub(super) fn into_pass(self, version: u64) -> crate::pass::Pass {
        crate::pass::Pass {
            cluster: self.cluster.into(),
            graph: self.graph,
            diagnostics: self.diagnostics.into(),
            version,
        }
    }

    fn set(&mut self, line: &str) {
        let key = |text: &str| {
            let (namespace, name) = text.split_once('/').unwrap();
            Key::new(namespace, name)
        };
        let mut words = line.split(' ');
        match (words.next().unwrap(), words.next().unwrap()) {
            ("sidecar", node) => {
                let mut sidecar = ServingSidecar { node: node.to_owned(), ..ServingSidecar::default() };
                for (name, served) in words.map(|word| word.split_once('=').unwrap()) {
                    let (map, name) = match name.strip_prefix("listenerset:") {
                        Some(name) => (&mut sidecar.sets, name),
                        None => (&mut sidecar.gateways, name),
                    };
                    map.insert(key(name), served.parse().unwrap());
                }
                self.sidecars.push(sidecar);
            }
            ("degraded", node) => {
                let sidecar = self.sidecars.iter_mut().find(|sidecar| sidecar.node == node).unwrap();
                sidecar.degraded.push(words.collect::<Vec<_>>().join(" "));
            }
            ("address", gateway) => {
                let list = self.addresses.entry(key(gateway)).or_default();
                list.extend(words.map(|value| GatewayAddress { kind: "IPAddress", value: value.to_owned() }));
            }
            ("placement", "service") => {}
            (other, _) => panic!("{other} is unknown"),
        }
    }

    pub(super) fn desired(&self) -> Vec<Desired> {
        build_statuses(
            Inputs {
                cluster: &self.cluster,
                graph: &self.graph,
                diagnostics: &self.diagnostics,
                sidecars: &self.sidecars,
                addresses: &self.addresses,
            },
            &Doubts::Everything,
        )
    }

    pub(super) fn present(&self, id: &ObjectId) -> Option<Value> {
        let cluster = &self.cluster;
        let status = match id.kind {
            Kind::GatewayClass => cluster.gateway_classes.get(&id.key)?.status(),
            Kind::Gateway => cluster.gateways.get(&id.key)?.status(),
            Kind::ListenerSet => cluster.listener_sets.get(&id.key)?.status(),
            kind if kind.is_route() => cluster.route(id)?.status(),
            Kind::Backend => cluster.backends.get(&id.key)?.status(),
            Kind::BackendTrafficPolicy => cluster.policies.get(&id.key)?.status(),
            Kind::BackendTlsPolicy => cluster.backend_tls_policies.get(&id.key)?.status(),
            _ => None,
        };
        status.map(|status| status.to_json())
    }
}

fn assert_golden(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(expected == found, "{} differs; UPDATE_GOLDEN=1 rewrites it. Found:\n{found}", path.display());
}

#[test]
fn every_manifest_gives_its_golden_statuses_and_nothing_is_written_twice() {
    let entries = fs::read_dir("tests/status").unwrap().map(|entry| entry.unwrap().path());
    let mut inputs: Vec<PathBuf> =
        entries.filter(|path| path.to_string_lossy().ends_with(".in.yaml")).collect();
    inputs.sort();
    assert!(inputs.len() >= 8, "{inputs:?}");
    for input in inputs {
        let scene = Scene::read(&fs::read_to_string(&input).unwrap());
        let mut found = Vec::new();
        for desired in scene.desired() {
            let present = scene.present(&desired.id);
            let Some(status) = merge(&desired, present.as_ref(), NOW) else { continue };
            // What was written once needs no second write, even later.
            assert_eq!(merge(&desired, Some(&status), NOW + 60), None, "{}", desired.id);
            found.push(json!({ "object": desired.id.to_string(), "status": status }));
        }
        let text = serde_yaml::to_string(&found).unwrap();
        let path = input.to_string_lossy().replace(".in.yaml", ".out.yaml");
        assert_golden(path.as_ref(), &text);
    }
}

#[test]
fn of_a_route_that_does_not_act_its_own_error_is_said_and_not_that_another_one_has_its_host() {
    let route = |kind: &str, name: &str, day: u8, filters: &str| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: {kind}
metadata: {{name: {name}, creationTimestamp: \"2026-01-0{day}T00:00:00Z\"}}
spec:
  parentRefs: [{{name: eg}}]
  rules: [{{filters: [{filters}], backendRefs: [{{name: web, port: 80}}]}}]
"
        )
    };
    let extension = "{type: ExtensionRef, extensionRef: {group: example.com, kind: Thing, name: a}}";
    let text = [
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: understudy}
spec: {controllerName: understudy.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec: {gatewayClassName: understudy, listeners: [{name: http, protocol: HTTP, port: 8080}]}
",
        &route("GRPCRoute", "older", 1, extension),
        &route("HTTPRoute", "younger", 2, ""),
    ];
    let scene = Scene::read(&text.concat());
    let accepted = |kind: Kind, name: &str| {
        let id = ObjectId { kind, key: Key::new("default", name) };
        let found = scene.desired().into_iter().find(|desired| desired.id == id).unwrap();
        let Report::Parents(entries) = found.report else { panic!("{id} is a route") };
        let condition = entries[0].conditions.iter().find(|condition| condition.kind == "Accepted").unwrap();
        (condition.holds, condition.reason.to_string(), condition.message.contains("ExtensionRef"))
    };
    assert_eq!(accepted(Kind::HttpRoute, "younger"), (true, "Accepted".to_owned(), false));
    assert_eq!(accepted(Kind::GrpcRoute, "older"), (false, "UnsupportedValue".to_owned(), true));
}
