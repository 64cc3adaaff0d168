//! ListenerSet: listeners that are merged into a Gateway's.
//!
//! Precedence is Gateway API's: the Gateway's own listeners, then those of its ListenerSets by age, then by name.

use std::collections::BTreeMap;
use std::ops::Range;

use gateway_api::apis::experimental::gateways::{
    Gateway, GatewayAllowedListenersNamespacesFrom as From, GatewayAllowedListenersNamespacesSelector,
};
use gateway_api::apis::standard::listenersets::ListenerSetParentRef;
use understudy_crds::{LabelRequirement, TargetLabels};

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::gateway::GatewayNode;
use crate::graph::listeners::{ListenerNode, namespace_labels};
use crate::watch::{GATEWAY_API, Kind, ListenerSet, ObjectId, nearest};

/// A ListenerSet that names a Gateway which is served.
#[derive(Debug, PartialEq)]
pub(crate) struct SetNode {
    pub(crate) key: Key,
    /// Where its listeners stand among the Gateway's shapes; `None` where the Gateway does not allow it.
    pub(crate) shapes: Option<Range<usize>>,
}

/// A Gateway, or one of its ListenerSets in the words of a Gateway.
pub(crate) struct Part {
    /// The ListenerSet; `None` for the Gateway itself.
    pub(crate) set: Option<Key>,
    pub(crate) object: Object<Gateway>,
}

/// The ListenerSets of each Gateway, in the order of their precedence.
pub(super) type Sets<'a> = BTreeMap<Key, Vec<&'a Object<ListenerSet>>>;

/// Finds the Gateway that each ListenerSet names; says which is none.
pub(super) fn sets_by_gateway<'a>(cluster: &'a Cluster, diagnostics: &mut Vec<Diagnostic>) -> Sets<'a> {
    let mut sets: Sets<'_> = BTreeMap::new();
    for set in cluster.listener_sets.values() {
        match resolve_gateway(cluster, set) {
            Ok(gateway) => sets.entry(gateway).or_default().push(set),
            Err(diagnostic) => diagnostics.push(*diagnostic),
        }
    }
    for of_gateway in sets.values_mut() {
        of_gateway.sort_by(|a, b| a.seniority().cmp(&b.seniority()));
    }
    sets
}

/// The Gateway that a ListenerSet names; `None` where it names something else.
pub(super) fn gateway_of(key: &Key, parent: &ListenerSetParentRef) -> Option<Key> {
    let group = parent.group.as_deref().unwrap_or(GATEWAY_API);
    let kind = parent.kind.as_deref().unwrap_or("Gateway");
    let namespace = parent.namespace.as_deref().unwrap_or(&key.namespace);
    ((group, kind) == (GATEWAY_API, "Gateway")).then(|| Key::new(namespace, &parent.name))
}

fn resolve_gateway(cluster: &Cluster, set: &Object<ListenerSet>) -> Result<Key, Box<Diagnostic>> {
    let at = |field: &str| set.at(&format!("spec.parentRef.{field}"));
    let parent = &set.value.parent_ref;
    let Some(key) = gateway_of(&set.key, parent) else {
        let (group, kind) = (parent.group.as_deref(), parent.kind.as_deref().unwrap_or("Gateway"));
        return Err(reasons::invalid_set_parent(&at("kind"), group.unwrap_or(GATEWAY_API), kind).into());
    };
    let id = ObjectId { kind: Kind::Gateway, key: key.clone() };
    if !cluster.gateways.contains_key(&key) {
        let known = cluster.gateways.keys().filter(|known| known.namespace == key.namespace);
        let near = nearest(&key.name, known.map(|known| &*known.name));
        let refused = cluster.refused.get(&id);
        return Err(reasons::missing_parent(&at("name"), &id, near, refused).into());
    }
    Ok(key)
}

/// The parts of a Gateway, itself first, and what came of each of its ListenerSets. Where the listeners of these stand
/// follows from the parts, of which each has a shape for each of its listeners.
pub(super) fn build_parts(
    cluster: &Cluster,
    gateway: &Object<Gateway>,
    sets: &[&Object<ListenerSet>],
    diagnostics: &mut Vec<Diagnostic>,
) -> (Vec<Part>, Vec<SetNode>) {
    let mut parts = vec![Part { set: None, object: gateway.clone() }];
    let mut nodes = Vec::new();
    let mut shapes = gateway.value.spec.listeners.len();
    for set in sets {
        let key = set.key.clone();
        if !allows(cluster, gateway, &key.namespace) {
            let place = set.at("spec.parentRef.name");
            diagnostics.push(reasons::listener_set_not_allowed(&place, &gateway.key, &key.namespace));
            nodes.push(SetNode { key, shapes: None });
            continue;
        }
        let first = shapes;
        shapes += set.value.as_gateway.spec.listeners.len();
        nodes.push(SetNode { key: key.clone(), shapes: Some(first..shapes) });
        parts.push(Part { set: Some(key), object: set.as_gateway() });
    }
    (parts, nodes)
}

/// The object that a listener stands in.
pub(super) fn part_of<'a>(parts: &'a [Part], listener: &ListenerNode) -> &'a Object<Gateway> {
    let part = parts.iter().find(|part| part.set == listener.shape.set);
    // Every listener was built from one of them, and the first is the Gateway.
    &part.unwrap_or(&parts[0]).object
}

/// Whether a Gateway takes ListenerSets of a namespace. Without a word about it, it takes none.
fn allows(cluster: &Cluster, gateway: &Object<Gateway>, namespace: &str) -> bool {
    let allowed = gateway.value.spec.allowed_listeners.as_ref();
    let Some(namespaces) = allowed.and_then(|allowed| allowed.namespaces.as_ref()) else { return false };
    match namespaces.from {
        None | Some(From::None) => false,
        Some(From::All) => true,
        Some(From::Same) => *gateway.key.namespace == *namespace,
        Some(From::Selector) => namespaces
            .selector
            .as_ref()
            .is_some_and(|selector| target_labels(selector).matches(&namespace_labels(cluster, namespace))),
    }
}

fn target_labels(selector: &GatewayAllowedListenersNamespacesSelector) -> TargetLabels {
    let requirements = selector.match_expressions.iter().flatten().map(|expression| LabelRequirement {
        key: expression.key.clone(),
        operator: expression.operator.clone(),
        values: expression.values.clone(),
    });
    let requirements: Vec<_> = requirements.collect();
    TargetLabels {
        match_labels: selector.match_labels.clone(),
        match_expressions: (!requirements.is_empty()).then_some(requirements),
    }
}

impl GatewayNode {
    /// A ListenerSet that names this Gateway.
    pub(crate) fn set(&self, key: &Key) -> Option<&SetNode> {
        self.sets.iter().find(|set| set.key == *key)
    }
}
