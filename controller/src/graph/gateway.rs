//! Gateway: addresses, and who gets which socket.
//!
//! On this machine and on nodes with host ports a listener has the Gateway's addresses and its own port; in a pod it
//! has all addresses and the container port that its Gateway's Service leads to.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gateway_api::apis::experimental::gateways::Gateway;
use understudy_conf::{Certificate, GatewayName};

use crate::addresses::{
    ClassParameters, GATEWAY_PARAMETERS, PortMap, Transport, container_ports, foreign_service,
    requested_addresses, resolve_gateway_parameters, resolve_parameters,
};
use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::gateway_class::{is_ours, resolve_class};
use crate::graph::gateway_tls::{bind_clients, resolve_client_certificate};
use crate::graph::listener_sets::{Part, SetNode, build_parts, part_of, sets_by_gateway};
use crate::graph::listener_tls::Certificates;
use crate::graph::listeners::{ListenerNode, ListenerShape, Listeners, build_listeners};
use crate::{Options, Placement};

/// A Gateway that is served.
#[derive(Debug, PartialEq)]
pub(crate) struct GatewayNode {
    pub(crate) name: GatewayName,
    /// The listeners that are served.
    pub(crate) listeners: Vec<ListenerNode>,
    /// One for each listener of the spec, then of each ListenerSet, served or not; `None` where it says nothing that
    /// could be read.
    pub(crate) shapes: Vec<Option<ListenerShape>>,
    /// How many of them are the Gateway's own.
    pub(crate) own: usize,
    /// The ListenerSets that name it, in the order of their precedence.
    pub(crate) sets: Vec<SetNode>,
    /// What it shows to backends over TLS that have no certificate of their own to be shown.
    pub(crate) client_certificate: Option<Arc<Certificate>>,
}

/// Builds the gateways that are served: those of our class, with the listeners that got a socket.
pub(crate) fn build_gateways(
    certificates: Certificates<'_>,
    options: &Options,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<Key, GatewayNode> {
    let cluster = certificates.cluster;
    let parameters = report_parameters(cluster, options, diagnostics);
    let mut by_age: Vec<_> = cluster.gateways.values().collect();
    by_age.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    let mut unbound = Vec::new();
    let sets = sets_by_gateway(cluster, diagnostics);
    for gateway in by_age {
        let class = &gateway.value.spec.gateway_class_name;
        if let Err(diagnostic) = resolve_class(cluster, class, &gateway.at("spec.gatewayClassName")) {
            diagnostics.push(*diagnostic);
            continue;
        }
        let Ok(name) = GatewayName::new(format!("gateway/{}/{}", gateway.key.namespace, gateway.key.name))
        else {
            continue;
        };
        report_not_acting(gateway, diagnostics);
        let parameters = parameters.get(class.as_str()).copied().unwrap_or_default();
        let seats = resolve_seats(cluster, gateway, options, parameters, diagnostics);
        let own = gateway.value.spec.listeners.len();
        let of_gateway = sets.get(&gateway.key).map_or(&[][..], Vec::as_slice);
        let (parts, sets) = build_parts(cluster, gateway, of_gateway, diagnostics);
        let Listeners { nodes: mut listeners, shapes } = build_listeners(&parts, certificates, diagnostics);
        bind_clients(gateway, &parts, certificates, &mut listeners, diagnostics);
        let client_certificate = resolve_client_certificate(gateway, certificates, diagnostics);
        let node = GatewayNode { name, listeners, shapes, own, sets, client_certificate };
        unbound.push(Unbound { gateway, parts, seats, node });
    }
    let mut sockets = Sockets::default();
    // A ListenerSet takes no port from another Gateway, however young that is.
    for is_own in [true, false] {
        for Unbound { gateway, parts, seats, node } in &mut unbound {
            node.listeners.retain_mut(|listener| {
                let place = part_of(parts, listener).at(&format!("{}.port", listener.field));
                listener.shape.set.is_none() != is_own
                    || sockets.bind_listener(gateway, listener, &place, seats, diagnostics)
            });
        }
    }
    unbound.into_iter().map(|Unbound { gateway, node, .. }| (gateway.key.clone(), node)).collect()
}

/// A Gateway of which no listener has a socket yet.
struct Unbound<'a> {
    gateway: &'a Object<Gateway>,
    parts: Vec<Part>,
    seats: Seats,
    node: GatewayNode,
}

fn report_not_acting(gateway: &Object<Gateway>, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &gateway.value.spec;
    if spec.default_scope.is_some() {
        diagnostics.push(reasons::not_acting(&gateway.at("spec.defaultScope"), "the field does not act yet"));
    }
}

/// The parameters of the classes of ours whose Gateways get Services. Elsewhere parameters mean nothing.
fn report_parameters<'a>(
    cluster: &'a Cluster,
    options: &Options,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<&'a str, ClassParameters> {
    let mut parameters = BTreeMap::new();
    if !matches!(options.listen.placement, Placement::Service(_)) {
        return parameters;
    }
    for class in cluster.gateway_classes.values().filter(|class| is_ours(class)) {
        match resolve_parameters(cluster, class) {
            Ok(found) => drop(parameters.insert(&*class.key.name, found)),
            Err(diagnostic) => diagnostics.push(*diagnostic),
        }
    }
    parameters
}

/// Where the listeners of a Gateway are bound.
enum Seats {
    /// At these addresses, with their own port and so much.
    Own { addresses: Vec<IpAddr>, port_offset: u16 },
    /// At these addresses, each port with the one that the Gateway's Service leads to.
    Led { addresses: Vec<IpAddr>, ports: PortMap },
}

fn resolve_seats(
    cluster: &Cluster,
    gateway: &Object<Gateway>,
    options: &Options,
    parameters: ClassParameters,
    diagnostics: &mut Vec<Diagnostic>,
) -> Seats {
    match options.listen.placement {
        Placement::Local => {
            report_parameters_without_service(gateway, diagnostics);
            let addresses = resolve_addresses(gateway, vec![options.listen.bind], diagnostics);
            Seats::Own { addresses, port_offset: options.listen.port_offset }
        }
        Placement::Host(families) => {
            report_parameters_without_service(gateway, diagnostics);
            let addresses = resolve_addresses(gateway, families.unspecified(), diagnostics);
            Seats::Own { addresses, port_offset: 0 }
        }
        Placement::Service(families) => {
            let parameters = resolve_gateway_parameters(cluster, gateway, parameters);
            let parameters =
                parameters.map_err(|diagnostic| diagnostics.push(*diagnostic)).unwrap_or_default();
            // The address is the Service's affair; whether it can be had is said here.
            if let Err(unusable) = requested_addresses(cluster, gateway, parameters.service_type) {
                diagnostics.extend(unusable.into_iter().map(|wrong| {
                    let place = gateway.at(&format!("spec.addresses[{}]", wrong.index));
                    reasons::address_not_usable(&place, &wrong)
                }));
            }
            if let Some(service) = foreign_service(cluster, &gateway.key) {
                diagnostics.push(reasons::foreign_service(&gateway.at("metadata.name"), &service));
            }
            let ports = container_ports(cluster, &gateway.key, &options.held);
            Seats::Led { addresses: families.unspecified(), ports }
        }
    }
}

/// Parameters are about Services, and this Gateway has none.
fn report_parameters_without_service(gateway: &Object<Gateway>, diagnostics: &mut Vec<Diagnostic>) {
    let infrastructure = gateway.value.spec.infrastructure.as_ref();
    if infrastructure.is_some_and(|found| found.parameters_ref.is_some()) {
        let place = gateway.at(GATEWAY_PARAMETERS);
        diagnostics.push(reasons::not_acting(&place, "the Gateway has no Service here that it could shape"));
    }
}

/// The addresses that a Gateway asks for, or the default ones, which entries of type IPAddress without a value ask for.
fn resolve_addresses(
    gateway: &Object<Gateway>,
    default: Vec<IpAddr>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<IpAddr> {
    let asked = gateway.value.spec.addresses.as_deref().unwrap_or_default();
    let mut addresses = Vec::new();
    let mut is_any = true;
    for (index, address) in asked.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or("");
        if kind == "IPAddress" && value.is_empty() {
            continue;
        }
        is_any = false;
        match (kind, value.parse::<IpAddr>()) {
            ("IPAddress", Ok(ip)) if !ip.is_multicast() => {
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
            _ => diagnostics.push(reasons::unsupported_address(&gateway.at(&field), kind, value)),
        }
    }
    if is_any { default } else { addresses }
}

impl Seats {
    /// The sockets of a listener.
    fn sockets(&self, listener: &ListenerNode, place: &Place) -> Result<Vec<SocketAddr>, Box<Diagnostic>> {
        let (addresses, port) = match self {
            Self::Own { addresses, port_offset } => {
                let offset = if listener.port < 1024 { *port_offset } else { 0 };
                let port = listener.port.checked_add(offset);
                (addresses, port.ok_or_else(|| reasons::port_out_of_range(place, listener.port, offset))?)
            }
            Self::Led { addresses, ports } => {
                let port = ports.get(&(Transport::of(listener.protocol), listener.port)).copied();
                (addresses, port.ok_or_else(|| reasons::no_container_port(place, listener.port))?)
            }
        };
        Ok(addresses.iter().map(|address| SocketAddr::new(*address, port)).collect())
    }
}

/// Which Gateway has which socket. TCP and UDP have ports of their own.
#[derive(Default)]
struct Sockets {
    tcp: Owners,
    udp: Owners,
}

#[derive(Default)]
struct Owners(BTreeMap<SocketAddr, Owner>);

struct Owner {
    gateway: Key,
    /// The port that clients see there.
    port: u16,
}

impl Sockets {
    /// Gives a listener its sockets; false if it gets none.
    fn bind_listener(
        &mut self,
        gateway: &Object<Gateway>,
        listener: &mut ListenerNode,
        place: &Place,
        seats: &Seats,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> bool {
        let wanted = match seats.sockets(listener, place) {
            Ok(wanted) => wanted,
            Err(diagnostic) => {
                diagnostics.push(*diagnostic);
                return false;
            }
        };
        let owners = match Transport::of(listener.protocol) {
            Transport::Tcp => &mut self.tcp,
            Transport::Udp => &mut self.udp,
        };
        for socket in wanted {
            match owners.owner_of(socket, &gateway.key) {
                Some((_, owner)) if owner.gateway == gateway.key && owner.port == listener.port => {
                    listener.bind.push(socket);
                }
                Some((taken, owner)) => {
                    diagnostics.push(reasons::port_unavailable(place, socket, taken, &owner.gateway));
                }
                None => {
                    owners.0.insert(socket, Owner { gateway: gateway.key.clone(), port: listener.port });
                    listener.bind.push(socket);
                }
            }
        }
        !listener.bind.is_empty()
    }
}

impl Owners {
    /// Who has a socket, or one that excludes it: an address of all interfaces takes its port everywhere.
    fn owner_of(&self, socket: SocketAddr, gateway: &Key) -> Option<(SocketAddr, &Owner)> {
        if let Some(owner) = self.0.get(&socket) {
            return Some((socket, owner));
        }
        let everywhere = |ip: IpAddr| ip.is_unspecified();
        self.0
            .iter()
            .filter(|(other, _)| other.port() == socket.port())
            .find(|(other, owner)| {
                (everywhere(other.ip()) || everywhere(socket.ip())) && owner.gateway != *gateway
            })
            .map(|(other, owner)| (*other, owner))
    }
}
