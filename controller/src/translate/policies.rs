//! Policies: those that a pool refers to.

use std::collections::BTreeSet;

use understudy_conf::{Policy, PolicyName, State};

use crate::cluster::Key;
use crate::graph::Graph;
use crate::translate::keep_object;
use crate::translate::uses::Uses;

/// Looks again at the policies of these names.
pub(super) fn update_policies(graph: &Graph, names: &BTreeSet<PolicyName>, uses: &Uses, state: &mut State) {
    for name in names {
        match find_policy(graph, name).filter(|_| uses.has_policy(name)) {
            Some(policy) => keep_object(&mut state.policies, name.clone(), policy.clone()),
            None => drop(state.policies.remove(name)),
        }
    }
}

fn find_policy<'g>(graph: &'g Graph, name: &PolicyName) -> Option<&'g Policy> {
    let (namespace, name) = name.as_str().strip_prefix("backendtrafficpolicy/")?.split_once('/')?;
    graph.policies.nodes.get(&Key::new(namespace, name))?.policy.as_ref()
}
