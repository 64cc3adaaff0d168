//! Policies: those that a pool refers to.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::{Policy, PolicyName, Pool};

use crate::cluster::Key;
use crate::graph::Graph;

pub(super) fn add_policy(graph: &Graph, pool: &Pool, policies: &mut BTreeMap<PolicyName, Arc<Policy>>) {
    let Some(name) = pool.policy.as_ref().filter(|name| !policies.contains_key(*name)) else { return };
    let object =
        name.as_str().strip_prefix("backendtrafficpolicy/").and_then(|object| object.split_once('/'));
    let node = object.and_then(|(namespace, name)| graph.policies.nodes.get(&Key::new(namespace, name)));
    if let Some(policy) = node.and_then(|node| node.policy.clone()) {
        policies.insert(name.clone(), Arc::new(policy));
    }
}
