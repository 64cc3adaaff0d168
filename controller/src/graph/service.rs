//! Service and EndpointSlice: endpoints of a Service's port.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use understudy_conf::{Endpoint, EndpointAddress, EndpointCondition, UpstreamProtocol};

use crate::addresses::Transport;
use crate::cluster::Object;
use crate::graph::TlsNode;

/// A Service's port with its endpoints.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ServiceBackend {
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) endpoints: Vec<Endpoint>,
    /// How they are spoken to over TLS; without it, in clear text.
    pub(crate) tls: Option<TlsNode>,
}

/// Whether a Service is a name for something else.
pub(crate) fn is_external_name(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName")
}

/// The port of a Service by its number.
pub(crate) fn find_port(service: &Service, transport: Transport, port: u16) -> Option<&ServicePort> {
    let alike = |candidate: &&ServicePort| transport.is_of(candidate.protocol.as_deref());
    let ports = service.spec.as_ref()?.ports.as_deref().unwrap_or_default();
    ports.iter().filter(alike).find(|candidate| candidate.port == i32::from(port))
}

/// What is spoken on a Service's port.
pub(crate) fn protocol_of(port: &ServicePort) -> UpstreamProtocol {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c") => UpstreamProtocol::H2c,
        _ => UpstreamProtocol::Http1,
    }
}

/// The endpoints that serve a Service's port: the ready ones; if none is ready, those that are serving while
/// they terminate. In the order of their addresses, each once.
pub(crate) fn resolve_endpoints(slices: &[&Object<EndpointSlice>], port: &ServicePort) -> Vec<Endpoint> {
    let mut ready = BTreeMap::new();
    let mut terminating = BTreeMap::new();
    for slice in slices {
        let slice = &slice.value;
        let Some(target) = find_target_port(slice.ports.as_deref().unwrap_or_default(), port) else {
            continue;
        };
        for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
            let (set, condition) = match condition_of(endpoint) {
                Some(EndpointCondition::Ready) => (&mut ready, EndpointCondition::Ready),
                Some(EndpointCondition::Terminating) => (&mut terminating, EndpointCondition::Terminating),
                None => continue,
            };
            for address in &endpoint.addresses {
                let Some(address) = endpoint_address(&slice.address_type, address, target) else { continue };
                set.entry(address.clone()).or_insert_with(|| build_endpoint(endpoint, address, condition));
            }
        }
    }
    let chosen = if ready.is_empty() { terminating } else { ready };
    chosen.into_values().collect()
}

/// Whether any slice has the port that belongs to a Service's port.
pub(crate) fn has_port(slices: &[&Object<EndpointSlice>], port: &ServicePort) -> bool {
    slices
        .iter()
        .any(|slice| find_target_port(slice.value.ports.as_deref().unwrap_or_default(), port).is_some())
}

/// The port of a slice that belongs to a Service's port: by name, else by the target's number.
fn find_target_port(ports: &[EndpointPort], port: &ServicePort) -> Option<u16> {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let alike = |candidate: &&EndpointPort| candidate.protocol.as_deref().unwrap_or("TCP") == protocol;
    let wanted = match &port.target_port {
        Some(IntOrString::Int(number)) => Some(*number),
        Some(IntOrString::String(_)) => None,
        None => Some(port.port),
    };
    let by_name = ports.iter().filter(alike).find(|candidate| name(&candidate.name) == name(&port.name));
    let by_number =
        || ports.iter().filter(alike).find(|candidate| candidate.port.is_some() && candidate.port == wanted);
    let found = by_name.or_else(by_number)?;
    u16::try_from(found.port.or(wanted)?).ok().filter(|port| *port != 0)
}

/// `None` for endpoints that take no traffic.
fn condition_of(endpoint: &SliceEndpoint) -> Option<EndpointCondition> {
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    if conditions.ready.unwrap_or(true) {
        return Some(EndpointCondition::Ready);
    }
    let serving = conditions.serving.unwrap_or(true) && conditions.terminating.unwrap_or(false);
    serving.then_some(EndpointCondition::Terminating)
}

fn endpoint_address(kind: &str, address: &str, port: u16) -> Option<EndpointAddress> {
    if kind == "FQDN" {
        let hostname = address.trim_end_matches('.').to_ascii_lowercase();
        return Some(EndpointAddress::Fqdn { hostname, port });
    }
    let address: IpAddr = address.parse().ok()?;
    Some(EndpointAddress::Ip { address, port })
}

fn build_endpoint(
    endpoint: &SliceEndpoint,
    address: EndpointAddress,
    condition: EndpointCondition,
) -> Endpoint {
    Endpoint {
        uid: endpoint.target_ref.as_ref().and_then(|target| target.uid.clone()),
        node: endpoint.node_name.clone(),
        zone: endpoint.zone.clone(),
        condition,
        ..Endpoint::at(address)
    }
}
