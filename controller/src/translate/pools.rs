//! Pools: a rule's references with their priorities and weights.

use understudy_conf::{HttpFilter, PolicyName, Pool, PoolName, PoolRef, RefTarget, RequestMirror};

use crate::graph::{Graph, MirrorNode, PolicyNode, RefNode, RefTargetNode};
use crate::translate::backends::h2_name;

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

/// Adds to filters those of mirrors, and to pools what they go to, each one named after `base`.
pub(super) fn add_mirrors(
    graph: &Graph,
    mirrors: &[MirrorNode],
    base: &str,
    policy: Option<&PolicyName>,
    filters: &mut Vec<HttpFilter>,
    pools: &mut Vec<Pool>,
) {
    for (index, mirror) in mirrors.iter().enumerate() {
        let Ok(name) = PoolName::new(format!("{base}/mirror/{index}")) else { continue };
        let MirrorNode { numerator, denominator, .. } = *mirror;
        filters.push(HttpFilter::RequestMirror(RequestMirror { pool: name.clone(), numerator, denominator }));
        let target = build_target(graph, &mirror.target);
        let reference = PoolRef { target, priority: 0, weight: 1, filters: Vec::new() };
        pools.push(Pool { name, policy: policy.cloned(), refs: vec![reference] });
    }
}

fn build_ref(graph: &Graph, reference: &RefNode) -> PoolRef {
    PoolRef {
        target: build_target(graph, &reference.target),
        priority: reference.priority,
        weight: reference.weight,
        filters: reference.filters.clone(),
    }
}

fn build_target(graph: &Graph, target: &RefTargetNode) -> RefTarget {
    match target {
        RefTargetNode::Backend(key) => match graph.backends.get(key) {
            Some(node) => RefTarget::Backend(node.name.clone()),
            None => RefTarget::Invalid(format!("there is no Backend {key}")),
        },
        RefTargetNode::H2Backend(key) => match graph.backends.get(key).and_then(|node| h2_name(&node.name)) {
            Some(name) => RefTarget::Backend(name),
            None => RefTarget::Invalid(format!("there is no Backend {key}")),
        },
        RefTargetNode::Service(name) => RefTarget::Backend(name.clone()),
        RefTargetNode::Invalid(why) => RefTarget::Invalid(why.clone()),
    }
}
