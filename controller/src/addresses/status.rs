//! The addresses that a Gateway's status shows: those at which clients reach it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use tokio::sync::watch;

use crate::Placement;
use crate::addresses::peers::{NodeAddresses, Peers};
use crate::addresses::ports::own_service;
use crate::addresses::{StatusAddresses, resolve_gateway_parameters, resolve_parameters};
use crate::cluster::{Cluster, Key, Object};
use crate::pass::Pass;
use crate::watch::{Node, NodeValue};

/// The most addresses that the API allows in a status.
const MOST: usize = 16;

/// An entry of `status.addresses`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GatewayAddress {
    /// `IPAddress` or `Hostname`.
    pub(crate) kind: &'static str,
    pub(crate) value: String,
}

impl GatewayAddress {
    fn ip(value: impl ToString) -> Self {
        Self { kind: "IPAddress", value: value.to_string() }
    }
}

/// The addresses of Gateways. One that is not named has those that its listeners are bound to.
pub(crate) type Addresses = BTreeMap<Key, Vec<GatewayAddress>>;

/// Keeps `addresses` current until there are no more passes.
pub(crate) async fn follow_addresses(
    mut passes: watch::Receiver<Option<Arc<Pass>>>,
    mut peers: watch::Receiver<Option<Arc<Peers>>>,
    placement: Placement,
    addresses: watch::Sender<Arc<Addresses>>,
) {
    // Without pods nobody tells of them.
    let mut peers_end = false;
    loop {
        tokio::select! {
            changed = passes.changed() => if changed.is_err() { return },
            changed = peers.changed(), if !peers_end => peers_end = changed.is_err(),
        }
        let Some(pass) = passes.borrow_and_update().clone() else { continue };
        let peers = peers.borrow_and_update().clone();
        let now = all_addresses(&pass, peers.as_deref(), placement);
        addresses.send_if_modified(|known| {
            let is_new = **known != now;
            if is_new {
                *known = Arc::new(now);
            }
            is_new
        });
    }
}

fn all_addresses(pass: &Pass, peers: Option<&Peers>, placement: Placement) -> Addresses {
    if placement == Placement::Local {
        return Addresses::new();
    }
    let of = |gateway: &Key| gateway_addresses(&pass.cluster, peers, placement, gateway);
    pass.graph.gateways.keys().map(|gateway| (gateway.clone(), of(gateway))).collect()
}

/// The addresses of a Gateway that is served here; none, as long as it has none.
///
/// With Services: of the addresses that the Gateway asks for those that its Service has; where it has none of them, what
/// the load balancer got, or where there is no load balancer, as the parameters want it, the nodes' or the Service's own
/// addresses. With host ports: those that the Gateway asks for, or those of the nodes that serve.
/// `peers` is `None` until the pods are known.
pub(super) fn gateway_addresses(
    cluster: &Cluster,
    peers: Option<&Peers>,
    placement: Placement,
    gateway: &Key,
) -> Vec<GatewayAddress> {
    let mut found = match placement {
        Placement::Local => Vec::new(),
        Placement::Host(_) => {
            let asked = asked_addresses(cluster, gateway);
            if asked.is_empty() { node_addresses(peers) } else { asked }
        }
        Placement::Service(_) => match own_service(cluster, gateway) {
            Some(service) => {
                let given = given_addresses(service, asked_addresses(cluster, gateway));
                if given.is_empty() {
                    service_addresses(service, shows_nodes(cluster, gateway), peers)
                } else {
                    given
                }
            }
            None => Vec::new(),
        },
    };
    found.truncate(MOST);
    found
}

fn asked_addresses(cluster: &Cluster, gateway: &Key) -> Vec<GatewayAddress> {
    let gateway = cluster.gateways.get(gateway);
    let asked = gateway.iter().flat_map(|gateway| gateway.value.spec.addresses.iter().flatten());
    asked
        .filter(|address| address.r#type.as_deref().unwrap_or("IPAddress") == "IPAddress")
        .filter_map(|address| address.value.as_deref()?.parse::<IpAddr>().ok())
        .map(GatewayAddress::ip)
        .collect()
}

/// Of the addresses that a Gateway asks for those that its Service has.
fn given_addresses(service: &Object<Service>, asked: Vec<GatewayAddress>) -> Vec<GatewayAddress> {
    if asked.is_empty() {
        return asked;
    }
    let mut has = balancer_addresses(service.status().as_deref());
    has.extend(cluster_addresses(service));
    let has: Vec<IpAddr> = has.iter().filter_map(|address| address.value.parse().ok()).collect();
    let is_there = |address: &GatewayAddress| address.value.parse().is_ok_and(|ip: IpAddr| has.contains(&ip));
    asked.into_iter().filter(is_there).collect()
}

/// Whether the parameters of a Gateway want the nodes' addresses shown.
fn shows_nodes(cluster: &Cluster, gateway: &Key) -> bool {
    let parameters = cluster.gateways.get(gateway).and_then(|gateway| {
        let class = &gateway.value.spec.gateway_class_name;
        let class = cluster.gateway_classes.get(&Key::new("", class))?;
        resolve_gateway_parameters(cluster, gateway, resolve_parameters(cluster, class).ok()?).ok()
    });
    parameters.is_some_and(|parameters| parameters.addresses == StatusAddresses::Nodes)
}

fn service_addresses(service: &Object<Service>, nodes: bool, peers: Option<&Peers>) -> Vec<GatewayAddress> {
    let assigned = balancer_addresses(service.status().as_deref());
    if !assigned.is_empty() {
        return assigned;
    }
    if nodes {
        return node_addresses(peers);
    }
    cluster_addresses(service)
}

/// A Service's addresses within the cluster.
fn cluster_addresses(service: &Object<Service>) -> Vec<GatewayAddress> {
    let spec = service.value.spec.as_ref();
    let all = spec.and_then(|spec| spec.cluster_ips.clone());
    let first = spec.and_then(|spec| spec.cluster_ip.clone());
    let addresses = all.or(first.map(|first| vec![first])).unwrap_or_default();
    addresses.iter().filter(|address| address.parse::<IpAddr>().is_ok()).map(GatewayAddress::ip).collect()
}

/// What a load balancer reported in a Service's status.
fn balancer_addresses(status: Option<&Node>) -> Vec<GatewayAddress> {
    let ingress = status.and_then(|status| status.child("loadBalancer")?.child("ingress"));
    let Some(Node { value: NodeValue::List(ingress), .. }) = ingress else { return Vec::new() };
    let address = |entry: &Node| match (entry.text("ip"), entry.text("hostname")) {
        (Some(ip), _) => Some(GatewayAddress::ip(ip)),
        (None, Some(name)) => Some(GatewayAddress { kind: "Hostname", value: name.to_owned() }),
        (None, None) => None,
    };
    ingress.iter().filter_map(address).collect()
}

/// The addresses of the nodes whose pod takes clients: those that are reached from outside, if any node has such.
fn node_addresses(peers: Option<&Peers>) -> Vec<GatewayAddress> {
    let Some(peers) = peers else { return Vec::new() };
    let serving: BTreeSet<&str> =
        peers.pods.values().filter(|peer| peer.ready).map(|peer| peer.node.as_str()).collect();
    let nodes: Vec<&NodeAddresses> = serving.iter().filter_map(|node| peers.nodes.get(*node)).collect();
    let collect = |of: fn(&NodeAddresses) -> &Vec<IpAddr>| -> Vec<GatewayAddress> {
        nodes.iter().flat_map(|node| of(node)).map(GatewayAddress::ip).collect()
    };
    let external = collect(|node| &node.external);
    if external.is_empty() { collect(|node| &node.internal) } else { external }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::NodeEntry as Entry;

    fn map(key: &str, node: NodeValue) -> NodeValue {
        NodeValue::Map(vec![Entry { key: key.to_owned(), line: 1, node: Node { line: 1, value: node } }])
    }

    #[test]
    fn a_load_balancer_reports_addresses_or_names() {
        let text = |text: &str| NodeValue::Text { text: text.to_owned(), plain: true };
        let ingress =
            [map("ip", text("10.98.0.1")), map("hostname", text("lb.example.com")), map("x", text(""))];
        let ingress = ingress.map(|value| Node { line: 1, value }).to_vec();
        let status = map("loadBalancer", map("ingress", NodeValue::List(ingress)));
        let found = balancer_addresses(Some(&Node { line: 1, value: status }));
        let name = GatewayAddress { kind: "Hostname", value: "lb.example.com".to_owned() };
        assert_eq!(found, [GatewayAddress::ip("10.98.0.1"), name]);
        assert_eq!(balancer_addresses(None), []);
    }
}
