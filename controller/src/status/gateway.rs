//! Gateway: whether it and its listeners are accepted and served, by which nodes, with how many routes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use gateway_api::apis::experimental::gateways::Gateway;

use crate::addresses::{GATEWAY_PARAMETERS, GatewayAddress};
use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, Reason};
use crate::graph::GatewayNode;
use crate::lease::ServingSidecar;
use crate::status::condition::{Condition, accepted, not_accepted, not_programmed, programmed};
use crate::status::findings::{Findings, field, is_below, sentences};
use crate::status::gateway_tls as tls;
use crate::status::listener_set::build_set;
use crate::status::listeners::Section;
use crate::status::{Desired, Inputs, Report};
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
        .flatten()
        .collect()
}

/// How many routes are attached to each listener, by its place among the Gateway's shapes.
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
    /// Its status, and those of its ListenerSets.
    fn build(&self, attached: &BTreeMap<(&Key, usize), usize>) -> Vec<Desired> {
        let key = &self.gateway.key;
        let accepted = self.accepted();
        let addresses = self.addresses();
        let programmed = self.programmed(accepted.holds, &addresses);
        let listeners = self.section().reports(key, attached, &programmed);
        let mut conditions = vec![accepted, programmed];
        let pair = (key, self.node);
        let sets: Vec<_> = self
            .node
            .sets
            .iter()
            .filter_map(|set| build_set(self.inputs, self.findings, pair, set, &conditions, attached))
            .collect();
        let attached_sets = sets.iter().filter(|(_, is_accepted)| *is_accepted).count();
        conditions.extend(tls::gateway_conditions(self.gateway, self.findings, &listeners));
        let own = Desired {
            id: ObjectId { kind: Kind::Gateway, key: key.clone() },
            generation: self.gateway.generation(),
            report: Report::Gateway { conditions, addresses, listeners, attached_sets },
        };
        std::iter::once(own).chain(sets.into_iter().map(|(set, _)| set)).collect()
    }

    /// The Gateway's own listeners.
    fn section(&self) -> Section<'_> {
        Section { findings: self.findings, object: self.gateway, node: self.node, set: None, first: 0 }
    }

    fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.findings.errors(&self.gateway.label)
    }

    fn accepted(&self) -> Condition {
        let spec = &self.gateway.value.spec.listeners;
        let section = self.section();
        let none_served = section.refused().len() == spec.len();
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
        let refused = section.refused();
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
        if let Some(waits) = self.section().waiting() {
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
}

/// Names with commas; beyond a few, how many more.
pub(super) fn named(names: &[&str]) -> String {
    let shown = names.iter().take(MAX_NODES).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NODES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
