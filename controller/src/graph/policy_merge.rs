//! BackendTrafficPolicy: merged with the policy above it, where `mergeType` asks for that.
//!
//! The more specific policy's fields win, mappings are merged and lists replaced: so far `JSONMerge` and
//! `StrategicMerge` do the same, because no list of the kind has a key by which its items could be merged. A block
//! that has another `type` than the parent's replaces it as a whole, as its other fields belong to the type.

use std::collections::BTreeMap;

use serde_json::Value;
use understudy_conf::{Policy, PolicyName};
use understudy_crds::{BackendTrafficPolicy, BackendTrafficPolicySpec};

use crate::cluster::{Cluster, Key};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::backend_traffic_policy::{PolicyIndex, PolicyNode, Spot};
use crate::graph::gateway::GatewayNode;
use crate::graph::listener_sets::gateway_of;
use crate::graph::policy_balancer::apply_annotations;
use crate::graph::policy_settings::build_policy;

/// What stands between the names of policies that are merged. No name of Kubernetes holds it.
const JOINT: char = '+';

/// The key of merged policies, the most specific first: that one's namespace, and the names of all.
pub(super) fn merged_key(chain: &[&Key]) -> Key {
    let [child, parents @ ..] = chain else { return Key::new("", "") };
    let mut name = child.name.to_string();
    for parent in parents {
        name.push(JOINT);
        name.push_str(&parent.to_string());
    }
    Key::new(&child.namespace, &name)
}

/// The most specific of merged policies; a policy that stands alone is that itself.
pub(crate) fn child_of(key: &Key) -> Key {
    match key.name.split_once(JOINT) {
        Some((name, _)) => Key::new(&key.namespace, name),
        None => key.clone(),
    }
}

/// Merges policies of routes with those above them, for every listener that the routes name.
pub(super) fn merge_policies(
    index: &mut PolicyIndex,
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut chains: Vec<Vec<Key>> = Vec::new();
    for (spot, _) in index.spots.iter().filter(|(_, policy)| index.merging.contains(*policy)) {
        let (route, rule) = match spot {
            Spot::Rule(route, rule) => (route, Some(rule.as_str())),
            Spot::Route(route) => (route, None),
            Spot::SetListener(..) | Spot::Set(_) | Spot::Listener(..) | Spot::Gateway(_) => continue,
        };
        let parents = cluster.route(route).and_then(|route| route.value.spec.parent_refs.as_deref());
        for parent in parents.unwrap_or_default() {
            let key = Key::new(parent.namespace.as_deref().unwrap_or(&route.key.namespace), &parent.name);
            let is_set = parent.kind.as_deref() == Some("ListenerSet");
            let set = cluster.listener_sets.get(&key).filter(|_| is_set);
            let gateway = match set {
                Some(set) => gateway_of(&key, &set.value.parent_ref),
                None => Some(key.clone()),
            };
            let Some(gateway) = gateway else { continue };
            let listeners = gateways.get(&gateway).into_iter().flat_map(|node| &node.listeners);
            for listener in
                listeners.filter(|listener| listener.shape.set.as_ref() == set.map(|set| &set.key))
            {
                let chain = index.chain(route, rule, &gateway, &listener.shape);
                let chain: Vec<_> = chain.into_iter().cloned().collect();
                if chain.len() > 1 && !chains.contains(&chain) {
                    chains.push(chain);
                }
            }
        }
    }
    for chain in chains {
        merge_chain(index, cluster, &chain, diagnostics);
    }
}

fn merge_chain(index: &mut PolicyIndex, cluster: &Cluster, chain: &[Key], diagnostics: &mut Vec<Diagnostic>) {
    let objects: Vec<_> = chain.iter().filter_map(|key| cluster.policies.get(key)).collect();
    let [child, parents @ ..] = objects.as_slice() else { return };
    let key = merged_key(&chain.iter().collect::<Vec<_>>());
    let Ok(name) = PolicyName::new(format!("backendtrafficpolicy/{}/{}", key.namespace, key.name)) else {
        return;
    };
    let mut specs = objects.iter().rev().map(|object| object.value.spec.clone());
    let Some(mut spec) = specs.next() else { return };
    for above in specs {
        let Some(merged) = merge_specs(&spec, &above) else { return };
        spec = merged;
    }
    let whole = BackendTrafficPolicy { spec, ..BackendTrafficPolicy::default() };
    if let Some(problem) = whole.validate().first() {
        let with = parents.iter().map(|parent| parent.label.as_ref()).collect::<Vec<_>>().join(" and ");
        diagnostics.push(reasons::merge_invalid(&child.at("spec.mergeType"), &with, problem));
        return;
    }
    let mut policy: Policy = build_policy(name.clone(), &whole.spec);
    for object in objects.iter().rev() {
        // What is wrong with an annotation was said of the policy that has it.
        apply_annotations(&mut policy, object, &mut Vec::new());
    }
    index.nodes.insert(key, PolicyNode { name, policy: Some(policy) });
    let parents = parents.iter().map(|parent| parent.key.clone());
    index.merged.entry(child.key.clone()).or_default().extend(parents);
}

/// One spec over another; targets are never merged.
fn merge_specs(
    parent: &BackendTrafficPolicySpec,
    child: &BackendTrafficPolicySpec,
) -> Option<BackendTrafficPolicySpec> {
    let mut base = parent.clone();
    (base.target_ref, base.target_refs, base.target_selectors, base.merge_type) = (None, None, None, None);
    let mut merged = serde_json::to_value(&base).ok()?;
    merge(&mut merged, serde_json::to_value(child).ok()?);
    serde_json::from_value(merged).ok()
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) if !is_other_type(base, &over) => {
            for (key, value) in over {
                match base.get_mut(&key) {
                    Some(known) => merge(known, value),
                    None => drop(base.insert(key, value)),
                }
            }
        }
        (base, over) => *base = over,
    }
}

fn is_other_type(base: &serde_json::Map<String, Value>, over: &serde_json::Map<String, Value>) -> bool {
    matches!((base.get("type"), over.get("type")), (Some(base), Some(over)) if base != over)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(parent: &str, child: &str) -> String {
        let spec = |text: &str| serde_yaml::from_str::<BackendTrafficPolicySpec>(text).unwrap();
        serde_json::to_string(&merge_specs(&spec(parent), &spec(child)).unwrap()).unwrap()
    }

    #[test]
    fn mappings_are_merged_and_lists_replaced() {
        assert_eq!(
            merged(
                "{retry: {numRetries: 1, retryOn: {httpStatusCodes: [502, 503]}}, timeout: {tcp: {connectTimeout: 1s}}}",
                "{retry: {retryOn: {httpStatusCodes: [500]}}, mergeType: StrategicMerge}"
            ),
            r#"{"mergeType":"StrategicMerge","retry":{"numRetries":1,"retryOn":{"httpStatusCodes":[500]}},"timeout":{"tcp":{"connectTimeout":"1s"}}}"#
        );
    }

    #[test]
    fn a_block_of_another_type_replaces_the_parents() {
        assert_eq!(
            merged(
                "{loadBalancer: {type: ConsistentHash, consistentHash: {type: SourceIP}}}",
                "{loadBalancer: {type: Random}}"
            ),
            r#"{"loadBalancer":{"type":"Random"}}"#
        );
    }

    #[test]
    fn targets_are_the_childs_alone() {
        let target = "[{group: gateway.networking.k8s.io, kind: Gateway, name: eg}]";
        assert_eq!(merged(&format!("{{targetRefs: {target}}}"), "{}"), "{}");
    }

    #[test]
    fn the_child_is_found_in_the_name_of_merged_policies() {
        let (child, parent) = (Key::new("shop", "of-route"), Key::new("infra", "of-gateway"));
        let key = merged_key(&[&child, &parent]);
        assert_eq!(key.to_string(), "shop/of-route+infra/of-gateway");
        assert_eq!((child_of(&key), child_of(&parent)), (child, parent));
    }
}
