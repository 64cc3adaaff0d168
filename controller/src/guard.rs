//! The target guard of a cluster: what no Backend may point to.
//!
//! Inputs: the Service `kubernetes` with its EndpointSlice, the Nodes, this installation's pods, and [`GuardOptions`]. Outputs: the state's
//! [`Guard`]. Whoever writes Backends, Services or EndpointSlices elsewhere has no say in it. The proxy adds what is
//! never a backend anywhere, and judges each address after it was resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use understudy_conf::{DeniedTargets, Guard, GuardName, Network};

use crate::Options;
use crate::cluster::{Cluster, Key};

/// Where every kubelet listens unless it is told otherwise, with and without authentication.
const KUBELET_PORTS: [u16; 2] = [10250, 10255];

/// What an operator adds to the target guard.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuardOptions {
    /// Networks that are refused beside what always is.
    pub deny: Vec<Network>,
    /// Networks that are allowed although they are reserved (loopback, link-local and so on). The API server, kubelets
    /// and the proxy's admin address stay refused.
    pub allow: Vec<Network>,
    /// The folder in which Unix-domain sockets may be; without one they are all refused.
    pub unix_folder: Option<PathBuf>,
    /// The sockets that this installation's pods declare: admin addresses and probes. Whoever follows a cluster keeps
    /// them.
    pub own_sockets: Vec<SocketAddr>,
    /// The node that this runs on, as far as its Node object may not tell.
    pub own_node: Option<OwnNode>,
}

/// What a pod knows of its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnNode {
    /// The Node's name.
    pub name: String,
    /// Addresses at which pods reach it.
    pub addresses: Vec<IpAddr>,
}

/// The guards of the state; none where none is asked for.
pub(crate) fn build_guards(cluster: &Cluster, options: &Options) -> BTreeMap<GuardName, Arc<Guard>> {
    let Some(asked) = &options.guard else { return BTreeMap::new() };
    // The name is a valid one, so this never is empty.
    let Ok(name) = GuardName::new("guard/cluster") else { return BTreeMap::new() };
    let own = asked.own_node.as_ref();
    let mut deny = api_server(cluster, own);
    deny.extend(kubelets(cluster, own));
    deny.extend(own_pods(&asked.own_sockets));
    if !asked.deny.is_empty() {
        let what = "denied by the operator".to_owned();
        deny.push(DeniedTargets { what, networks: asked.deny.clone(), ports: Vec::new() });
    }
    let guard = Guard {
        name: name.clone(),
        deny,
        allow: asked.allow.clone(),
        unix_folder: asked.unix_folder.clone(),
    };
    BTreeMap::from([(name, Arc::new(guard))])
}

/// The Service `kubernetes`, whatever its port, and the sockets behind it.
fn api_server(cluster: &Cluster, own_node: Option<&OwnNode>) -> Vec<DeniedTargets> {
    let key = Key::new("default", "kubernetes");
    let what = || "the API server".to_owned();
    let mut denied = Vec::new();
    let spec = cluster.services.get(&key).and_then(|service| service.value.spec.as_ref());
    let own = spec.into_iter().flat_map(|spec| {
        spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip).chain(spec.external_ips.iter().flatten())
    });
    let networks = addresses(own.map(String::as_str));
    if !networks.is_empty() {
        denied.push(DeniedTargets { what: what(), networks, ports: Vec::new() });
    }
    // The API server writes this slice and no other. Slices that others add to the Service could name anybody.
    if let Some(slice) = cluster.endpoint_slices.get(&key) {
        let endpoints = slice.value.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
        let mut found = parse(endpoints.map(String::as_str));
        // One that listens on every address of its node is reached at each of them.
        let nodes = cluster.nodes.values().map(|node| node_addresses(&node.value, own_node));
        found.extend(nodes.filter(|node| !node.is_disjoint(&found)).flatten().collect::<Vec<_>>());
        let networks: Vec<Network> = found.into_iter().map(Network::from).collect();
        let ports = slice.value.ports.iter().flatten().filter_map(|port| u16::try_from(port.port?).ok());
        let ports: BTreeSet<u16> = ports.collect();
        if !networks.is_empty() {
            denied.push(DeniedTargets { what: what(), networks, ports: ports.into_iter().collect() });
        }
    }
    denied
}

/// The kubelets' ports on every address of every node. Nodes with the same ports stand together.
fn kubelets(cluster: &Cluster, own_node: Option<&OwnNode>) -> Vec<DeniedTargets> {
    let mut by_ports: BTreeMap<BTreeSet<u16>, Vec<&Node>> = BTreeMap::new();
    for node in cluster.nodes.values() {
        let own = node.value.status.as_ref().and_then(|status| status.daemon_endpoints.as_ref());
        let own = own.and_then(|daemons| u16::try_from(daemons.kubelet_endpoint.as_ref()?.port).ok());
        by_ports.entry(KUBELET_PORTS.into_iter().chain(own).collect()).or_default().push(&node.value);
    }
    let denied = by_ports.into_iter().filter_map(|(ports, nodes)| {
        let found: BTreeSet<IpAddr> =
            nodes.into_iter().flat_map(|node| node_addresses(node, own_node)).collect();
        let networks: Vec<Network> = found.into_iter().map(Network::from).collect();
        let what = "a node's kubelet".to_owned();
        (!networks.is_empty()).then(|| DeniedTargets { what, networks, ports: ports.into_iter().collect() })
    });
    denied.collect()
}

/// The addresses at which a node is reached: those of its status, the first one in the network of its pods, which the
/// bridge has that leads there, and what is known of the one that this runs on.
fn node_addresses(node: &Node, own: Option<&OwnNode>) -> BTreeSet<IpAddr> {
    let status = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    let mut found = parse(status.map(|address| address.address.as_str()));
    let networks = node.spec.iter().flat_map(|spec| spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr));
    found.extend(networks.filter_map(|network| network.parse::<Network>().ok()?.first_host()));
    let own = own.filter(|own| node.metadata.name.as_ref() == Some(&own.name));
    found.extend(own.iter().flat_map(|own| &own.addresses));
    found
}

/// What this installation's pods listen on for people and probes. Pods with the same ports stand together.
fn own_pods(sockets: &[SocketAddr]) -> Vec<DeniedTargets> {
    let mut by_address: BTreeMap<IpAddr, BTreeSet<u16>> = BTreeMap::new();
    for socket in sockets {
        by_address.entry(socket.ip()).or_default().insert(socket.port());
    }
    let mut by_ports: BTreeMap<BTreeSet<u16>, Vec<Network>> = BTreeMap::new();
    for (address, ports) in by_address {
        by_ports.entry(ports).or_default().push(address.into());
    }
    let denied = by_ports.into_iter().map(|(ports, networks)| {
        let what = "an admin address of the gateway's own pods".to_owned();
        DeniedTargets { what, networks, ports: ports.into_iter().collect() }
    });
    denied.collect()
}

/// The texts that are addresses, each once; names and `None` are none.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<Network> {
    parse(texts).into_iter().map(Network::from).collect()
}

fn parse<'a>(texts: impl Iterator<Item = &'a str>) -> BTreeSet<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}
