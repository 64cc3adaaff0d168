//! Gateway: addresses, and who gets which socket.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use gateway_api::apis::experimental::gateways::Gateway;
use understudy_conf::GatewayName;

use crate::Options;
use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::gateway_class::resolve_class;
use crate::graph::listener_tls::Certificates;
use crate::graph::listeners::{ListenerNode, ListenerShape, Listeners, build_listeners};

/// A Gateway that is served.
#[derive(Debug)]
pub(crate) struct GatewayNode {
    pub(crate) name: GatewayName,
    /// The listeners that are served.
    pub(crate) listeners: Vec<ListenerNode>,
    /// One for each listener of the spec, served or not; `None` where it says nothing that could be read.
    pub(crate) shapes: Vec<Option<ListenerShape>>,
}

/// Builds the gateways that are served: those of our class, with the listeners that got a socket.
pub(crate) fn build_gateways(
    certificates: Certificates<'_>,
    options: &Options,
    diagnostics: &mut Vec<Diagnostic>,
) -> BTreeMap<Key, GatewayNode> {
    let cluster = certificates.cluster;
    let mut by_age: Vec<_> = cluster.gateways.values().collect();
    by_age.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    let mut sockets = Sockets::default();
    let mut nodes = BTreeMap::new();
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
        let addresses = resolve_addresses(gateway, options, diagnostics);
        let Listeners { nodes: mut listeners, shapes } = build_listeners(gateway, certificates, diagnostics);
        listeners.retain_mut(|listener| {
            sockets.bind_listener(gateway, listener, &addresses, options.listen.port_offset, diagnostics)
        });
        nodes.insert(gateway.key.clone(), GatewayNode { name, listeners, shapes });
    }
    nodes
}

fn report_not_acting(gateway: &Object<Gateway>, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &gateway.value.spec;
    for (field, given) in [
        ("spec.tls", spec.tls.is_some()),
        ("spec.allowedListeners", spec.allowed_listeners.is_some()),
        ("spec.defaultScope", spec.default_scope.is_some()),
        (
            "spec.infrastructure.parametersRef",
            spec.infrastructure.as_ref().is_some_and(|i| i.parameters_ref.is_some()),
        ),
    ] {
        if given {
            diagnostics.push(reasons::not_acting(&gateway.at(field), "the field does not act yet"));
        }
    }
}

/// The addresses that a Gateway asks for, or the default one.
fn resolve_addresses(
    gateway: &Object<Gateway>,
    options: &Options,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<IpAddr> {
    let Some(asked) = gateway.value.spec.addresses.as_ref().filter(|addresses| !addresses.is_empty()) else {
        return vec![options.listen.bind];
    };
    let mut addresses = Vec::new();
    for (index, address) in asked.iter().enumerate() {
        let field = format!("spec.addresses[{index}]");
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or("");
        match (kind, value.parse::<IpAddr>()) {
            ("IPAddress", Ok(ip)) if !ip.is_multicast() => {
                if !addresses.contains(&ip) {
                    addresses.push(ip);
                }
            }
            _ => diagnostics.push(reasons::unsupported_address(&gateway.at(&field), kind, value)),
        }
    }
    addresses
}

/// Which Gateway has which socket.
#[derive(Default)]
struct Sockets(BTreeMap<SocketAddr, Owner>);

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
        addresses: &[IpAddr],
        port_offset: u16,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> bool {
        let place = gateway.at(&format!("{}.port", listener.field));
        let offset = if listener.port < 1024 { port_offset } else { 0 };
        let Some(port) = listener.port.checked_add(offset) else {
            diagnostics.push(reasons::port_out_of_range(&place, listener.port, offset));
            return false;
        };
        for address in addresses {
            let socket = SocketAddr::new(*address, port);
            match self.owner_of(socket, &gateway.key) {
                Some((_, owner)) if owner.gateway == gateway.key && owner.port == listener.port => {
                    listener.bind.push(socket);
                }
                Some((taken, owner)) => {
                    diagnostics.push(reasons::port_unavailable(&place, socket, taken, &owner.gateway));
                }
                None => {
                    self.0.insert(socket, Owner { gateway: gateway.key.clone(), port: listener.port });
                    listener.bind.push(socket);
                }
            }
        }
        !listener.bind.is_empty()
    }

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
