//! BackendTrafficPolicy: bound to what it targets.
//!
//! The more specific policy wins as a whole: a route's rule, the route, a Gateway's listener, the Gateway. Of
//! two with the same target the older one wins.

use std::collections::BTreeMap;

use understudy_conf::{Policy, PolicyName};
use understudy_crds::{BackendTrafficPolicy, NamespacesFrom, PolicyTarget, PolicyTargetSelector};

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::gateway::GatewayNode;
use crate::graph::listeners::namespace_labels;
use crate::graph::policy_balancer::apply_annotations;
use crate::graph::policy_settings::build_policy;
use crate::graph::policy_warnings::report_policy;
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId, nearest};

/// A policy.
#[derive(Debug)]
pub(crate) struct PolicyNode {
    pub(crate) name: PolicyName,
    /// `None` if it breaks a rule of its kind: then the rules that it governs answer 500.
    pub(crate) policy: Option<Policy>,
}

/// Something that a policy can target, from the most specific to the least.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    /// A named rule of a route.
    Rule(Key, String),
    /// A route.
    Route(Key),
    /// A listener of a Gateway.
    Listener(Key, String),
    /// A Gateway.
    Gateway(Key),
}

/// The policies with their targets.
#[derive(Debug, Default)]
pub(crate) struct PolicyIndex {
    pub(crate) nodes: BTreeMap<Key, PolicyNode>,
    spots: BTreeMap<Spot, Key>,
}

impl PolicyIndex {
    /// The policy that governs a rule of a route on a listener.
    pub(crate) fn effective(
        &self,
        route: &Key,
        rule: Option<&str>,
        gateway: &Key,
        listener: &str,
    ) -> Option<(&Key, &PolicyNode)> {
        let rule = rule.and_then(|rule| self.spots.get(&Spot::Rule(route.clone(), rule.to_owned())));
        let key = rule
            .or_else(|| self.spots.get(&Spot::Route(route.clone())))
            .or_else(|| self.spots.get(&Spot::Listener(gateway.clone(), listener.to_owned())))
            .or_else(|| self.spots.get(&Spot::Gateway(gateway.clone())))?;
        self.nodes.get_key_value(key)
    }
}

/// Builds all policies, binds them and reports what cannot act.
pub(crate) fn build_policies(
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    diagnostics: &mut Vec<Diagnostic>,
) -> PolicyIndex {
    let mut by_age: Vec<_> = cluster.policies.values().collect();
    by_age.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    let mut index = PolicyIndex::default();
    for policy in by_age {
        let key = &policy.key;
        let Ok(name) = PolicyName::new(format!("backendtrafficpolicy/{}/{}", key.namespace, key.name)) else {
            continue;
        };
        for (field, target) in policy.value.spec.targets() {
            match resolve_target(cluster, gateways, policy, &field, target) {
                Ok(spot) => bind_policy(&mut index, cluster, policy, spot, &policy.at(&field), diagnostics),
                Err(Some(diagnostic)) => diagnostics.push(*diagnostic),
                Err(None) => {}
            }
        }
        for (number, selector) in policy.value.spec.target_selectors.iter().flatten().enumerate() {
            let place = policy.at(&format!("spec.targetSelectors[{number}]"));
            let spots = resolve_selector(cluster, policy, selector);
            if spots.is_empty() {
                diagnostics.push(reasons::selector_without_targets(&place, &selector.kind));
            }
            for spot in spots {
                bind_policy(&mut index, cluster, policy, spot, &place, diagnostics);
            }
        }
        let mut built = policy.is_valid.then(|| build_policy(name.clone(), &policy.value.spec));
        if let Some(built) = &mut built {
            apply_annotations(built, policy, diagnostics);
        }
        if policy.is_valid {
            report_policy(policy, diagnostics);
        }
        index.nodes.insert(key.clone(), PolicyNode { name, policy: built });
    }
    report_overridden(&index, cluster, diagnostics);
    index
}

fn bind_policy(
    index: &mut PolicyIndex,
    cluster: &Cluster,
    policy: &Object<BackendTrafficPolicy>,
    spot: Spot,
    place: &Place,
    diagnostics: &mut Vec<Diagnostic>,
) {
    match index.spots.get(&spot) {
        Some(owner) if *owner == policy.key => {}
        Some(owner) => {
            let location = cluster.policies.get(owner).map(Object::location).unwrap_or_default();
            diagnostics.push(reasons::policy_conflicted(place, owner, &location));
        }
        None => {
            index.spots.insert(spot, policy.key.clone());
        }
    }
}

/// Follows a target by name. `Err(None)` where the kind's own rules have spoken already.
fn resolve_target(
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    policy: &Object<BackendTrafficPolicy>,
    field: &str,
    target: &PolicyTarget,
) -> Result<Spot, Option<Box<Diagnostic>>> {
    let at = |name: &str| policy.at(&format!("{field}.{name}"));
    let key = Key::new(&policy.key.namespace, &target.name);
    let missing = |kind: Kind, near: Option<&str>| {
        let refused = cluster.refused.get(&ObjectId { kind, key: key.clone() });
        Some(Box::new(reasons::target_not_found(&at("name"), kind, &key, near, refused)))
    };
    match (target.group.as_str(), target.kind.as_str()) {
        (GATEWAY_API, "HTTPRoute") => {
            let Some(route) = cluster.http_routes.get(&key) else {
                let names = cluster.http_routes.keys().filter(|known| known.namespace == key.namespace);
                return Err(missing(Kind::HttpRoute, nearest(&key.name, names.map(|known| &*known.name))));
            };
            let Some(section) = &target.section_name else { return Ok(Spot::Route(key)) };
            let names = || route.value.spec.rules.iter().flatten().filter_map(|rule| rule.name.as_deref());
            if names().any(|name| name == section) {
                Ok(Spot::Rule(key, section.clone()))
            } else {
                let near = nearest(section, names());
                Err(Some(reasons::missing_rule(&at("sectionName"), &key, section, near).into()))
            }
        }
        (GATEWAY_API, "Gateway") => {
            let Some(gateway) = cluster.gateways.get(&key) else {
                let names = cluster.gateways.keys().filter(|known| known.namespace == key.namespace);
                return Err(missing(Kind::Gateway, nearest(&key.name, names.map(|known| &*known.name))));
            };
            if !gateways.contains_key(&key) {
                return Err(Some(reasons::parent_not_served(&at("name"), &key).into()));
            }
            let Some(section) = &target.section_name else { return Ok(Spot::Gateway(key)) };
            let names = || gateway.value.spec.listeners.iter().map(|listener| listener.name.as_str());
            if names().any(|name| name == section) {
                Ok(Spot::Listener(key, section.clone()))
            } else {
                let near = nearest(section, names());
                Err(Some(reasons::missing_listener_target(&at("sectionName"), &key, section, near).into()))
            }
        }
        (GATEWAY_API, kind @ ("ListenerSet" | "GRPCRoute" | "TLSRoute" | "TCPRoute" | "UDPRoute")) => {
            Err(Some(reasons::not_acting(&at("kind"), &format!("{kind}s do not act yet")).into()))
        }
        _ => Err(None),
    }
}

/// Everything that a selector selects.
fn resolve_selector(
    cluster: &Cluster,
    policy: &Object<BackendTrafficPolicy>,
    selector: &PolicyTargetSelector,
) -> Vec<Spot> {
    let labels = selector.labels();
    let in_reach = |kind: &str, key: &Key| {
        let namespaces = selector.namespaces.clone().unwrap_or_default();
        let chosen = match namespaces.from {
            NamespacesFrom::Same => key.namespace == policy.key.namespace,
            NamespacesFrom::All => true,
            NamespacesFrom::Selector => namespaces
                .selector
                .is_some_and(|selector| selector.matches(&namespace_labels(cluster, &key.namespace))),
        };
        let from = Referrer { group: ENVOY, kind: "BackendTrafficPolicy", namespace: &policy.key.namespace };
        chosen && is_permitted(cluster, &from, GATEWAY_API, kind, key)
    };
    match selector.kind.as_str() {
        "HTTPRoute" => cluster
            .http_routes
            .values()
            .filter(|route| labels.matches(&route.labels) && in_reach("HTTPRoute", &route.key))
            .map(|route| Spot::Route(route.key.clone()))
            .collect(),
        "Gateway" => cluster
            .gateways
            .values()
            .filter(|gateway| labels.matches(&gateway.labels) && in_reach("Gateway", &gateway.key))
            .map(|gateway| Spot::Gateway(gateway.key.clone()))
            .collect(),
        _ => Vec::new(),
    }
}

/// Says which policies of a parent are replaced somewhere below it.
fn report_overridden(index: &PolicyIndex, cluster: &Cluster, diagnostics: &mut Vec<Diagnostic>) {
    for (spot, winner) in &index.spots {
        for above in parents_of(spot, cluster) {
            let Some(loser) = index.spots.get(&above).filter(|loser| *loser != winner) else { continue };
            if let Some(policy) = cluster.policies.get(loser) {
                diagnostics.push(reasons::policy_overridden(&policy.at("spec"), &describe(spot), winner));
            }
        }
    }
}

/// The spots whose policy would act on a spot that has none.
fn parents_of(spot: &Spot, cluster: &Cluster) -> Vec<Spot> {
    let gateways_of = |key: &Key| {
        let parents = cluster.http_routes.get(key).and_then(|route| route.value.spec.parent_refs.as_deref());
        let mut spots = Vec::new();
        for parent in parents.unwrap_or_default() {
            let gateway = Key::new(parent.namespace.as_deref().unwrap_or(&key.namespace), &parent.name);
            if let Some(section) = &parent.section_name {
                spots.push(Spot::Listener(gateway.clone(), section.clone()));
            }
            spots.push(Spot::Gateway(gateway));
        }
        spots
    };
    match spot {
        Spot::Rule(route, _) => {
            let mut spots = gateways_of(route);
            spots.push(Spot::Route(route.clone()));
            spots
        }
        Spot::Route(route) => gateways_of(route),
        Spot::Listener(gateway, _) => vec![Spot::Gateway(gateway.clone())],
        Spot::Gateway(_) => Vec::new(),
    }
}

fn describe(spot: &Spot) -> String {
    match spot {
        Spot::Rule(route, rule) => format!("rule {rule} of HTTPRoute {route}"),
        Spot::Route(route) => format!("HTTPRoute {route}"),
        Spot::Listener(gateway, listener) => format!("listener {listener} of Gateway {gateway}"),
        Spot::Gateway(gateway) => format!("Gateway {gateway}"),
    }
}
