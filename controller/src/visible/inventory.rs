//! What of a pass failover is told of: Backends with their use, the identities of objects, the pods behind addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use understudy_crds::Backend;

use crate::cluster::{Cluster, Key, Object};
use crate::graph::{Graph, RefTargetNode, RuleAction};
use crate::pass::Pass;
use crate::visible::subject::Subject;

/// A Backend as conditions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendInfo {
    pub(crate) uid: Option<String>,
    pub(crate) generation: Option<i64>,
    pub(crate) is_fallback: bool,
    /// Whether a route that is served refers to it.
    pub(crate) is_used: bool,
}

/// Every Backend of the cluster.
pub(crate) fn backends(pass: &Pass) -> BTreeMap<Key, BackendInfo> {
    if pass.cluster.backends.is_empty() {
        return BTreeMap::new();
    }
    let used = used_backends(&pass.graph);
    let info = |(key, backend): (&Key, &Arc<Object<Backend>>)| {
        let info = BackendInfo {
            uid: backend.value.metadata.uid.clone(),
            generation: backend.value.metadata.generation,
            is_fallback: backend.value.is_fallback(),
            is_used: used.contains(key),
        };
        (key.clone(), info)
    };
    pass.cluster.backends.iter().map(info).collect()
}

fn used_backends(graph: &Graph) -> BTreeSet<&Key> {
    let mut used = BTreeSet::new();
    for rule in graph.served_routes().flat_map(|route| &route.rules) {
        let refs = match &rule.action {
            RuleAction::Forward(refs) => refs.as_slice(),
            RuleAction::Redirect(_) | RuleAction::Respond(_) => &[],
        };
        let of_refs = refs
            .iter()
            .flat_map(|reference| reference.mirrors.iter().map(|m| &m.target).chain([&reference.target]));
        let of_rule = rule.mirrors.iter().map(|mirror| &mirror.target);
        used.extend(of_refs.chain(of_rule).filter_map(RefTargetNode::backend));
    }
    used
}

/// The UID of an object, by which its Events are found; `None` if it is gone.
pub(crate) fn uid_of(cluster: &Cluster, subject: &Subject) -> Option<String> {
    let metadata = match subject {
        Subject::Backend(key) => &cluster.backends.get(key)?.value.metadata,
        Subject::Service(key) => &cluster.services.get(key)?.value.metadata,
        Subject::Route(id) => &cluster.route(id)?.value.metadata,
    };
    metadata.uid.clone()
}

/// The pods behind these endpoints (`ADDRESS:PORT`), as far as EndpointSlices tell.
pub(crate) fn pods_of(cluster: &Cluster, endpoints: &BTreeSet<&str>) -> BTreeMap<String, String> {
    // One address may have several endpoints, on ports of its own.
    let mut wanted: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for text in endpoints {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            wanted.entry(socket.ip().to_string()).or_default().push(text);
        }
    }
    let mut pods = BTreeMap::new();
    if wanted.is_empty() {
        return pods;
    }
    let slices = cluster.endpoint_slices.values().flat_map(|slice| slice.value.endpoints.iter().flatten());
    for endpoint in slices {
        let Some(target) =
            endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"))
        else {
            continue;
        };
        let Some(name) = &target.name else { continue };
        for address in &endpoint.addresses {
            for text in wanted.get(address).into_iter().flatten() {
                pods.insert((*text).to_owned(), name.clone());
            }
        }
    }
    pods
}
