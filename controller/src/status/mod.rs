//! What stands in the statuses of objects.
//!
//! Inputs: a pass (cluster, graph and diagnostics that belong together), what the sidecars serve, and the addresses
//! of Gateways. Outputs: for each object of ours what its status should say ([`build_statuses`], pure); then the
//! status that differs from the one that stands there ([`merge`], pure, with `now`); then writes to the API server
//! ([`writer`]), by the holder of the leader Lease alone.
//!
//! Only our own part of a status is ever changed: other controllers' entries of `parents` and `ancestors`, and
//! conditions of types that we do not write, stay as they are.

mod api;
mod backend;
mod condition;
mod doubts;
mod findings;
mod gateway;
mod gateway_class;
mod gateway_tls;
mod listener_set;
mod listeners;
mod merge;
mod pace;
mod policies;
mod policy_target;
mod routes;
#[cfg(test)]
mod tests;
mod tls_policies;
mod writer;

use serde_json::Value;

use crate::CONTROLLER_NAME;
use crate::addresses::{Addresses, GatewayAddress};
use crate::cluster::Cluster;
use crate::diagnostics::Diagnostic;
use crate::graph::Graph;
use crate::lease::ServingSidecar;
use crate::status::condition::Condition;
use crate::status::findings::Findings;
use crate::watch::{Kind, ObjectId};

pub(crate) use doubts::Doubts;
pub(crate) use merge::merge;
pub(crate) use writer::{Sources, run};

/// What statuses are made of.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) graph: &'a Graph,
    pub(crate) diagnostics: &'a [Diagnostic],
    pub(crate) sidecars: &'a [ServingSidecar],
    /// The addresses of Gateways; one that is not named has those that its listeners are bound to.
    pub(crate) addresses: &'a Addresses,
}

/// What the status of one object should say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Desired {
    pub(crate) id: ObjectId,
    /// The generation that it is said of.
    pub(crate) generation: i64,
    pub(crate) report: Report,
}

/// Our part of a status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Report {
    /// Of a GatewayClass.
    Class { conditions: Vec<Condition>, features: &'static [&'static str] },
    /// Of a Gateway.
    Gateway {
        conditions: Vec<Condition>,
        addresses: Vec<GatewayAddress>,
        listeners: Vec<ListenerReport>,
        /// How many ListenerSets belong to it.
        attached_sets: usize,
    },
    /// Of a ListenerSet.
    ListenerSet { conditions: Vec<Condition>, listeners: Vec<ListenerReport> },
    /// Of a route: an entry for each parent of ours.
    Parents(Vec<Entry>),
    /// Of a policy: an entry for each ancestor of ours.
    Ancestors(Vec<Entry>),
    /// Of a Backend.
    Backend(Vec<Condition>),
}

/// What is said to one parent or ancestor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// Who it is, as the API refers to it.
    pub(crate) reference: Value,
    pub(crate) conditions: Vec<Condition>,
}

/// The status of a listener.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListenerReport {
    pub(crate) name: String,
    /// The kinds of routes that it serves.
    pub(crate) kinds: Vec<Kind>,
    pub(crate) attached_routes: usize,
    pub(crate) conditions: Vec<Condition>,
}

/// What the statuses of all objects of ours should say. Objects that have nothing to do with us are left out, unless
/// an entry of ours has to be removed from them.
/// Of routes and Backends those only that are in doubt.
pub(crate) fn build_statuses(inputs: Inputs<'_>, doubts: &Doubts) -> Vec<Desired> {
    if !has_class(inputs.cluster) {
        let mut all = removals(inputs.cluster);
        all.retain(|desired| doubts.include(&desired.id));
        return all;
    }
    let findings = Findings::new(inputs.diagnostics);
    let mut desired = gateway_class::build_classes(inputs.cluster, &findings);
    desired.extend(gateway::build_gateways(inputs, &findings));
    desired.extend(backend::build_backends(inputs, &findings, doubts));
    desired.extend(policies::build_policies(inputs, &findings));
    desired.extend(tls_policies::build_policies(inputs, &findings));
    desired.extend(routes::build_routes(inputs, &findings, doubts));
    desired
}

/// Whether any GatewayClass is ours. Without one nobody asked us for anything.
fn has_class(cluster: &Cluster) -> bool {
    cluster.gateway_classes.values().any(|class| class.value.spec.controller_name == CONTROLLER_NAME)
}

/// What is left to do when the last class is gone: our entries go.
fn removals(cluster: &Cluster) -> Vec<Desired> {
    let routes = routes::marked(cluster).map(|object| routes::desired(object, Vec::new()));
    let policies = policies::marked(cluster).map(|object| policies::desired(object, Vec::new()));
    let tls = tls_policies::marked(cluster).map(|object| tls_policies::desired(object, Vec::new()));
    routes.chain(policies).chain(tls).collect()
}

/// Whether a status has an entry of ours in one of its lists.
fn has_own_entry(status: Option<&crate::watch::Node>, list: &str) -> bool {
    let entries = status.and_then(|status| status.child(list)).map(|node| &node.value);
    match entries {
        Some(crate::watch::NodeValue::List(entries)) => {
            entries.iter().any(|entry| entry.text("controllerName") == Some(CONTROLLER_NAME))
        }
        _ => false,
    }
}

/// Whether another gateway that acts on Backends and policies of `gateway.envoyproxy.io` runs in this cluster: a class
/// of its own was accepted.
fn has_other_manager(cluster: &Cluster) -> bool {
    cluster.gateway_classes.values().any(|class| {
        class.value.spec.controller_name.starts_with("gateway.envoyproxy.io/")
            && class.status().is_some_and(|status| condition::is_true(&status, "Accepted"))
    })
}
