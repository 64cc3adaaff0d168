//! Says when failover cannot work as it is configured.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::apis::experimental::httproutes::HttpRoute;
use understudy_conf::{BackendName, GatewayDuration, Policy, Timeouts};
use understudy_crds::BackendTrafficPolicy;

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::policy_merge::child_of;
use crate::graph::service_ports::Rebuilt;
use crate::graph::{Graph, RefNode, RefTargetNode, RouteNode, RuleAction, RuleNode};
use crate::watch::ObjectId;

/// What was said of each route.
#[derive(Debug, Clone, Default)]
pub(super) struct FailoverReports {
    said: BTreeMap<ObjectId, Vec<Diagnostic>>,
    /// The routes of which endpoints were counted.
    counting: BTreeSet<ObjectId>,
}

/// What may have changed what is said.
pub(super) struct Doubts<'a> {
    /// All routes are in doubt: policies or listeners differ.
    pub(super) all: bool,
    pub(super) rebuilt: &'a [Rebuilt],
    pub(super) backends: &'a BTreeSet<Key>,
    pub(super) services: &'a BTreeSet<BackendName>,
}

impl FailoverReports {
    /// Looks at the routes that are in doubt.
    pub(super) fn update(&mut self, cluster: &Cluster, graph: &Graph, doubts: &Doubts<'_>) {
        if doubts.all {
            *self = Self::default();
            graph.served_routes().for_each(|route| self.look(cluster, graph, route));
            return;
        }
        for Rebuilt { id, after, .. } in doubts.rebuilt {
            self.said.remove(id);
            self.counting.remove(id);
            if let Some(route) = after.as_ref().and_then(|route| route.node.as_ref()) {
                self.look(cluster, graph, route);
            }
        }
        if doubts.backends.is_empty() && doubts.services.is_empty() {
            return;
        }
        let refers = |route: &&RouteNode| {
            route.rules.iter().flat_map(RuleNode::refs).any(|reference| match &reference.target {
                RefTargetNode::Backend(key) | RefTargetNode::H2Backend(key) => doubts.backends.contains(key),
                RefTargetNode::Service(name) => doubts.services.contains(name),
                RefTargetNode::Invalid(_) => false,
            })
        };
        let counting = self.counting.iter().filter_map(|id| graph.route(id));
        let doubtful: Vec<_> = counting.filter(refers).collect();
        for route in doubtful {
            self.said.remove(&route.id);
            self.look(cluster, graph, route);
        }
    }

    pub(super) fn diagnostics(&self) -> impl Iterator<Item = &Diagnostic> {
        self.said.values().flatten()
    }

    fn look(&mut self, cluster: &Cluster, graph: &Graph, route: &RouteNode) {
        let mut said = Vec::new();
        if report_route(cluster, graph, route, &mut said) {
            self.counting.insert(route.id.clone());
        }
        if !said.is_empty() {
            self.said.insert(route.id.clone(), said);
        }
    }
}

/// Reports, for every rule of a route and each policy that governs it somewhere, what keeps it from failing over. Says
/// whether endpoints were counted.
fn report_route(
    cluster: &Cluster,
    graph: &Graph,
    route: &RouteNode,
    diagnostics: &mut Vec<Diagnostic>,
) -> bool {
    let Some(object) = cluster.route(&route.id) else { return false };
    let mut counted = false;
    for rule in &route.rules {
        let RuleAction::Forward(refs) = &rule.action else { continue };
        let report = RuleReport { cluster, graph, object, rule, refs };
        report.weights(diagnostics);
        for policy in governing_policies(graph, route, rule) {
            if route.id.kind.has_requests() {
                report.timeouts(policy.as_ref(), diagnostics);
            }
            counted |= report.detection(policy.as_ref(), diagnostics);
        }
    }
    counted
}

/// The policies that govern a rule on its listeners; `None` where it has none.
fn governing_policies(graph: &Graph, route: &RouteNode, rule: &RuleNode) -> BTreeSet<Option<Key>> {
    route
        .attachments
        .iter()
        .filter_map(|attachment| {
            let listener = graph.gateways.get(&attachment.gateway)?.listeners.get(attachment.listener)?;
            let rule = rule.name.as_deref();
            let policy = graph.policies.effective(&route.id, rule, &attachment.gateway, &listener.shape);
            Some(policy.map(|(key, _)| key.clone()))
        })
        .collect()
}

struct RuleReport<'a> {
    cluster: &'a Cluster,
    graph: &'a Graph,
    object: &'a Object<HttpRoute>,
    rule: &'a RuleNode,
    refs: &'a [RefNode],
}

impl RuleReport<'_> {
    fn field(&self, field: &str) -> String {
        format!("spec.rules[{}].{field}", self.rule.index)
    }

    fn weights(&self, diagnostics: &mut Vec<Diagnostic>) {
        for (index, reference) in self.refs.iter().enumerate().filter(|(_, reference)| reference.weight == 0)
        {
            let place = self.object.at(&self.field(&format!("backendRefs[{index}].weight")));
            diagnostics.push(reasons::weight_zero(&place, reference.priority));
        }
        if self.refs.iter().all(|reference| reference.priority > 0) {
            diagnostics.push(reasons::only_fallbacks(&self.object.at(&self.field("backendRefs"))));
        }
        let of = |fallback: bool| -> Vec<_> {
            self.refs
                .iter()
                .enumerate()
                .filter(|(_, reference)| (reference.priority > 0) == fallback)
                .collect()
        };
        if let ([(_, primary)], [(index, fallback)]) = (of(false).as_slice(), of(true).as_slice())
            && primary.weight != fallback.weight
            && primary.weight > 0
            && fallback.weight > 0
        {
            let place = self.object.at(&self.field(&format!("backendRefs[{index}].weight")));
            diagnostics.push(reasons::weight_as_share(&place, primary.weight, fallback.weight));
        }
    }

    fn timeouts(&self, policy: Option<&Key>, diagnostics: &mut Vec<Diagnostic>) {
        let settings = self.settings(policy);
        let connect = settings.map_or(Timeouts::default().connect, |policy| policy.timeouts.connect);
        let of_rule = self.rule.timeouts.and_then(|timeouts| timeouts.request);
        let of_policy = settings.and_then(|policy| policy.timeouts.request);
        let below = |timeout: GatewayDuration| !timeout.is_zero() && timeout < connect;
        if let Some(request) = of_rule {
            if below(request) {
                let place = self.object.at(&self.field("timeouts.request"));
                diagnostics.push(reasons::request_timeout_below_connect(&place, request, connect));
            }
        } else if let (Some(request), Some(object)) = (of_policy, self.policy_object(policy))
            && below(request)
        {
            let place = object.at("spec.timeout.http.requestTimeout");
            diagnostics.push(reasons::request_timeout_below_connect(&place, request, connect));
        }
    }

    /// Says whether endpoints were counted.
    fn detection(&self, policy: Option<&Key>, diagnostics: &mut Vec<Diagnostic>) -> bool {
        let Some(fallback) =
            self.refs.iter().position(|reference| reference.priority > 0 && reference.weight > 0)
        else {
            return false;
        };
        let place = self.object.at(&self.field(&format!("backendRefs[{fallback}]")));
        let Some(object) = self.policy_object(policy) else {
            diagnostics.push(reasons::fallback_without_detection(&place, None));
            return false;
        };
        // A policy that is not valid has its own error, and its rules answer 500.
        let Some(settings) = self.settings(policy) else { return false };
        let Some(passive) = &settings.passive else {
            if settings.active.is_none() {
                diagnostics.push(reasons::fallback_without_detection(&place, Some(&object.label)));
            }
            return false;
        };
        let local =
            passive.split_external_local_origin_errors && passive.consecutive_local_origin_failures > 0;
        if settings.active.is_none()
            && passive.consecutive_5xx_errors == 0
            && passive.consecutive_gateway_errors == 0
            && passive.failure_percentage_threshold.is_none_or(|threshold| threshold.get() == 0)
            && !local
        {
            diagnostics.push(reasons::every_detector_off(&object.at("spec.healthCheck.passive")));
        }
        let endpoints = self.primary_endpoints();
        let percent = usize::from(passive.max_ejection_percent.get());
        if endpoints >= 2 && percent * endpoints < 200 {
            let place = object.at("spec.healthCheck.passive.maxEjectionPercent");
            diagnostics.push(reasons::ejection_percent_too_low(&place, percent, endpoints));
        }
        true
    }

    /// How many endpoints of the primary pool are known. A name counts as one.
    fn primary_endpoints(&self) -> usize {
        let primaries = self.refs.iter().filter(|reference| reference.priority == 0 && reference.weight > 0);
        primaries
            .map(|reference| match &reference.target {
                RefTargetNode::Backend(key) | RefTargetNode::H2Backend(key) => {
                    let node = self.graph.backends.get(key);
                    node.and_then(|node| node.endpoints.as_ref().ok()).map_or(0, Vec::len)
                }
                RefTargetNode::Service(name) => {
                    self.graph.services.get(name.as_str()).map_or(0, |service| service.endpoints.len())
                }
                RefTargetNode::Invalid(_) => 0,
            })
            .sum()
    }

    fn policy_object(&self, policy: Option<&Key>) -> Option<&Object<BackendTrafficPolicy>> {
        self.cluster.policies.get(&child_of(policy?)).map(AsRef::as_ref)
    }

    fn settings(&self, policy: Option<&Key>) -> Option<&Policy> {
        self.graph.policies.nodes.get(policy?)?.policy.as_ref()
    }
}
