//! The EndpointSlices of a Gateway's Service, as they should stand in the cluster: the pods that serve, all of them in
//! each, because every pod serves every Gateway.

use std::net::IpAddr;

use gateway_api::apis::experimental::gateways::Gateway;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::addresses::names::{MANAGER, service_name};
use crate::addresses::peers::{Peer, Peers};
use crate::addresses::ports::{ClientPort, PortMap};
use crate::addresses::service::{labels, owner, port_name};
use crate::cluster::{Object, SERVICE_NAME};

/// The label that says who keeps a slice, so that nobody else does.
pub(super) const SLICE_MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The most endpoints that the API allows in one slice.
const MOST: usize = 1000;

/// Builds the slices of a Gateway's Service: for each family of addresses one, or as many as its endpoints need.
pub(super) fn build_slices(gateway: &Object<Gateway>, ports: &PortMap, peers: &Peers) -> Vec<EndpointSlice> {
    let mut slices = Vec::new();
    for (kind, suffix, in_family) in
        [("IPv4", "v4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", "v6", IpAddr::is_ipv6)]
    {
        let endpoints: Vec<_> = peers
            .pods
            .iter()
            .filter_map(|(name, peer)| {
                let address = peer.addresses.iter().find(|address| in_family(address))?;
                Some(build_endpoint(name, peer, address))
            })
            .collect();
        for (index, endpoints) in endpoints.chunks(MOST).enumerate() {
            let number = if index == 0 { String::new() } else { format!("-{}", index + 1) };
            let service = service_name(&gateway.key.name);
            let mut labels = labels(gateway);
            labels.insert(SERVICE_NAME.to_owned(), service.clone());
            labels.insert(SLICE_MANAGED_BY.to_owned(), MANAGER.to_owned());
            slices.push(EndpointSlice {
                metadata: ObjectMeta {
                    name: Some(format!("{service}-{suffix}{number}")),
                    namespace: Some(gateway.key.namespace.to_string()),
                    labels: Some(labels),
                    owner_references: Some(vec![owner(gateway)]),
                    ..ObjectMeta::default()
                },
                address_type: kind.to_owned(),
                endpoints: Some(endpoints.to_vec()),
                ports: Some(ports.iter().map(|(port, target)| build_port(*port, *target)).collect()),
            });
        }
    }
    slices
}

fn build_endpoint(name: &str, peer: &Peer, address: &IpAddr) -> Endpoint {
    Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions {
            ready: Some(peer.ready),
            serving: Some(peer.serving),
            terminating: Some(peer.terminating),
        }),
        node_name: Some(peer.node.clone()),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".to_owned()),
            namespace: Some(peer.namespace.clone()),
            name: Some(name.to_owned()),
            uid: Some(peer.uid.clone()),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn build_port(port: ClientPort, target: u16) -> EndpointPort {
    EndpointPort {
        name: Some(port_name(port)),
        port: Some(i32::from(target)),
        protocol: Some(port.0.as_str().to_owned()),
        ..EndpointPort::default()
    }
}
