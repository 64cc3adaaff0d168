//! BackendTrafficPolicy: bound to what it targets.
//!
//! The more specific policy wins as a whole: a route's rule, the route, a ListenerSet's listener, the ListenerSet, a
//! Gateway's listener, the Gateway. Of two with the same target the older one wins. A route's policy with `mergeType` is merged with the next one above.

use std::collections::{BTreeMap, BTreeSet};

use understudy_conf::{Policy, PolicyName};
use understudy_crds::{BackendTrafficPolicy, NamespacesFrom, PolicyTarget, PolicyTargetSelector};

use crate::changes::Changes;
use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::gateway::GatewayNode;
use crate::graph::listener_sets::gateway_of;
use crate::graph::listeners::{ListenerShape, namespace_labels};
use crate::graph::policy_balancer::apply_annotations;
use crate::graph::policy_merge::{merge_policies, merged_key};
use crate::graph::policy_settings::build_policy;
use crate::graph::policy_warnings::{report_policy, report_without_requests};
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId, nearest};

/// A policy.
#[derive(Debug, PartialEq)]
pub(crate) struct PolicyNode {
    pub(crate) name: PolicyName,
    /// `None` if it breaks a rule of its kind: then the rules that it governs answer 500.
    pub(crate) policy: Option<Policy>,
}

/// Something that a policy can target, from the most specific to the least.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Spot {
    /// A named rule of a route.
    Rule(ObjectId, String),
    /// A route.
    Route(ObjectId),
    /// A listener of a ListenerSet.
    SetListener(Key, String),
    /// A ListenerSet.
    Set(Key),
    /// A listener of a Gateway.
    Listener(Key, String),
    /// A Gateway.
    Gateway(Key),
}

/// What came of one target of a policy.
#[derive(Debug, PartialEq)]
pub(crate) struct TargetNode {
    /// What is meant, or the nearest thing to it that exists.
    pub(crate) spot: Option<Spot>,
    /// Kind and name of a target that does not exist.
    pub(crate) missing: Option<(String, String)>,
    /// Why the policy does not act on it.
    pub(crate) refusal: Option<Box<Diagnostic>>,
}

impl TargetNode {
    /// The kind of the route that is targeted.
    fn route_kind(&self) -> Option<Kind> {
        match self.spot.as_ref()? {
            Spot::Rule(route, _) | Spot::Route(route) => Some(route.kind),
            Spot::SetListener(..) | Spot::Set(_) | Spot::Listener(..) | Spot::Gateway(_) => None,
        }
    }
}

/// The policies with their targets.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PolicyIndex {
    /// Policies, and what came of merging some (`policy_merge` names those).
    pub(crate) nodes: BTreeMap<Key, PolicyNode>,
    /// What came of each target of a policy.
    pub(crate) targets: BTreeMap<Key, Vec<TargetNode>>,
    /// Where policies are replaced as a whole, and by which.
    pub(crate) overridden: BTreeMap<Key, Vec<(Spot, Key)>>,
    /// With which ones policies are merged.
    pub(crate) merged: BTreeMap<Key, BTreeSet<Key>>,
    pub(super) spots: BTreeMap<Spot, Key>,
    /// Policies that are merged with the one above them.
    pub(super) merging: BTreeSet<Key>,
}

impl PolicyIndex {
    /// The policy that governs a rule of a route on a listener.
    pub(crate) fn effective(
        &self,
        route: &ObjectId,
        rule: Option<&str>,
        gateway: &Key,
        listener: &ListenerShape,
    ) -> Option<(&Key, &PolicyNode)> {
        let chain = self.chain(route, rule, gateway, listener);
        let merged = (chain.len() > 1).then(|| merged_key(&chain));
        merged
            .and_then(|key| self.nodes.get_key_value(&key))
            .or_else(|| self.nodes.get_key_value(chain.first().copied()?))
    }

    /// The policies that govern together, the most specific first: more than one where they are merged.
    pub(super) fn chain(
        &self,
        route: &ObjectId,
        rule: Option<&str>,
        gateway: &Key,
        listener: &ListenerShape,
    ) -> Vec<&Key> {
        let mut chain: Vec<&Key> = Vec::new();
        let (listener, set) = match &listener.set {
            Some(set) => {
                (Spot::SetListener(set.clone(), listener.name.clone()), Some(Spot::Set(set.clone())))
            }
            None => (Spot::Listener(gateway.clone(), listener.name.clone()), None),
        };
        let spots = [
            rule.map(|rule| Spot::Rule(route.clone(), rule.to_owned())),
            Some(Spot::Route(route.clone())),
            Some(listener),
            set,
            Some(Spot::Gateway(gateway.clone())),
        ];
        for key in spots.into_iter().flatten().filter_map(|spot| self.spots.get(&spot)) {
            if chain.contains(&key) {
                continue;
            }
            // What breaks its own rules says nothing that could be merged.
            let usable = self.nodes.get(key).is_some_and(|node| node.policy.is_some());
            if !chain.is_empty() && !usable {
                break;
            }
            chain.push(key);
            if !self.merging.contains(key) {
                break;
            }
        }
        chain
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
        let mut targets = Vec::new();
        for (field, target) in policy.value.spec.targets() {
            let found = match resolve_target(cluster, gateways, policy, &field, target) {
                Ok(spot) => bind_policy(&mut index, cluster, policy, spot, &policy.at(&field)),
                Err(found) => found,
            };
            diagnostics.extend(found.refusal.as_deref().cloned());
            targets.push(found);
        }
        for (number, selector) in policy.value.spec.target_selectors.iter().flatten().enumerate() {
            let place = policy.at(&format!("spec.targetSelectors[{number}]"));
            let spots = resolve_selector(cluster, policy, selector);
            if spots.is_empty() {
                diagnostics.push(reasons::selector_without_targets(&place, &selector.kind));
            }
            for spot in spots {
                let found = bind_policy(&mut index, cluster, policy, spot, &place);
                diagnostics.extend(found.refusal.as_deref().cloned());
                targets.push(found);
            }
        }
        let kinds = targets.iter().filter_map(TargetNode::route_kind).filter(|kind| !kind.has_requests());
        let kinds: BTreeSet<Kind> = kinds.collect();
        index.targets.insert(key.clone(), targets);
        if policy.is_valid && policy.value.spec.merge_type.is_some() {
            index.merging.insert(key.clone());
        }
        let mut built = policy.is_valid.then(|| build_policy(name.clone(), &policy.value.spec));
        if let Some(built) = &mut built {
            apply_annotations(built, policy, diagnostics);
        }
        if policy.is_valid {
            report_policy(policy, diagnostics);
            report_without_requests(policy, &kinds, diagnostics);
        }
        index.nodes.insert(key.clone(), PolicyNode { name, policy: built });
    }
    merge_policies(&mut index, cluster, gateways, diagnostics);
    report_overridden(&mut index, cluster, diagnostics);
    index
}

/// Whether any policy may be bound otherwise, or merged with others, than before. So few policies look at many routes
/// that nothing finer is worth it.
pub(crate) fn may_differ(cluster: &Cluster, changes: &Changes) -> bool {
    let policies = || cluster.policies.values().map(|policy| (policy, &policy.value.spec));
    if changes.policies || changes.gateways || changes.refused {
        return true;
    }
    if changes.routes.is_empty() && changes.namespaces.is_empty() && changes.grants.is_empty() {
        return false;
    }
    policies().any(|(policy, spec)| {
        if spec.target_selectors.iter().flatten().next().is_some() {
            return true;
        }
        spec.targets().into_iter().any(|(_, target)| {
            let Some(kind) = Kind::route_by_name(&target.kind) else { return false };
            let named = ObjectId { kind, key: Key::new(&policy.key.namespace, &target.name) };
            let is_near = |id: &ObjectId| id.kind == kind && id.key.namespace == named.key.namespace;
            changes.routes.contains(&named)
                // What is missing is compared with the names that there are.
                || cluster.route(&named).is_none() && changes.routes.iter().any(is_near)
        })
    })
}

fn bind_policy(
    index: &mut PolicyIndex,
    cluster: &Cluster,
    policy: &Object<BackendTrafficPolicy>,
    spot: Spot,
    place: &Place,
) -> TargetNode {
    let owner = index.spots.entry(spot.clone()).or_insert_with(|| policy.key.clone());
    let refusal = (*owner != policy.key).then(|| {
        let location = cluster.policies.get(owner).map(|policy| policy.location()).unwrap_or_default();
        Box::new(reasons::policy_conflicted(place, owner, &location))
    });
    TargetNode { spot: Some(spot), missing: None, refusal }
}

/// Follows a target by name. The error says nothing where the kind's own rules have spoken already.
fn resolve_target(
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    policy: &Object<BackendTrafficPolicy>,
    field: &str,
    target: &PolicyTarget,
) -> Result<Spot, TargetNode> {
    let refused = |spot: Option<Spot>, diagnostic: Diagnostic| {
        Err(TargetNode { spot, missing: None, refusal: Some(diagnostic.into()) })
    };
    let at = |name: &str| policy.at(&format!("{field}.{name}"));
    let key = Key::new(&policy.key.namespace, &target.name);
    let missing = |kind: Kind, near: Option<&str>| {
        let unreadable = cluster.refused.get(&ObjectId { kind, key: key.clone() });
        let refusal = reasons::target_not_found(&at("name"), kind, &key, near, unreadable);
        let missing = Some((target.kind.clone(), target.name.clone()));
        Err(TargetNode { spot: None, missing, refusal: Some(refusal.into()) })
    };
    if let (GATEWAY_API, Some(kind)) = (target.group.as_str(), Kind::route_by_name(&target.kind)) {
        let id = ObjectId { kind, key: key.clone() };
        let Some(route) = cluster.route(&id) else {
            let names = cluster.routes_of(kind).into_iter().flat_map(|routes| routes.keys());
            let names = names.filter(|known| known.namespace == key.namespace);
            return missing(kind, nearest(&key.name, names.map(|known| &*known.name)));
        };
        let Some(section) = &target.section_name else { return Ok(Spot::Route(id)) };
        let names = || route.value.spec.rules.iter().flatten().filter_map(|rule| rule.name.as_deref());
        if names().any(|name| name == section) {
            return Ok(Spot::Rule(id, section.clone()));
        }
        let refusal = reasons::missing_rule(&at("sectionName"), &id, section, nearest(section, names()));
        return refused(Some(Spot::Route(id)), refusal);
    }
    match (target.group.as_str(), target.kind.as_str()) {
        (GATEWAY_API, "Gateway") => {
            let Some(gateway) = cluster.gateways.get(&key) else {
                let names = cluster.gateways.keys().filter(|known| known.namespace == key.namespace);
                return missing(Kind::Gateway, nearest(&key.name, names.map(|known| &*known.name)));
            };
            if !gateways.contains_key(&key) {
                let id = ObjectId { kind: Kind::Gateway, key };
                return refused(None, reasons::parent_not_served(&at("name"), &id));
            }
            let Some(section) = &target.section_name else { return Ok(Spot::Gateway(key)) };
            let names = || gateway.value.spec.listeners.iter().map(|listener| listener.name.as_str());
            if names().any(|name| name == section) {
                Ok(Spot::Listener(key, section.clone()))
            } else {
                let near = nearest(section, names());
                let id = ObjectId { kind: Kind::Gateway, key: key.clone() };
                let refusal = reasons::missing_listener_target(&at("sectionName"), &id, section, near);
                refused(Some(Spot::Gateway(key.clone())), refusal)
            }
        }
        (GATEWAY_API, "ListenerSet") => {
            let Some(set) = cluster.listener_sets.get(&key) else {
                let names = cluster.listener_sets.keys().filter(|known| known.namespace == key.namespace);
                return missing(Kind::ListenerSet, nearest(&key.name, names.map(|known| &*known.name)));
            };
            let id = ObjectId { kind: Kind::ListenerSet, key: key.clone() };
            let gateway = gateway_of(&key, &set.value.parent_ref).and_then(|gateway| gateways.get(&gateway));
            if gateway.and_then(|node| node.set(&key)).is_none_or(|set| set.shapes.is_none()) {
                return refused(None, reasons::parent_not_served(&at("name"), &id));
            }
            let Some(section) = &target.section_name else { return Ok(Spot::Set(key)) };
            let listeners = &set.value.as_gateway.spec.listeners;
            let names = || listeners.iter().map(|listener| listener.name.as_str());
            if names().any(|name| name == section) {
                return Ok(Spot::SetListener(key, section.clone()));
            }
            let near = nearest(section, names());
            let refusal = reasons::missing_listener_target(&at("sectionName"), &id, section, near);
            refused(Some(Spot::Set(key.clone())), refusal)
        }
        _ => Err(TargetNode { spot: None, missing: None, refusal: None }),
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
    if let Some(kind) = Kind::route_by_name(&selector.kind) {
        let routes = cluster.routes_of(kind).into_iter().flat_map(|routes| routes.values());
        let selected =
            routes.filter(|route| labels.matches(&route.labels) && in_reach(kind.info().name, &route.key));
        return selected.map(|route| Spot::Route(route.id())).collect();
    }
    match selector.kind.as_str() {
        "Gateway" => cluster
            .gateways
            .values()
            .filter(|gateway| labels.matches(&gateway.labels) && in_reach("Gateway", &gateway.key))
            .map(|gateway| Spot::Gateway(gateway.key.clone()))
            .collect(),
        "ListenerSet" => cluster
            .listener_sets
            .values()
            .filter(|set| labels.matches(&set.labels) && in_reach("ListenerSet", &set.key))
            .map(|set| Spot::Set(set.key.clone()))
            .collect(),
        _ => Vec::new(),
    }
}

/// Says which policies of a parent are replaced somewhere below it.
fn report_overridden(index: &mut PolicyIndex, cluster: &Cluster, diagnostics: &mut Vec<Diagnostic>) {
    let replacing = index.spots.iter().filter(|(_, winner)| !index.merging.contains(*winner));
    for (spot, winner) in replacing {
        for above in parents_of(spot, cluster) {
            let Some(loser) = index.spots.get(&above).filter(|loser| *loser != winner) else { continue };
            if let Some(policy) = cluster.policies.get(loser) {
                diagnostics.push(reasons::policy_overridden(&policy.at("spec"), &describe(spot), winner));
                let place = (spot.clone(), winner.clone());
                index.overridden.entry(loser.clone()).or_default().push(place);
            }
        }
    }
}

/// The spots whose policy would act on a spot that has none.
fn parents_of(spot: &Spot, cluster: &Cluster) -> Vec<Spot> {
    let gateway_of_set = |spot: &Spot| {
        let Spot::Set(key) = spot else { return None };
        gateway_of(key, &cluster.listener_sets.get(key)?.value.parent_ref).map(Spot::Gateway)
    };
    let gateways_of = |id: &ObjectId| {
        let parents = cluster.route(id).and_then(|route| route.value.spec.parent_refs.as_deref());
        let mut spots = Vec::new();
        for parent in parents.unwrap_or_default() {
            let key = Key::new(parent.namespace.as_deref().unwrap_or(&id.key.namespace), &parent.name);
            let (spot, listener): (_, fn(Key, String) -> Spot) = match parent.kind.as_deref() {
                Some("ListenerSet") => (Spot::Set(key.clone()), Spot::SetListener),
                _ => (Spot::Gateway(key.clone()), Spot::Listener),
            };
            spots.extend(parent.section_name.clone().map(|section| listener(key, section)));
            spots.extend(gateway_of_set(&spot));
            spots.push(spot);
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
        Spot::SetListener(key, _) => {
            let set = Spot::Set(key.clone());
            gateway_of_set(&set).into_iter().chain([set]).collect()
        }
        Spot::Set(_) => gateway_of_set(spot).into_iter().collect(),
        Spot::Listener(gateway, _) => vec![Spot::Gateway(gateway.clone())],
        Spot::Gateway(_) => Vec::new(),
    }
}

pub(crate) fn describe(spot: &Spot) -> String {
    match spot {
        Spot::Rule(route, rule) => format!("rule {rule} of {route}"),
        Spot::Route(route) => route.to_string(),
        Spot::SetListener(set, listener) => format!("listener {listener} of ListenerSet {set}"),
        Spot::Set(set) => format!("ListenerSet {set}"),
        Spot::Listener(gateway, listener) => format!("listener {listener} of Gateway {gateway}"),
        Spot::Gateway(gateway) => format!("Gateway {gateway}"),
    }
}
