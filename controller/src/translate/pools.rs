//! Pools: a rule's references with their priorities and weights.

use understudy_conf::{
    BackendName, CertificateName, HttpFilter, PolicyName, Pool, PoolName, PoolRef, RefTarget, RequestMirror,
};

use crate::graph::{Graph, MirrorNode, PolicyNode, RefNode, RefTargetNode, RuleNode};
use crate::translate::backends::{h2_name, is_shown_certificate, with_certificate};

/// Builds a rule's pool; `None` where the rule can forward nothing, by Gateway API's meaning: every reference
/// is invalid, or has no weight.
pub(super) fn build_pool(
    graph: &Graph,
    name: PoolName,
    policy: Option<&PolicyNode>,
    certificate: Option<&CertificateName>,
    refs: &[RefNode],
) -> Option<Pool> {
    let refs: Vec<_> = refs.iter().map(|reference| build_ref(graph, reference, certificate)).collect();
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
    (policy, certificate): (Option<&PolicyName>, Option<&CertificateName>),
    filters: &mut Vec<HttpFilter>,
    pools: &mut Vec<Pool>,
) {
    for (index, mirror) in mirrors.iter().enumerate() {
        let Ok(name) = PoolName::new(format!("{base}/mirror/{index}")) else { continue };
        let MirrorNode { numerator, denominator, .. } = *mirror;
        filters.push(HttpFilter::RequestMirror(RequestMirror { pool: name.clone(), numerator, denominator }));
        let target = build_target(graph, &mirror.target, certificate);
        let reference = PoolRef { target, priority: 0, weight: 1, filters: Vec::new() };
        pools.push(Pool { name, policy: policy.cloned(), refs: vec![reference] });
    }
}

fn build_ref(graph: &Graph, reference: &RefNode, certificate: Option<&CertificateName>) -> PoolRef {
    PoolRef {
        target: build_target(graph, &reference.target, certificate),
        priority: reference.priority,
        weight: reference.weight,
        filters: reference.filters.clone(),
    }
}

fn build_target(graph: &Graph, target: &RefTargetNode, certificate: Option<&CertificateName>) -> RefTarget {
    match (name_of(graph, target), target) {
        (Some(name), _) => RefTarget::Backend(with_certificate(graph, &name, certificate)),
        (None, RefTargetNode::Invalid(why)) => RefTarget::Invalid(why.clone()),
        (None, RefTargetNode::Backend(key) | RefTargetNode::H2Backend(key)) => {
            RefTarget::Invalid(format!("there is no Backend {key}"))
        }
        (None, RefTargetNode::Service(name)) => RefTarget::Backend(name.clone()),
    }
}

fn name_of(graph: &Graph, target: &RefTargetNode) -> Option<BackendName> {
    match target {
        RefTargetNode::Backend(key) => graph.backends.get(key).map(|node| node.name.clone()),
        RefTargetNode::H2Backend(key) => graph.backends.get(key).and_then(|node| h2_name(&node.name)),
        RefTargetNode::Service(name) => Some(name.clone()),
        RefTargetNode::Invalid(_) => None,
    }
}

/// Whether a Gateway's certificate is shown to anything that a rule leads to.
pub(super) fn shows_certificate(graph: &Graph, rule: &RuleNode) -> bool {
    let refs = rule.refs().iter();
    let mirrors = rule.mirrors.iter().chain(rule.refs().iter().flat_map(|reference| &reference.mirrors));
    let mut targets = refs.map(|reference| &reference.target).chain(mirrors.map(|mirror| &mirror.target));
    targets.any(|target| name_of(graph, target).is_some_and(|name| is_shown_certificate(graph, &name)))
}
