//! Gateway: whether it and its listeners are accepted and served, by which nodes, with how many routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gateway_api::apis::experimental::gateways::Gateway;

use crate::addresses::{GATEWAY_PARAMETERS, GatewayAddress};
use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, Reason, Severity};
use crate::graph::GatewayNode;
use crate::lease::ServingSidecar;
use crate::status::condition::{
    Condition, accepted, not_accepted, not_programmed, programmed, resolved_refs, unresolved_refs,
};
use crate::status::findings::{Findings, field, is_below, sentences};
use crate::status::{Desired, Inputs, ListenerReport, Report};
use crate::watch::{Kind, ObjectId};

/// More nodes than this are counted, not named.
const MAX_NODES: usize = 5;
/// More addresses than this have no place in a status.
const MAX_ADDRESSES: usize = 16;

pub(super) fn build_gateways(inputs: Inputs<'_>, findings: &Findings<'_>) -> Vec<Desired> {
    let attached = count_routes(inputs);
    let served = inputs.graph.gateways.iter();
    served
        .filter_map(|(key, node)| {
            let gateway = inputs.cluster.gateways.get(key)?;
            Some(Builder { inputs, findings, gateway, node }.build(&attached))
        })
        .collect()
}

/// How many routes are attached to each listener, by its place in the Gateway's spec.
fn count_routes(inputs: Inputs<'_>) -> BTreeMap<(&Key, usize), usize> {
    let mut counts = BTreeMap::new();
    for route in inputs.graph.routes.values() {
        let mut listeners: Vec<_> = route
            .parents
            .iter()
            .flat_map(|parent| parent.listeners.iter().map(|listener| (&parent.gateway, *listener)))
            .collect();
        // Two parents of one route may mean the same listener.
        listeners.sort_unstable();
        listeners.dedup();
        for listener in listeners {
            *counts.entry(listener).or_default() += 1;
        }
    }
    counts
}

struct Builder<'a> {
    inputs: Inputs<'a>,
    findings: &'a Findings<'a>,
    gateway: &'a Object<Gateway>,
    node: &'a GatewayNode,
}

impl Builder<'_> {
    fn build(&self, attached: &BTreeMap<(&Key, usize), usize>) -> Desired {
        let key = &self.gateway.key;
        let accepted = self.accepted();
        let addresses = self.addresses();
        let programmed = self.programmed(accepted.holds, &addresses);
        let mut listeners: Vec<ListenerReport> = Vec::new();
        for (index, listener) in self.gateway.value.spec.listeners.iter().enumerate() {
            // An API server refuses two of one name, and a status has place for one.
            if listeners.iter().any(|known| known.name == listener.name) {
                continue;
            }
            let shape = self.node.shapes.get(index).and_then(Option::as_ref);
            listeners.push(ListenerReport {
                name: listener.name.clone(),
                kinds: shape.map(|shape| shape.kinds.clone()).unwrap_or_default(),
                attached_routes: attached.get(&(key, index)).copied().unwrap_or(0),
                conditions: self.listener_conditions(index, &programmed),
            });
        }
        Desired {
            id: ObjectId { kind: Kind::Gateway, key: key.clone() },
            generation: self.gateway.generation(),
            report: Report::Gateway { conditions: vec![accepted, programmed], addresses, listeners },
        }
    }

    fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.findings.errors(&self.gateway.label)
    }

    fn accepted(&self) -> Condition {
        let spec = &self.gateway.value.spec.listeners;
        let none_served =
            self.node.listeners.is_empty() && (0..spec.len()).all(|index| self.waits(index).is_none());
        let addresses: Vec<_> = self
            .wrong_addresses()
            .filter(|(_, is_ip)| none_served || !is_ip)
            .map(|(wrong, _)| wrong)
            .collect();
        if !addresses.is_empty() {
            return not_accepted("UnsupportedAddress", sentences(&addresses));
        }
        let parameters: Vec<_> =
            self.errors().filter(|finding| is_below(finding, GATEWAY_PARAMETERS)).collect();
        if !parameters.is_empty() {
            return not_accepted("InvalidParameters", sentences(&parameters));
        }
        let refused: Vec<_> = (0..spec.len())
            .filter(|index| !self.is_served(*index) && self.waits(*index).is_none())
            .map(|index| spec[index].name.as_str())
            .collect();
        if refused.is_empty() && !spec.is_empty() {
            return accepted("The Gateway is accepted.");
        }
        let message = if spec.is_empty() {
            "The Gateway has no listener.".to_owned()
        } else {
            format!("Not served: {}. See the conditions of each listener.", named(&refused))
        };
        let holds = refused.len() < spec.len();
        Condition::new("Accepted", holds, "ListenersNotValid", message)
    }

    /// What is asked for in `spec.addresses` and cannot be had, and whether it is an address of a known type.
    fn wrong_addresses(&self) -> impl Iterator<Item = (&Diagnostic, bool)> {
        let asked = self.gateway.value.spec.addresses.as_deref().unwrap_or_default();
        let wrong = self.errors().filter(|finding| finding.reason == Reason::UnsupportedAddress);
        wrong.map(|finding| {
            let number =
                field(finding).strip_prefix("spec.addresses[").and_then(|rest| rest.split(']').next());
            let address = number.and_then(|number| asked.get(number.parse::<usize>().ok()?));
            let kind = address.and_then(|address| address.r#type.as_deref()).unwrap_or("IPAddress");
            (finding, kind == "IPAddress")
        })
    }

    /// What a listener waits for that nothing is wrong with: the Service that leads to it.
    fn waits(&self, index: usize) -> Option<&Diagnostic> {
        let field = format!("spec.listeners[{index}].port");
        let all = self.findings.of(&self.gateway.label).iter().copied();
        all.filter(|finding| finding.severity == Severity::Info && finding.reason == Reason::PortUnavailable)
            .find(|finding| is_below(finding, &field))
    }

    fn is_served(&self, index: usize) -> bool {
        let field = format!("spec.listeners[{index}]");
        self.node.listeners.iter().any(|listener| listener.field == field)
    }

    /// The addresses that clients use.
    fn addresses(&self) -> Vec<GatewayAddress> {
        if let Some(assigned) = self.inputs.addresses.get(&self.gateway.key) {
            return assigned.iter().take(MAX_ADDRESSES).cloned().collect();
        }
        let mut addresses: Vec<GatewayAddress> = Vec::new();
        let sockets = self.node.listeners.iter().flat_map(|listener| &listener.bind);
        for socket in sockets.filter(|socket| !socket.ip().is_unspecified()).take(MAX_ADDRESSES) {
            let address = GatewayAddress { kind: "IPAddress", value: socket.ip().to_string() };
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        addresses
    }

    /// What is asked for in `spec.addresses`, can be had as far as is known, and is not there.
    fn missing_addresses(&self) -> Vec<&str> {
        // Without Services and nodes, each address has a socket, or its listener an error.
        let Some(assigned) = self.inputs.addresses.get(&self.gateway.key) else { return Vec::new() };
        let has = |ip: IpAddr| assigned.iter().any(|address| address.value.parse() == Ok(ip));
        let asked = self.gateway.value.spec.addresses.iter().flatten();
        asked
            .filter(|address| address.r#type.as_deref().unwrap_or("IPAddress") == "IPAddress")
            .filter_map(|address| address.value.as_deref())
            .filter(|value| value.parse().is_ok_and(|ip| !has(ip)))
            .collect()
    }

    fn programmed(&self, accepted: bool, addresses: &[GatewayAddress]) -> Condition {
        if !accepted {
            return not_programmed("Invalid", "The Gateway is not accepted.");
        }
        // What stands in the way of the Gateway as a whole: somebody else's Service with its name.
        let blocked: Vec<_> = self
            .errors()
            .filter(|finding| finding.reason == Reason::PortUnavailable && !is_below(finding, "spec"))
            .collect();
        if !blocked.is_empty() {
            return not_programmed("NoResources", sentences(&blocked));
        }
        let unusable: Vec<_> = self.wrong_addresses().map(|(wrong, _)| wrong).collect();
        if !unusable.is_empty() {
            return not_programmed("AddressNotUsable", sentences(&unusable));
        }
        if addresses.is_empty() {
            return not_programmed("AddressNotAssigned", "No address is assigned to the Gateway yet.");
        }
        let missing = self.missing_addresses();
        if !missing.is_empty() {
            let message = format!(
                "The Gateway's Service asks for {} and does not have it: neither as its cluster IP nor from a load \
                 balancer.",
                named(&missing)
            );
            return not_programmed("AddressNotUsable", message);
        }
        let listeners = 0..self.gateway.value.spec.listeners.len();
        if let Some(waits) = listeners.into_iter().find_map(|index| self.waits(index)) {
            return not_programmed("Pending", sentences(&[waits]));
        }
        let sidecars = self.inputs.sidecars;
        if sidecars.is_empty() {
            return not_programmed("Pending", "No node has reported what it serves yet.");
        }
        let generation = self.gateway.generation();
        let behind = |sidecar: &&ServingSidecar| {
            sidecar.gateways.get(&self.gateway.key).is_none_or(|served| *served < generation)
        };
        let behind: Vec<_> = sidecars.iter().filter(behind).map(|sidecar| sidecar.node.as_str()).collect();
        if !behind.is_empty() {
            let message = format!("Generation {generation} is not served yet by {}.", named(&behind));
            return not_programmed("Pending", message);
        }
        let degraded = sidecars
            .iter()
            .find_map(|sidecar| Some((sidecar, sidecar.degraded.iter().find(|text| self.is_about(text))?)));
        match degraded {
            Some((sidecar, text)) => {
                let others = sidecars
                    .iter()
                    .filter(|other| {
                        other.node != sidecar.node && other.degraded.iter().any(|t| self.is_about(t))
                    })
                    .count();
                let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
                not_programmed("NoResources", format!("On node {}{more}: {text}.", sidecar.node))
            }
            None => programmed(),
        }
    }

    /// Whether what a proxy could not do concerns this Gateway: it names the Gateway, or one of its sockets.
    fn is_about(&self, text: &str) -> bool {
        let is_word = |word: &str| {
            text.match_indices(word).any(|(at, _)| {
                let next = text[at + word.len()..].chars().next();
                !next.is_some_and(|next| next.is_ascii_alphanumeric() || next == '-')
            })
        };
        let mut sockets = self.node.listeners.iter().flat_map(|listener| &listener.bind);
        is_word(self.node.name.as_str()) || sockets.any(|socket| is_word(&socket.to_string()))
    }

    fn listener_conditions(&self, index: usize, gateway: &Condition) -> Vec<Condition> {
        let prefix = format!("spec.listeners[{index}]");
        let about: Vec<&Diagnostic> = self
            .findings
            .of(&self.gateway.label)
            .iter()
            .copied()
            .filter(|finding| is_below(finding, &prefix))
            // That a protocol is not served is no error in `check`, where it is said for the whole Gateway.
            .filter(|finding| finding.is_error() || finding.reason == Reason::UnsupportedProtocol)
            .collect();
        let of = |reasons: &[Reason]| -> Vec<&Diagnostic> {
            about.iter().copied().filter(|finding| reasons.contains(&finding.reason)).collect()
        };
        let conflicts = of(&[Reason::HostnameConflict, Reason::ProtocolConflict]);
        let references =
            of(&[Reason::InvalidRouteKinds, Reason::RefNotPermitted, Reason::InvalidCertificateRef]);
        let refused: Vec<_> = about
            .iter()
            .copied()
            .filter(|finding| !references.iter().any(|reference| std::ptr::eq(*reference, *finding)))
            .collect();
        let is_served = self.is_served(index);
        vec![
            match refused.first() {
                Some(first) => not_accepted(first.reason.as_str(), sentences(&refused)),
                None => accepted("The listener is accepted."),
            },
            match conflicts.first() {
                Some(first) => {
                    Condition::new("Conflicted", true, first.reason.as_str(), sentences(&conflicts))
                }
                None => {
                    Condition::new("Conflicted", false, "NoConflicts", "No other listener is in its way.")
                }
            },
            match references
                .iter()
                .find(|finding| !field(finding).ends_with("certificateRefs"))
                .or(references.first())
            {
                Some(first) => unresolved_refs(first.reason.as_str(), sentences(&references)),
                None => resolved_refs(),
            },
            match (is_served, gateway.holds) {
                (false, _) if self.waits(index).is_some() => {
                    let waits: Vec<_> = self.waits(index).into_iter().collect();
                    not_programmed("Pending", sentences(&waits))
                }
                (true, true) => programmed(),
                (true, false) => not_programmed(
                    if gateway.reason == "Invalid" { "Invalid" } else { "Pending" },
                    gateway.message.clone(),
                ),
                (false, _) => {
                    not_programmed("Invalid", "The listener is not served; see its other conditions.")
                }
            },
        ]
    }
}

/// Names with commas; beyond a few, how many more.
pub(super) fn named(names: &[&str]) -> String {
    let shown = names.iter().take(MAX_NODES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NODES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
