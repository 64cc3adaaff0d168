//! About Gateways, their classes and listeners.

use std::net::SocketAddr;

use super::suggest;
use crate::addresses::{UnusableAddress, WrongParameter};
use crate::cluster::Key;
use crate::diagnostics::{Diagnostic, Place, Reason};
use crate::watch::Kind;

pub(crate) fn missing_class(place: &Place, name: &str, near: Option<&str>, controller: &str) -> Diagnostic {
    let remedy = format!("Add a GatewayClass {name} with controllerName: {controller}.");
    place.error(
        Reason::InvalidParameters,
        format!("there is no GatewayClass {name}, so the Gateway is not served"),
        suggest(near, remedy),
    )
}

pub(crate) fn refused_class(place: &Place, name: &str, location: &str) -> Diagnostic {
    place.error(
        Reason::InvalidParameters,
        format!("GatewayClass {name} could not be read ({location}), so the Gateway is not served"),
        "Correct the class.",
    )
}

pub(crate) fn foreign_class(place: &Place, name: &str, found: &str, controller: &str) -> Diagnostic {
    place.warning(
        Reason::InvalidParameters,
        format!("GatewayClass {name} belongs to {found:?}, so the Gateway is not served here"),
        format!("Use a GatewayClass with controllerName: {controller}."),
    )
}

pub(crate) fn unsupported_address(place: &Place, kind: &str, value: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedAddress,
        format!("{value:?} of type {kind} is no address that can be bound"),
        "Use type IPAddress and an address of this machine.",
    )
}

pub(crate) fn unsupported_protocol(place: &Place, protocol: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedProtocol,
        format!("protocol {protocol:?} is unknown"),
        "Use HTTP, HTTPS, TLS, TCP or UDP.",
    )
}

pub(crate) fn port_out_of_range(place: &Place, port: u16, offset: u16) -> Diagnostic {
    place.error(
        Reason::PortUnavailable,
        format!("port {port} with the offset of {offset} is above 65535"),
        "Use a smaller --port-offset.",
    )
}

pub(crate) fn port_unavailable(
    place: &Place,
    socket: SocketAddr,
    taken: SocketAddr,
    owner: &Key,
) -> Diagnostic {
    place.error(
        Reason::PortUnavailable,
        format!("{socket} is not free: Gateway {owner} has {taken}"),
        "Use another port, or give each Gateway an address of its own in spec.addresses (127.0.0.2, for instance).",
    )
}

pub(crate) fn hostname_conflict(place: &Place, other: &str, port: u16) -> Diagnostic {
    place.error(
        Reason::HostnameConflict,
        format!("listener {other} has port {port} with the same hostname already, so this one is not served"),
        "Give it another hostname or port.",
    )
}

pub(crate) fn invalid_route_kind(place: &Place, kind: &str, protocol: &str, served: &[Kind]) -> Diagnostic {
    let served = served.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ");
    place.error(
        Reason::InvalidRouteKinds,
        format!("routes of kind {kind} cannot be served by a listener of protocol {protocol} here"),
        if served.is_empty() { "Correct the protocol.".to_owned() } else { format!("Use {served}.") },
    )
}

pub(crate) fn invalid_set_parent(place: &Place, group: &str, kind: &str) -> Diagnostic {
    place.error(
        Reason::InvalidKind,
        format!("a {kind} of group {group:?} has no place for listeners of a ListenerSet"),
        "Use a Gateway.",
    )
}

pub(crate) fn listener_set_not_allowed(place: &Place, gateway: &Key, namespace: &str) -> Diagnostic {
    place.error(
        Reason::NotAllowed,
        format!("Gateway {gateway} allows no ListenerSet from namespace {namespace}, so none of the listeners is served"),
        "Set allowedListeners.namespaces.from: All, Same or a selector, at the Gateway.",
    )
}

pub(crate) fn protocol_conflict(place: &Place, other: &str, protocol: &str, port: i32) -> Diagnostic {
    place.error(
        Reason::ProtocolConflict,
        format!(
            "listener {other} has port {port} with protocol {protocol} already, so this one is not served"
        ),
        "Give it another port.",
    )
}

/// Only known for as long as the leader has not written the Service, or has no port left.
pub(crate) fn no_container_port(place: &Place, port: u16) -> Diagnostic {
    place.info(
        Reason::PortUnavailable,
        format!("the Gateway's Service leads port {port} nowhere yet, so the listener is not served yet"),
        "The leading controller writes the Service; its log says why, if it cannot.",
    )
}

pub(crate) fn address_not_usable(place: &Place, wrong: &UnusableAddress) -> Diagnostic {
    place.error(
        Reason::UnsupportedAddress,
        format!("{:?} of type {} cannot be given to the Gateway's Service: {}", wrong.value, wrong.kind, wrong.why),
        "Use one address of type IPAddress in the cluster's range of Services, or one of its load balancer with \
         serviceType LoadBalancer; or leave addresses out.",
    )
}

/// `left_alone` says what stays as it is; so it does in the next ones.
pub(crate) fn invalid_parameters_kind(place: &Place, kind: &str, left_alone: &str) -> Diagnostic {
    place.error(
        Reason::InvalidParameters,
        format!("parameters of kind {kind:?} are unknown, so {left_alone}"),
        "Refer to a ConfigMap (group \"\").",
    )
}

pub(crate) fn parameters_without_namespace(place: &Place) -> Diagnostic {
    place.error(
        Reason::InvalidParameters,
        "the reference names no namespace, so the Services of the class's Gateways are left alone",
        "Add the ConfigMap's namespace.",
    )
}

pub(crate) fn missing_parameters(place: &Place, key: &Key, left_alone: &str) -> Diagnostic {
    place.error(
        Reason::InvalidParameters,
        format!("there is no ConfigMap {key}, so {left_alone}"),
        "Add it, or correct name and namespace.",
    )
}

pub(crate) fn wrong_parameter(
    place: &Place,
    config_map: &Key,
    wrong: &WrongParameter,
    left_alone: &str,
) -> Diagnostic {
    let remedy = match wrong.allowed {
        "" => "Its keys are serviceType, externalTrafficPolicy and addresses.".to_owned(),
        allowed => format!("Use {allowed}."),
    };
    place.error(
        Reason::InvalidParameters,
        format!("ConfigMap {config_map} says {}: {:?}, so {left_alone}", wrong.key, wrong.value),
        remedy,
    )
}

pub(crate) fn foreign_service(place: &Place, service: &Key) -> Diagnostic {
    place.error(
        Reason::PortUnavailable,
        format!(
            "Service {service} has the name that the Gateway's Service would have, and was not made here"
        ),
        "Rename or remove it, or give the Gateway another name; nobody else's Service is taken over.",
    )
}
