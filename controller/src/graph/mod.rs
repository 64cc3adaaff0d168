//! Third stage: what belongs together.
//!
//! Inputs: a [`Cluster`]. Outputs: a [`Graph`], in which every reference is resolved, every route is bound to
//! listeners and every policy to its targets; and diagnostics for all that could not be. One file per kind;
//! `validate_*` refuses, `resolve_*` follows a reference, `bind_*` attaches, `build_*` makes a node. [`GraphBuilder`] calls
//! them in order, and keeps from graph to graph what was made of the same objects.

mod backend;
mod backend_refs;
mod backend_tls;
mod backend_tls_policy;
mod backend_traffic_policy;
mod builder;
mod ca_bundle;
mod certificate;
mod cors;
mod failover;
mod filters;
mod gateway;
mod gateway_class;
mod gateway_tls;
mod http_route;
mod listener_sets;
mod listener_tls;
mod listeners;
mod matches;
mod parents;
mod policy_balancer;
mod policy_merge;
mod policy_settings;
mod policy_warnings;
mod reads;
mod reference_grant;
mod references;
mod route_hosts;
mod rules;
mod service;
mod service_ports;
mod validate;

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::BackendName;

pub(crate) use backend::{BackendNode, Unusable};
pub(crate) use backend_tls::TlsNode;
pub(crate) use backend_traffic_policy::{PolicyIndex, PolicyNode, Spot, describe};
pub(crate) use builder::GraphBuilder;
#[cfg(test)]
pub(crate) use builder::build_graph;
pub(crate) use gateway::GatewayNode;
pub(crate) use gateway_class::is_ours as is_our_class;
pub(crate) use gateway_tls::{allows_insecure_clients, validation_of};
pub(crate) use http_route::{
    AttachmentNode, BuiltRoute, MirrorNode, RefNode, RefTargetNode, RouteNode, RuleAction, RuleNode,
};
pub(crate) use listener_sets::SetNode;
pub(crate) use listeners::{ListenerNode, ListenerShape};
pub(crate) use parents::ParentNode;
pub(crate) use reference_grant::Referrer;
pub(crate) use references::referenced_contents;
pub(crate) use service::ServiceBackend;
pub(crate) use validate::validate_object;

use crate::cluster::Key;
use crate::watch::ObjectId;

/// What belongs together. What did not change since the last graph is shared with it.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// The gateways that are served.
    pub(crate) gateways: Arc<BTreeMap<Key, GatewayNode>>,
    /// What came of every route.
    pub(crate) routes: Arc<BTreeMap<ObjectId, Arc<BuiltRoute>>>,
    /// The backends that a route can use.
    pub(crate) backends: Arc<BTreeMap<Key, Arc<BackendNode>>>,
    /// The Service ports that routes use, by name of their set of endpoints.
    pub(crate) services: Arc<BTreeMap<BackendName, Arc<ServiceBackend>>>,
    /// The policies with their targets.
    pub(crate) policies: Arc<PolicyIndex>,
}

impl Graph {
    /// The routes that are attached to a listener.
    pub(crate) fn served_routes(&self) -> impl Iterator<Item = &RouteNode> {
        self.routes.values().filter_map(|route| route.node.as_ref())
    }

    /// The Gateway that a ListenerSet belongs to, if it is served and allows it.
    pub(crate) fn gateway_of_set(&self, set: &Key) -> Option<&Key> {
        let has = |node: &GatewayNode| node.set(set).is_some_and(|set| set.shapes.is_some());
        self.gateways.iter().find(|(_, node)| has(node)).map(|(key, _)| key)
    }

    /// A route, if it is attached to a listener.
    pub(crate) fn route(&self, id: &ObjectId) -> Option<&RouteNode> {
        self.routes.get(id)?.node.as_ref()
    }

    /// What came of the parents of a route; nothing if it names no Gateway that is served.
    pub(crate) fn parents(&self, route: &ObjectId) -> &[ParentNode] {
        self.routes.get(route).map_or(&[], |route| &route.parents)
    }
}
