//! The target guard as the controller writes it.
#![allow(missing_docs, clippy::unwrap_used)]

use std::fmt::Write as _;

use understudy_conf::Guard;
use understudy_controller::{GuardOptions, Options, OwnNode, check_text};

const CLUSTER: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: default}
spec:
  clusterIP: 10.96.0.1
  clusterIPs: [10.96.0.1, "fd02::1"]
  ports: [{name: https, port: 443, targetPort: 6443}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, port: 6443}]
endpoints: [{addresses: [192.168.1.10]}]
---
# Somebody's attempt to have another's pod refused.
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes-x, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
ports: [{name: https, port: 3000}]
endpoints: [{addresses: [10.244.0.7]}]
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes, namespace: shop}
spec: {clusterIP: 10.96.0.99, ports: [{port: 443}]}
"#;

fn node(name: &str, addresses: &[&str], kubelet: Option<u16>) -> String {
    let mut text =
        format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\nstatus:\n  addresses:\n");
    for address in addresses {
        writeln!(text, "  - {{type: InternalIP, address: '{address}'}}").unwrap();
    }
    if let Some(port) = kubelet {
        writeln!(text, "  daemonEndpoints: {{kubeletEndpoint: {{Port: {port}}}}}").unwrap();
    }
    text
}

fn guard(text: &str, options: GuardOptions) -> Guard {
    let options = Options { guard: Some(options), ..Options::default() };
    let report = check_text(text.to_owned(), &options);
    assert_eq!(report.state.guards.len(), 1);
    report.state.guards.values().next().unwrap().as_ref().clone()
}

#[test]
fn files_have_no_guard_and_so_may_point_to_loopback() {
    assert!(check_text(CLUSTER.to_owned(), &Options::default()).state.guards.is_empty());
}

#[test]
fn the_guard_of_a_cluster_names_its_api_server_and_nobody_elses_service() {
    let guard = guard(CLUSTER, GuardOptions::default());
    let lines: Vec<String> = guard
        .deny
        .iter()
        .map(|denied| {
            let networks: Vec<String> = denied.networks.iter().map(ToString::to_string).collect();
            format!("{}: {} {:?}", denied.what, networks.join(","), denied.ports)
        })
        .collect();
    assert_eq!(lines, ["the API server: 10.96.0.1,fd02::1 []", "the API server: 192.168.1.10 [6443]"]);
    assert_eq!((guard.allow, guard.unix_folder), (Vec::new(), None));
}

#[test]
fn what_the_operator_denies_and_allows_stands_in_the_guard() {
    let options = GuardOptions {
        deny: vec!["172.20.0.0/16".parse().unwrap()],
        allow: vec!["169.254.20.10".parse().unwrap()],
        unix_folder: Some("/var/run/backends".into()),
        ..GuardOptions::default()
    };
    let guard = guard("", options.clone());
    assert_eq!(guard.deny.len(), 1);
    assert_eq!((guard.deny[0].networks.clone(), guard.deny[0].ports.clone()), (options.deny, vec![]));
    assert_eq!((guard.allow, guard.unix_folder), (options.allow, options.unix_folder));
}

#[test]
fn kubelets_are_refused_on_every_address_of_every_node() {
    let mut text = node("a", &["192.168.1.10", "fd01::10"], Some(10250));
    text += &node("b", &["192.168.1.11", "b.example.com"], None);
    text += &node("c", &["192.168.1.12"], Some(11250));
    text += &node("d", &[], None);
    let guard = guard(&text, GuardOptions::default());
    assert_eq!(guard.deny.len(), 2, "{:?}", guard.deny);
    let of_port = |port: u16| {
        let mut found: Vec<String> = guard
            .deny
            .iter()
            .filter(|denied| denied.ports.contains(&port))
            .flat_map(|denied| denied.networks.iter().map(ToString::to_string))
            .collect();
        found.sort();
        found
    };
    assert_eq!(of_port(10250), ["192.168.1.10", "192.168.1.11", "192.168.1.12", "fd01::10"]);
    assert_eq!(of_port(10250), of_port(10255));
    assert_eq!(of_port(11250), ["192.168.1.12"]);
}

/// A node with networks of pods of its own.
fn node_with_pods(name: &str, addresses: &[&str], networks: &[&str]) -> String {
    let mut text = node(name, addresses, None);
    writeln!(text, "spec: {{podCIDR: '{}', podCIDRs: {networks:?}}}", networks[0]).unwrap();
    text
}

#[test]
fn a_node_is_refused_at_the_bridge_to_its_pods_too() {
    let text = node_with_pods("a", &["192.168.1.11"], &["10.244.3.0/24", "fd00:10:244:3::/64"]);
    let guard = guard(&text, GuardOptions::default());
    let networks: Vec<String> = guard.deny[0].networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.244.3.1", "192.168.1.11", "fd00:10:244:3::1"]);
    assert_eq!(guard.deny[0].ports, [10250, 10255]);
}

#[test]
fn what_a_pod_knows_of_its_own_node_is_refused_as_that_nodes() {
    let mut text = CLUSTER.to_owned();
    text += &node("a", &["192.168.1.10"], Some(11250));
    text += &node("b", &["192.168.1.11"], None);
    let own_node = Some(OwnNode { name: "a".to_owned(), addresses: vec!["10.0.7.254".parse().unwrap()] });
    let guard = guard(&text, GuardOptions { own_node, ..GuardOptions::default() });
    let ports: Vec<_> = guard
        .deny
        .iter()
        .filter(|denied| denied.networks.contains(&"10.0.7.254".parse().unwrap()))
        .map(|denied| denied.ports.clone())
        .collect();
    assert_eq!(ports, [vec![6443], vec![10250, 10255, 11250]]);
}

#[test]
fn an_api_server_is_refused_at_every_address_of_its_node() {
    let mut text = CLUSTER.to_owned();
    text += &node_with_pods("control", &["192.168.1.10", "fd01::10"], &["10.244.0.0/24"]);
    text += &node_with_pods("worker", &["192.168.1.11"], &["10.244.1.0/24"]);
    let guard = guard(&text, GuardOptions::default());
    let of_api_server = guard.deny.iter().filter(|denied| denied.ports == [6443]);
    let networks: Vec<String> =
        of_api_server.flat_map(|denied| denied.networks.iter().map(ToString::to_string)).collect();
    assert_eq!(networks, ["10.244.0.1", "192.168.1.10", "fd01::10"]);
}

#[test]
fn what_the_gateways_own_pods_declare_is_refused() {
    let sockets =
        ["10.244.0.5:19000", "10.244.0.5:19001", "10.244.1.9:19000", "10.244.1.9:19001", "[fd00::9]:1"];
    let own_sockets = sockets.map(|socket| socket.parse().unwrap()).to_vec();
    let guard = guard("", GuardOptions { own_sockets, ..GuardOptions::default() });
    assert_eq!(guard.deny.len(), 2, "{:?}", guard.deny);
    let of = |port: u16| -> Vec<String> {
        let with_port = guard.deny.iter().filter(|denied| denied.ports.contains(&port));
        with_port.flat_map(|denied| denied.networks.iter().map(ToString::to_string)).collect()
    };
    assert_eq!(of(1), ["fd00::9"]);
    assert_eq!(of(19000), ["10.244.0.5", "10.244.1.9"]);
    assert_eq!(of(19000), of(19001));
}
