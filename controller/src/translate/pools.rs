//! Pools: a rule's references with their priorities and weights.

use understudy_conf::{Pool, PoolName, PoolRef, RefTarget};

use crate::graph::{Graph, PolicyNode, RefNode, RefTargetNode};

/// Builds a rule's pool; `None` where the rule can forward nothing, by Gateway API's meaning: every reference
/// is invalid, or has no weight.
pub(super) fn build_pool(
    graph: &Graph,
    name: PoolName,
    policy: Option<&PolicyNode>,
    refs: &[RefNode],
) -> Option<Pool> {
    let refs: Vec<_> = refs.iter().map(|reference| build_ref(graph, reference)).collect();
    let serves =
        |reference: &PoolRef| reference.weight > 0 && matches!(reference.target, RefTarget::Backend(_));
    if !refs.iter().any(serves) {
        return None;
    }
    Some(Pool { name, policy: policy.map(|policy| policy.name.clone()), refs })
}

fn build_ref(graph: &Graph, reference: &RefNode) -> PoolRef {
    let target = match &reference.target {
        RefTargetNode::Backend(key) => match graph.backends.get(key) {
            Some(node) => RefTarget::Backend(node.name.clone()),
            None => RefTarget::Invalid(format!("there is no Backend {key}")),
        },
        RefTargetNode::Service(name) => RefTarget::Backend(name.clone()),
        RefTargetNode::Invalid(why) => RefTarget::Invalid(why.clone()),
    };
    PoolRef {
        target,
        priority: reference.priority,
        weight: reference.weight,
        filters: reference.filters.clone(),
    }
}
