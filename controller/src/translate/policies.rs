//! Policies: those that a pool refers to.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::{Policy, PolicyName, Pool};

use crate::graph::Graph;

pub(super) fn add_policy(graph: &Graph, pool: &Pool, policies: &mut BTreeMap<PolicyName, Arc<Policy>>) {
    let Some(name) = pool.policy.as_ref().filter(|name| !policies.contains_key(*name)) else { return };
    let node = graph.policies.nodes.values().find(|node| node.name == *name);
    if let Some(policy) = node.and_then(|node| node.policy.clone()) {
        policies.insert(name.clone(), Arc::new(policy));
    }
}
