//! Plans and writes against a cluster in memory, which does what an API server does with server-side apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::names::service_name;
use super::peers::tests::{peer, peers};
use super::peers::{Peer, Peers};
use super::plan::{Change, Plan, Written, key_of, plan};
use super::ports::{ClientPort, HeldPorts, RANGE, Transport, container_ports, ports_of, recorded_ports};
use super::status::{GatewayAddress, gateway_addresses};
use super::writer::{Done, Signs, Store, write_to};
use crate::cluster::{Cluster, Key};
use crate::load::{Loader, Settling};
use crate::pass::Pass;
use crate::{GatewayMode, ListenOptions, Options, Placement, Source};

/// The port of most listeners here.
const HTTP: ClientPort = (Transport::Tcp, 80);

fn class(name: &str, more: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {name}}}
spec: {{controllerName: understudy.dev/gateway-controller{more}}}
"
    )
}

fn gateway(name: &str, class: &str, ports: &[u16]) -> String {
    let listeners: String =
        ports.iter().map(|port| format!("    - {{name: p{port}, protocol: HTTP, port: {port}}}\n")).collect();
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default, uid: uid-{name}}}
spec:
  gatewayClassName: {class}
  listeners:
{listeners}"
    )
}

fn placement() -> Placement {
    GatewayMode::Service.in_pod(&[])
}

fn pass(text: &str) -> Pass {
    pass_after(text, HeldPorts::default())
}

/// A pass after one whose Gateways had these container ports.
fn pass_after(text: &str, held: HeldPorts) -> Pass {
    let mut loader = Loader::default();
    loader.take_stdin(Ok(text.to_owned()));
    loader.refresh(&[Source::Stdin], Settling::TakeAll);
    let loaded = loader.load();
    let mut diagnostics = loaded.diagnostics;
    let listen = ListenOptions { placement: placement(), ..ListenOptions::default() };
    let options = Options { listen, held, ..Options::default() };
    let graph = crate::graph::build_graph(&loaded.cluster, &options, 0, &mut diagnostics);
    Pass { cluster: Arc::new(loaded.cluster), graph, diagnostics: diagnostics.into(), version: 1 }
}

fn two_pods() -> Peers {
    peers(&[peer(1), peer(2)])
}

/// A cluster that keeps what is written to it.
#[derive(Default)]
struct InMemory {
    services: Mutex<BTreeMap<Key, Service>>,
    slices: Mutex<BTreeMap<Key, EndpointSlice>>,
    writes: AtomicUsize,
    /// So many writes fail.
    failures: AtomicUsize,
    /// Somebody changes the type of every Service that is written.
    meddled: AtomicBool,
}

impl InMemory {
    fn text(&self) -> String {
        let services = self.services.lock().unwrap().values().map(serde_yaml::to_string).collect::<Vec<_>>();
        let slices = self.slices.lock().unwrap().values().map(serde_yaml::to_string).collect::<Vec<_>>();
        services.into_iter().chain(slices).map(|text| format!("---\n{}", text.unwrap())).collect()
    }

    fn pass(&self, manifests: &str) -> Pass {
        pass(&format!("{manifests}{}", self.text()))
    }

    fn apply(&self, change: &Change) -> Done {
        let version = Some(self.writes.fetch_add(1, Ordering::SeqCst).to_string());
        match change {
            Change::ApplyService(service) => {
                let mut service = (**service).clone();
                let key = key_of(&service.metadata);
                service.metadata.resource_version = version;
                service.metadata.uid = Some(format!("uid-{key}"));
                let spec = service.spec.get_or_insert_default();
                let address = format!("10.96.0.{}", self.services.lock().unwrap().len() + 1);
                spec.cluster_ip.get_or_insert(address);
                spec.cluster_ips = spec.cluster_ip.clone().map(|ip| vec![ip]);
                spec.session_affinity = Some("None".to_owned());
                if self.meddled.load(Ordering::SeqCst) {
                    spec.type_ = Some("ExternalName".to_owned());
                }
                // In another order, as after a merge.
                spec.ports.as_mut().unwrap().reverse();
                self.services.lock().unwrap().insert(key.clone(), service.clone());
                Done::Service(key, Some(Box::new(service)))
            }
            Change::ApplySlice(slice) => {
                let mut slice = (**slice).clone();
                let key = key_of(&slice.metadata);
                slice.metadata.resource_version = version;
                self.slices.lock().unwrap().insert(key.clone(), slice.clone());
                Done::Slice(key, Some(Box::new(slice)))
            }
            Change::DeleteService { key, .. } => {
                self.services.lock().unwrap().remove(key);
                Done::Service(key.clone(), None)
            }
            Change::DeleteSlice { key, .. } => {
                self.slices.lock().unwrap().remove(key);
                Done::Slice(key.clone(), None)
            }
        }
    }

    /// Plans and writes until nothing is left to do; says how many writes that took.
    fn settle(&self, manifests: &str, peers: &Peers) -> usize {
        let before = self.writes.load(Ordering::SeqCst);
        for _ in 0..10 {
            let plan = self.plan(manifests, peers);
            if plan.changes.is_empty() {
                return self.writes.load(Ordering::SeqCst) - before;
            }
            for change in &plan.changes {
                self.apply(change);
            }
        }
        panic!("there is always something to write: {:?}", self.plan(manifests, peers).changes);
    }

    fn plan(&self, manifests: &str, peers: &Peers) -> Plan {
        let pass = self.pass(manifests);
        plan(&pass.cluster, &pass.graph, peers, &Written::default())
    }

    fn service(&self, name: &str) -> Service {
        self.services.lock().unwrap()[&Key::new("default", name)].clone()
    }

    fn slice(&self, name: &str) -> EndpointSlice {
        self.slices.lock().unwrap()[&Key::new("default", name)].clone()
    }
}

impl Store for InMemory {
    async fn write(&self, change: &Change) -> Result<Done, kube::Error> {
        if self.failures.load(Ordering::SeqCst) > 0 {
            self.failures.fetch_sub(1, Ordering::SeqCst);
            return Err(kube::Error::LinesCodecMaxLineLengthExceeded);
        }
        Ok(self.apply(change))
    }
}

fn conditions(slice: &EndpointSlice) -> Vec<(String, bool, bool)> {
    let endpoints = slice.endpoints.iter().flatten();
    endpoints
        .map(|endpoint| {
            let conditions = endpoint.conditions.clone().unwrap();
            (endpoint.addresses[0].clone(), conditions.ready.unwrap(), conditions.terminating.unwrap())
        })
        .collect()
}

#[test]
fn each_gateway_gets_a_service_with_the_pods_behind_it() {
    let cluster = InMemory::default();
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80, 443]), gateway("b", "eg", &[80])].concat();
    assert_eq!(cluster.settle(&manifests, &two_pods()), 4);
    let service = cluster.service("understudy-eg");
    let spec = service.spec.clone().unwrap();
    assert_eq!((spec.type_.as_deref(), spec.selector), (Some("LoadBalancer"), None));
    let owner = &service.metadata.owner_references.clone().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Gateway", "uid-eg"));
    let (first, second) = (ports_of(&service), ports_of(&cluster.service("understudy-b")));
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), [(Transport::Tcp, 80), (Transport::Tcp, 443)]);
    assert!(first.values().all(|target| RANGE.contains(target) && *target != second[&HTTP]));
    let slice = cluster.slice("understudy-eg-v4");
    assert_eq!(
        conditions(&slice),
        [("10.0.0.1".to_owned(), true, false), ("10.0.0.2".to_owned(), true, false)]
    );
    let targets: BTreeMap<_, _> =
        slice.ports.unwrap().into_iter().map(|port| (port.name.unwrap(), port.port.unwrap())).collect();
    assert_eq!(targets["tcp-80"], i32::from(first[&HTTP]));
    // The sidecars listen there.
    let pass = cluster.pass(&manifests);
    let node = &pass.graph.gateways[&Key::new("default", "eg")];
    assert_eq!(node.listeners[0].bind[0].to_string(), format!("0.0.0.0:{}", first[&HTTP]));
}

#[test]
fn a_port_number_may_be_there_once_over_tcp_and_once_over_udp() {
    let cluster = InMemory::default();
    let listeners = "    - {name: t, protocol: TCP, port: 53}\n    - {name: u, protocol: UDP, port: 53}\n    \
                     - {name: p, protocol: TLS, port: 443, tls: {mode: Passthrough}}\n";
    let manifests = [class("eg", ""), gateway("eg", "eg", &[]) + listeners].concat();
    cluster.settle(&manifests, &two_pods());
    let service = cluster.service("understudy-eg");
    let written: Vec<_> = service.spec.clone().unwrap().ports.unwrap();
    let of_service = written.iter().map(|port| (port.name.clone().unwrap(), port.protocol.clone().unwrap()));
    let named = |name: &str, protocol: &str| (name.to_owned(), protocol.to_owned());
    let expected = BTreeSet::from([named("tcp-53", "TCP"), named("tcp-443", "TCP"), named("udp-53", "UDP")]);
    assert_eq!(of_service.collect::<BTreeSet<_>>(), expected);
    let of_slice = cluster.slice("understudy-eg-v4").ports.unwrap().into_iter();
    let of_slice = of_slice.map(|port| (port.name.unwrap(), port.protocol.unwrap()));
    assert_eq!(of_slice.collect::<BTreeSet<_>>(), expected);
    let ports = ports_of(&service);
    assert_eq!(ports.values().collect::<BTreeSet<_>>().len(), 3);
    // The sidecars listen where the Service leads.
    let pass = cluster.pass(&manifests);
    let node = &pass.graph.gateways[&Key::new("default", "eg")];
    let bound: Vec<_> = node.listeners.iter().map(|listener| listener.bind[0].port()).collect();
    let wanted = [(Transport::Tcp, 53), (Transport::Udp, 53), (Transport::Tcp, 443)];
    assert_eq!(bound, wanted.map(|port| ports[&port]));
    assert_eq!(cluster.settle(&manifests, &two_pods()), 0);
}

#[test]
fn nothing_is_written_again_until_something_changes() {
    let cluster = InMemory::default();
    let one = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    cluster.settle(&one, &two_pods());
    assert_eq!(cluster.settle(&one, &two_pods()), 0);
    let before = ports_of(&cluster.service("understudy-eg"));
    let more = [class("eg", ""), gateway("eg", "eg", &[80, 8080])].concat();
    assert_eq!(cluster.settle(&more, &two_pods()), 2);
    assert_eq!(ports_of(&cluster.service("understudy-eg"))[&HTTP], before[&HTTP]);
    // What is no longer wanted goes, too: here the port, and the label.
    assert_eq!(cluster.settle(&one, &two_pods()), 2);
    assert_eq!(ports_of(&cluster.service("understudy-eg")), before);
    let labelled = one.replace(
        "spec:\n  gatewayClassName",
        "spec:\n  infrastructure: {labels: {team: a}, annotations: {cloud/x: y}}\n  gatewayClassName",
    );
    assert_eq!(cluster.settle(&labelled, &two_pods()), 2);
    let metadata = cluster.service("understudy-eg").metadata;
    assert_eq!(
        (&metadata.labels.unwrap()["team"][..], &metadata.annotations.unwrap()["cloud/x"][..]),
        ("a", "y")
    );
    assert_eq!(cluster.settle(&one, &two_pods()), 2);
    assert!(!cluster.service("understudy-eg").metadata.labels.unwrap().contains_key("team"));
}

#[test]
fn what_others_add_to_a_service_stays_and_what_they_change_is_changed_back() {
    let cluster = InMemory::default();
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    cluster.settle(&manifests, &two_pods());
    let key = Key::new("default", "understudy-eg");
    let before = ports_of(&cluster.service("understudy-eg"));
    let change = |change: &dyn Fn(&mut Service)| {
        change(cluster.services.lock().unwrap().get_mut(&key).unwrap());
        cluster.settle(&manifests, &two_pods())
    };
    assert_eq!(
        change(&|service| drop(
            service.metadata.annotations.as_mut().unwrap().insert("a".into(), "b".into())
        )),
        0
    );
    assert_eq!(change(&|service| service.spec.as_mut().unwrap().type_ = Some("ClusterIP".into())), 1);
    // A container port is what stands in the Service.
    assert_eq!(
        change(&|service| service.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port =
            Some(k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(80))),
        3,
        "nothing leads anywhere until the Service does"
    );
    assert_eq!(ports_of(&cluster.service("understudy-eg")), before);
}

#[test]
fn a_service_that_is_edited_takes_no_container_port_of_another_gateway() {
    // By age the first, "a", would have what both record.
    let manifests = format!("{}{}{}", class("c", ""), gateway("a", "c", &[80]), gateway("b", "c", &[80]));
    let cluster = InMemory::default();
    let settle = |held: HeldPorts| {
        let pass = pass_after(&format!("{manifests}{}", cluster.text()), held);
        for change in plan(&pass.cluster, &pass.graph, &two_pods(), &Written::default()).changes {
            cluster.apply(&change);
        }
        pass
    };
    settle(HeldPorts::default());
    let before = settle(HeldPorts::default());
    let key = |name: &str| Key::new("default", name);
    let port_of = |pass: &Pass, name: &str| recorded_ports(&pass.cluster, &key(name))[&HTTP];
    let (of_a, of_b) = (port_of(&before, "a"), port_of(&before, "b"));
    {
        let mut services = cluster.services.lock().unwrap();
        let edited = services.get_mut(&key("understudy-a")).unwrap();
        edited.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].target_port =
            Some(IntOrString::Int(i32::from(of_b)));
    }
    let held = HeldPorts::of(&before.graph);
    let edited = settle(held.clone());
    let listeners = |pass: &Pass, name: &str| pass.graph.gateways[&key(name)].listeners.len();
    assert_eq!((port_of(&edited, "a"), port_of(&edited, "b")), (of_b, of_b));
    assert_eq!((listeners(&edited, "a"), listeners(&edited, "b")), (0, 1));
    assert!(container_ports(&edited.cluster, &key("a"), &held).is_empty());
    // The plan gives the Service its port back.
    let after = settle(HeldPorts::of(&edited.graph));
    assert_eq!((port_of(&after, "a"), port_of(&after, "b")), (of_a, of_b));
    assert_eq!((listeners(&after, "a"), listeners(&after, "b")), (1, 1));
}

#[test]
fn somebody_elses_service_is_left_alone() {
    let cluster = InMemory::default();
    let foreign = "---
apiVersion: v1
kind: Service
metadata: {name: understudy-eg, namespace: default, uid: x}
spec: {ports: [{port: 80}]}
";
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let plan = cluster.plan(&format!("{manifests}{foreign}"), &two_pods());
    assert_eq!(plan.changes, []);
    assert!(plan.problems.iter().any(|problem| problem.contains("was not made here")), "{plan:?}");
    let pass = pass(&format!("{manifests}{foreign}"));
    assert!(pass.diagnostics.iter().any(|d| d.is_error() && d.to_string().contains("nobody else's")));
}

#[test]
fn a_pod_that_comes_or_goes_changes_the_slices_alone() {
    let cluster = InMemory::default();
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    cluster.settle(&manifests, &two_pods());
    let leaving = Peer { ready: false, terminating: true, ..peer(1) };
    assert_eq!(cluster.settle(&manifests, &peers(&[leaving, peer(2)])), 1);
    assert_eq!(
        conditions(&cluster.slice("understudy-eg-v4")),
        [("10.0.0.1".to_owned(), false, true), ("10.0.0.2".to_owned(), true, false)]
    );
    assert_eq!(cluster.settle(&manifests, &peers(&[peer(2)])), 1);
    let both = Peer { addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()], ..peer(2) };
    assert_eq!(cluster.settle(&manifests, &peers(&[both])), 1);
    assert_eq!(conditions(&cluster.slice("understudy-eg-v6")), [("fd00::2".to_owned(), true, false)]);
    assert_eq!(cluster.settle(&manifests, &peers(&[peer(2)])), 1);
    assert!(!cluster.slices.lock().unwrap().contains_key(&Key::new("default", "understudy-eg-v6")));
}

#[test]
fn slices_hold_no_more_endpoints_than_the_api_allows() {
    let cluster = InMemory::default();
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let many = (0..2100_u16)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            (format!("understudy-{n}"), Peer { addresses: vec![[10, 1, high, low].into()], ..peer(1) })
        })
        .collect();
    cluster.settle(&manifests, &Peers { pods: many, nodes: BTreeMap::new() });
    let count = |name: &str| cluster.slice(name).endpoints.unwrap().len();
    let counts = ["understudy-eg-v4", "understudy-eg-v4-2", "understudy-eg-v4-3"].map(count);
    assert_eq!(counts, [1000, 1000, 100]);
}

#[test]
fn a_class_that_cannot_be_understood_leaves_services_as_they_are() {
    let cluster = InMemory::default();
    let reference = ", parametersRef: {group: \"\", kind: ConfigMap, name: p, namespace: a}";
    let config = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: p, namespace: a}
data: {serviceType: NodePort, externalTrafficPolicy: Local}
";
    let manifests = [class("eg", reference), gateway("eg", "eg", &[80])].concat();
    assert_eq!(cluster.settle(&manifests, &two_pods()), 0);
    cluster.settle(&format!("{manifests}{config}"), &two_pods());
    let spec = cluster.service("understudy-eg").spec.unwrap();
    assert_eq!(
        (spec.type_.as_deref(), spec.external_traffic_policy.as_deref()),
        (Some("NodePort"), Some("Local"))
    );
    assert_eq!(cluster.settle(&manifests, &two_pods()), 0);
}

#[test]
fn a_service_goes_when_its_gateway_is_another_controllers_and_stays_while_nothing_is_known() {
    let cluster = InMemory::default();
    let (ours, gateway) = (class("eg", ""), gateway("eg", "eg", &[80]));
    cluster.settle(&format!("{ours}{gateway}"), &two_pods());
    assert_eq!(cluster.settle(&gateway, &two_pods()), 0, "the class is gone");
    let unreadable = gateway.replace("listeners:", "listeners: 7\n  x:");
    assert_eq!(cluster.settle(&format!("{ours}{unreadable}"), &two_pods()), 0);
    let foreign = ours.replace("understudy.dev", "example.com");
    assert_eq!(cluster.settle(&format!("{foreign}{gateway}"), &two_pods()), 1);
    assert!(cluster.services.lock().unwrap().is_empty());
}

#[test]
fn the_service_of_a_gateway_that_is_gone_goes() {
    let cluster = InMemory::default();
    let ours = class("eg", "");
    cluster.settle(&format!("{ours}{}", gateway("eg", "eg", &[80])), &two_pods());
    assert_eq!(cluster.settle(&ours, &two_pods()), 1);
    assert!(cluster.services.lock().unwrap().is_empty());
}

#[test]
fn an_address_that_is_asked_for_stands_in_the_service() {
    for (kind, field) in [("ClusterIP", "clusterIP"), ("LoadBalancer", "loadBalancerIP")] {
        let cluster = InMemory::default();
        let config = format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: p, namespace: a}}\ndata: {{serviceType: {kind}}}\n"
        );
        let class = class("eg", ", parametersRef: {group: \"\", kind: ConfigMap, name: p, namespace: a}");
        let asking = gateway("eg", "eg", &[80])
            .replace("spec:\n", "spec:\n  addresses: [{type: IPAddress, value: 10.96.7.7}]\n");
        cluster.settle(&format!("{class}{config}{asking}"), &two_pods());
        let spec = json!(cluster.service("understudy-eg").spec);
        assert_eq!(spec[field], "10.96.7.7", "{kind}");
        let wrong = asking.replace("IPAddress", "Hostname");
        assert_eq!(cluster.settle(&format!("{class}{config}{wrong}"), &two_pods()), 0, "left as it is");
    }
}

const SERVICE_RANGE: &str = "---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16]}
";

#[test]
fn a_service_with_another_cluster_ip_than_is_asked_for_is_made_anew() {
    let cluster = InMemory::default();
    let plain = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    cluster.settle(&plain, &two_pods());
    let before = ports_of(&cluster.service("understudy-eg"));
    let asking = |address: &str| {
        let addresses = format!("spec:\n  addresses: [{{value: {address}}}]\n  gatewayClassName");
        format!("{}{SERVICE_RANGE}", plain.replace("spec:\n  gatewayClassName", &addresses))
    };
    let of = |field: &str| json!(cluster.service("understudy-eg").spec)[field].clone();
    cluster.settle(&asking("10.96.7.7"), &two_pods());
    assert_eq!((of("clusterIP"), of("type")), (json!("10.96.7.7"), json!("LoadBalancer")));
    assert_eq!(ports_of(&cluster.service("understudy-eg")), before);
    assert_eq!(
        shown(&cluster.pass(&asking("10.96.7.7")).cluster, placement(), None),
        ["IPAddress 10.96.7.7"]
    );
    // The load balancer's address is another matter.
    let writes = cluster.writes.load(Ordering::SeqCst);
    cluster.settle(&asking("203.0.113.9"), &two_pods());
    assert_eq!(
        (of("loadBalancerIP"), cluster.writes.load(Ordering::SeqCst)),
        (json!("203.0.113.9"), writes + 1)
    );
}

#[test]
fn a_gateway_that_asks_for_the_cluster_ip_of_another_loses_no_service() {
    let cluster = InMemory::default();
    let asking = |name: &str, address: &str| {
        let addresses = format!("spec:\n  addresses: [{{value: {address}}}]\n  gatewayClassName");
        gateway(name, "eg", &[80]).replace("spec:\n  gatewayClassName", &addresses)
    };
    let of = |name: &str| json!(cluster.service(name).spec)["clusterIP"].clone();
    let both = |a: &str, b: &str| [&class("eg", ""), SERVICE_RANGE, a, b].concat();
    let before = both(&gateway("z", "eg", &[80]), "");
    cluster.settle(&before, &two_pods());
    let address = of("understudy-z");
    // Both at once; `a` has no Service yet.
    let after = both(&asking("z", "10.96.7.7"), &asking("a", "10.96.7.7"));
    let first = cluster.plan(&after, &two_pods());
    let is_removal = |change: &Change| matches!(change, Change::DeleteService { .. });
    assert!(!first.changes.iter().any(is_removal), "{:#?}", first.changes);
    cluster.settle(&after, &two_pods());
    assert_eq!((of("understudy-a"), of("understudy-z")), (json!("10.96.7.7"), address));
    // What was written and was not watched yet counts, too: the Service that has the address keeps it.
    let (watched, written) = (InMemory::default(), InMemory::default());
    let younger = both(&asking("b", "10.96.7.8"), "");
    written.settle(&younger, &two_pods());
    let key = Key::new("default", "understudy-b");
    let services = [(key, Some(written.service("understudy-b")))].into();
    let all = both(&asking("b", "10.96.7.8"), &asking("a", "10.96.7.8"));
    let pass = watched.pass(&all);
    let written = Written { services, ..Written::default() };
    let planned = plan(&pass.cluster, &pass.graph, &two_pods(), &written);
    let applied = |change: &Change| match change {
        Change::ApplyService(service) => Some(key_of(&service.metadata).name.to_string()),
        _ => None,
    };
    assert_eq!(planned.changes.iter().filter_map(applied).collect::<Vec<_>>(), [""; 0]);
    assert!(
        planned.problems.iter().any(|said| said.contains("Gateway default/b has 10.96.7.8")),
        "{planned:?}"
    );
}

#[test]
fn a_service_that_is_about_to_go_is_neither_removed_again_nor_changed() {
    let cluster = InMemory::default();
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    cluster.settle(&manifests, &two_pods());
    // A cloud's load balancer is taken down first.
    let key = Key::new("default", "understudy-eg");
    let time = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    cluster.services.lock().unwrap().get_mut(&key).unwrap().metadata.deletion_timestamp = Some(time);
    let asking = manifests
        .replace("spec:\n  gatewayClassName", "spec:\n  addresses: [{value: 10.96.7.7}]\n  gatewayClassName");
    assert_eq!(cluster.settle(&format!("{asking}{SERVICE_RANGE}"), &two_pods()), 0);
    let another_port = manifests.replace("port: 80", "port: 81");
    assert_eq!(cluster.settle(&another_port, &two_pods()), 0);
    let foreign = manifests.replace("understudy.dev/gateway-controller", "else/where");
    assert_eq!(cluster.plan(&foreign, &two_pods()).changes, []);
    cluster.services.lock().unwrap().remove(&key);
    cluster.settle(&format!("{asking}{SERVICE_RANGE}"), &two_pods());
    assert_eq!(json!(cluster.service("understudy-eg").spec)["clusterIP"], "10.96.7.7");
}

#[test]
fn the_service_leads_to_the_listeners_of_listener_sets_that_the_gateway_allows() {
    let cluster = InMemory::default();
    let set = |name: &str, port: u16| {
        format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: ListenerSet
metadata: {{name: {name}, namespace: default}}
spec:
  parentRef: {{name: eg}}
  listeners: [{{name: http, protocol: HTTP, port: {port}}}, {{name: dns, protocol: UDP, port: {port}}}]
"
        )
    };
    let closed = [class("eg", ""), gateway("eg", "eg", &[80]), set("a", 80), set("b", 8080)].concat();
    let open = closed.replace(
        "spec:\n  gatewayClassName",
        "spec:\n  allowedListeners: {namespaces: {from: Same}}\n  gatewayClassName",
    );
    let ports = |manifests: &str| {
        cluster.settle(manifests, &two_pods());
        ports_of(&cluster.service("understudy-eg"))
    };
    assert_eq!(ports(&closed).into_keys().collect::<Vec<_>>(), [HTTP]);
    let all = ports(&open);
    let expected = [HTTP, (Transport::Tcp, 8080), (Transport::Udp, 80), (Transport::Udp, 8080)];
    assert_eq!(all.keys().copied().collect::<Vec<_>>(), expected);
    // The sidecars listen there.
    let pass = cluster.pass(&open);
    let node = &pass.graph.gateways[&Key::new("default", "eg")];
    let of_set =
        node.listeners.iter().find(|listener| listener.name.as_str() == "listenerset/default/b/http");
    let bound = of_set.unwrap().bind[0].to_string();
    assert_eq!(bound, format!("0.0.0.0:{}", all[&(Transport::Tcp, 8080)]));
    assert_eq!(ports(&closed).into_keys().collect::<Vec<_>>(), [HTTP]);
}

#[test]
fn parameters_of_a_gateway_go_before_those_of_its_class() {
    let cluster = InMemory::default();
    let config = |name: &str, namespace: &str, data: &str| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: {namespace}}}\ndata: {{{data}}}\n"
        )
    };
    let manifests = [
        class("eg", ", parametersRef: {group: \"\", kind: ConfigMap, name: p, namespace: a}"),
        config("p", "a", "serviceType: NodePort, externalTrafficPolicy: Local"),
        gateway("eg", "eg", &[80]).replace(
            "spec:\n",
            "spec:\n  infrastructure: {parametersRef: {group: \"\", kind: ConfigMap, name: own}}\n",
        ),
    ]
    .concat();
    assert_eq!(cluster.settle(&manifests, &two_pods()), 0, "its own ones are not there");
    let own = config("own", "default", "serviceType: LoadBalancer");
    cluster.settle(&format!("{manifests}{own}"), &two_pods());
    let spec = cluster.service("understudy-eg").spec.unwrap();
    assert_eq!(
        (spec.type_.as_deref(), spec.external_traffic_policy.as_deref()),
        (Some("LoadBalancer"), Some("Local"))
    );
    let wrong = config("own", "default", "serviceType: Nothing");
    assert_eq!(cluster.settle(&format!("{manifests}{wrong}"), &two_pods()), 0, "left as it is");
}

fn shown(cluster: &Cluster, placement: Placement, peers: Option<&Peers>) -> Vec<String> {
    let found = gateway_addresses(cluster, peers, placement, &Key::new("default", "eg"));
    found.into_iter().map(|GatewayAddress { kind, value }| format!("{kind} {value}")).collect()
}

#[test]
fn a_status_shows_the_load_balancer_else_the_service_or_the_nodes() {
    let store = InMemory::default();
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    assert!(shown(&store.pass(&manifests).cluster, placement(), None).is_empty());
    store.settle(&manifests, &two_pods());
    let look =
        |manifests: &str, peers: &Peers| shown(&store.pass(manifests).cluster, placement(), Some(peers));
    assert_eq!(look(&manifests, &two_pods()), ["IPAddress 10.96.0.1"]);
    let config = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: p, namespace: a}
data: {addresses: nodes}
";
    let reference = ", parametersRef: {group: \"\", kind: ConfigMap, name: p, namespace: a}";
    let nodes = [&class("eg", reference)[..], &gateway("eg", "eg", &[80]), config].concat();
    assert_eq!(look(&nodes, &two_pods()), ["IPAddress 192.0.2.1", "IPAddress 192.0.2.2"]);
    let mut one = two_pods();
    one.pods.values_mut().next().unwrap().ready = false;
    assert_eq!(look(&nodes, &one), ["IPAddress 192.0.2.2"]);
    one.nodes.get_mut("node-2").unwrap().external.push([203, 0, 113, 2].into());
    assert_eq!(look(&nodes, &one), ["IPAddress 203.0.113.2"]);
}

#[test]
fn with_host_ports_a_status_shows_what_is_asked_for_else_the_nodes() {
    let host = GatewayMode::Host.in_pod(&[]);
    let plain = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let two = two_pods();
    assert_eq!(
        shown(&pass(&plain).cluster, host, Some(&two)),
        ["IPAddress 192.0.2.1", "IPAddress 192.0.2.2"]
    );
    assert!(shown(&pass(&plain).cluster, host, None).is_empty());
    let asking = plain.replace("  listeners:", "  addresses: [{value: 192.0.2.2}]\n  listeners:");
    assert_eq!(shown(&pass(&asking).cluster, host, Some(&two)), ["IPAddress 192.0.2.2"]);
}

/// A writer at work, and the ends of what it follows.
struct Running {
    cluster: Arc<InMemory>,
    passes: watch::Sender<Option<Arc<Pass>>>,
    peers: watch::Sender<Option<Arc<Peers>>>,
    leading: watch::Sender<bool>,
    leaving: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

const BOUND: Duration = Duration::from_secs(120);

impl Running {
    fn start(manifests: &str, leads: bool) -> Self {
        let cluster = Arc::new(InMemory::default());
        let passes = watch::Sender::new(Some(Arc::new(pass(manifests))));
        let peers = watch::Sender::new(Some(Arc::new(two_pods())));
        let (leading, leaving) = (watch::Sender::new(leads), watch::Sender::new(false));
        let signs = Signs {
            passes: passes.subscribe(),
            peers: peers.subscribe(),
            leading: leading.subscribe(),
            leaving: leaving.subscribe(),
        };
        let store = cluster.clone();
        let task = tokio::spawn(async move { write_to(&*store, "understudy-uid-1", signs).await });
        Self { cluster, passes, peers, leading, leaving, task }
    }

    async fn wait_for(&self, what: impl Fn(&InMemory) -> bool) {
        let start = Instant::now();
        while !what(&self.cluster) {
            assert!(start.elapsed() < BOUND, "it did not happen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn has(service: &'static str) -> impl Fn(&InMemory) -> bool {
    move |cluster| {
        cluster.slices.lock().unwrap().contains_key(&Key::new("default", &format!("{service}-v4")))
            && cluster.services.lock().unwrap().contains_key(&Key::new("default", service))
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_leader_writes() {
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let running = Running::start(&manifests, false);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(running.cluster.writes.load(Ordering::SeqCst), 0);
    running.leading.send_replace(true);
    running.wait_for(has("understudy-eg")).await;
    // The cluster's own news does not come for a while; what was written is believed.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(running.cluster.writes.load(Ordering::SeqCst), 2);
    drop(running.passes);
    timeout(BOUND, running.task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_fails_is_tried_again() {
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let running = Running::start(&manifests, false);
    running.cluster.failures.store(5, Ordering::SeqCst);
    running.leading.send_replace(true);
    running.wait_for(has("understudy-eg")).await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_changes_at_once_is_written_more_and_more_rarely() {
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let running = Running::start(&manifests, false);
    running.cluster.meddled.store(true, Ordering::SeqCst);
    running.leading.send_replace(true);
    running.wait_for(has("understudy-eg")).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    let writes = running.cluster.writes.load(Ordering::SeqCst);
    assert!((5..40).contains(&writes), "{writes}");
    running.cluster.meddled.store(false, Ordering::SeqCst);
    running
        .wait_for(|cluster| cluster.service("understudy-eg").spec.unwrap().type_.unwrap() != "ExternalName")
        .await;
}

#[test]
fn of_gateways_whose_services_would_have_one_name_the_older_has_it() {
    let cluster = InMemory::default();
    let twin = service_name("a.b").strip_prefix("understudy-").unwrap().to_owned();
    // Of the same age, and before the other by its name.
    let older = gateway(&twin, "eg", &[80]);
    cluster.settle(&[class("eg", ""), older.clone()].concat(), &two_pods());
    let manifests = [class("eg", ""), older, gateway("a.b", "eg", &[80])].concat();
    let plan = cluster.plan(&manifests, &two_pods());
    assert_eq!(plan.changes, [], "nobody writes over the other");
    assert!(plan.problems.iter().any(|problem| problem.contains("default/a.b")), "{:?}", plan.problems);
    let cluster = cluster.pass(&manifests).cluster;
    assert_eq!(recorded_ports(&cluster, &Key::new("default", &twin)).len(), 1);
    assert_eq!(recorded_ports(&cluster, &Key::new("default", "a.b")).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_leaves_withdraws_its_pod_before_it_ends() {
    let manifests = [class("eg", ""), gateway("eg", "eg", &[80])].concat();
    let running = Running::start(&manifests, true);
    running.wait_for(has("understudy-eg")).await;
    running.cluster.failures.store(2, Ordering::SeqCst);
    running.leaving.send_replace(true);
    timeout(BOUND, running.task).await.unwrap().unwrap();
    assert_eq!(
        conditions(&running.cluster.slice("understudy-eg-v4")),
        [("10.0.0.1".to_owned(), false, true), ("10.0.0.2".to_owned(), true, false)]
    );
    drop((running.passes, running.peers, running.leading));
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_leaves_at_once() {
    let running = Running::start(&class("eg", ""), false);
    running.leaving.send_replace(true);
    timeout(Duration::from_secs(1), running.task).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn many_gateways_are_written_at_a_bounded_rate() {
    let gateways: String = (0..200).map(|n| gateway(&format!("g{n}"), "eg", &[80])).collect();
    let start = Instant::now();
    let running = Running::start(&format!("{}{gateways}", class("eg", "")), true);
    running.wait_for(|cluster| cluster.slices.lock().unwrap().len() == 200).await;
    let writes = running.cluster.writes.load(Ordering::SeqCst);
    assert_eq!(writes, 400);
    assert!(start.elapsed() >= Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
}
