//! Third stage: what belongs together.
//!
//! Inputs: a [`Cluster`]. Outputs: a [`Graph`], in which every reference is resolved, every route is bound to
//! listeners and every policy to its targets; and diagnostics for all that could not be. One file per kind;
//! `validate_*` refuses, `resolve_*` follows a reference, `bind_*` attaches, `build_*` makes a node.

mod backend;
mod backend_refs;
mod backend_tls;
mod backend_tls_policy;
mod backend_traffic_policy;
mod ca_bundle;
mod certificate;
mod cors;
mod failover;
mod filters;
mod gateway;
mod gateway_class;
mod http_route;
mod listener_tls;
mod listeners;
mod matches;
mod parents;
mod policy_balancer;
mod policy_merge;
mod policy_settings;
mod policy_warnings;
mod reference_grant;
mod references;
mod rules;
mod service;
mod validate;

use std::collections::BTreeMap;

pub(crate) use backend::{BackendNode, Unusable};
pub(crate) use backend_tls::TlsNode;
pub(crate) use backend_traffic_policy::{PolicyIndex, PolicyNode, Spot, describe};
pub(crate) use gateway::GatewayNode;
pub(crate) use gateway_class::is_ours as is_our_class;
pub(crate) use http_route::{
    AttachmentNode, MirrorNode, RefNode, RefTargetNode, RouteNode, RuleAction, RuleNode,
};
pub(crate) use listeners::{ListenerNode, ListenerShape};
pub(crate) use parents::ParentNode;
pub(crate) use reference_grant::Referrer;
pub(crate) use references::referenced_contents;
pub(crate) use service::ServiceBackend;
pub(crate) use validate::validate_object;

use crate::Options;
use crate::cluster::{Cluster, Key};
use crate::diagnostics::Diagnostic;

/// What belongs together.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    /// The gateways that are served.
    pub(crate) gateways: BTreeMap<Key, GatewayNode>,
    /// The routes that are attached to a listener.
    pub(crate) routes: Vec<RouteNode>,
    /// What came of the parents of each route that names a Gateway that is served.
    pub(crate) parents: BTreeMap<Key, Vec<ParentNode>>,
    /// The backends that a route can use.
    pub(crate) backends: BTreeMap<Key, BackendNode>,
    /// The Service ports that routes use, by name of their set of endpoints.
    pub(crate) services: BTreeMap<String, ServiceBackend>,
    /// The policies with their targets.
    pub(crate) policies: PolicyIndex,
}

/// Builds the graph of a cluster. `now`, in seconds since 1970, judges the dates of certificates.
pub(crate) fn build_graph(
    cluster: &Cluster,
    options: &Options,
    now: i64,
    diagnostics: &mut Vec<Diagnostic>,
) -> Graph {
    let certificates = listener_tls::Certificates { cluster, now };
    let gateways = gateway::build_gateways(certificates, options, diagnostics);
    backend_tls_policy::report_targets(cluster, diagnostics);
    let tls = backend_tls::TlsSource { cluster, now };
    let backends = backend::build_backends(tls, options, diagnostics);
    let policies = backend_traffic_policy::build_policies(cluster, &gateways, diagnostics);
    let mut services = BTreeMap::new();
    let mut routes = Vec::new();
    let mut parents = BTreeMap::new();
    let resolver = http_route::Resolver { cluster, tls, gateways: &gateways, backends: &backends };
    for route in cluster.http_routes.values() {
        let (node, outcomes) = resolver.build_route(route, &mut services, diagnostics);
        routes.extend(node);
        if !outcomes.is_empty() {
            parents.insert(route.key.clone(), outcomes);
        }
    }
    let graph = Graph { gateways, routes, parents, backends, services, policies };
    failover::report_failover(cluster, &graph, diagnostics);
    graph
}
