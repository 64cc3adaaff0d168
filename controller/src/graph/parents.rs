//! Routes: bound to the listeners of their parents.

use std::ops::Range;

use gateway_api::apis::experimental::gateways::GatewayListeners;
use gateway_api::apis::experimental::httproutes::{HttpRoute, HttpRouteParentRefs};
use understudy_conf::Hostname;

use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::ListenerNode;
use crate::graph::gateway::GatewayNode;
use crate::graph::http_route::{AttachmentNode, Resolver};
use crate::graph::listener_sets::{SetNode, gateway_of};
use crate::watch::{GATEWAY_API, Kind, ObjectId, nearest};

/// What came of one of a route's parents, where it is a Gateway that is served here or a ListenerSet of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParentNode {
    /// Its place in `spec.parentRefs`.
    pub(crate) index: usize,
    pub(crate) gateway: Key,
    /// The ListenerSet, if it is one.
    pub(crate) set: Option<Key>,
    /// The listeners that count the route as attached, served or not, by their places among the Gateway's shapes.
    pub(crate) listeners: Vec<usize>,
    /// Why nothing of the route is served by this parent.
    pub(crate) refusal: Option<Box<Diagnostic>>,
}

impl Resolver<'_> {
    /// Binds a route to every listener that it names and that takes it; says what came of each parent.
    pub(super) fn bind_parents(
        &self,
        route: &Object<HttpRoute>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> (Vec<AttachmentNode>, Vec<ParentNode>) {
        if route.value.spec.use_default_gateways.is_some() {
            let place = route.at("spec.useDefaultGateways");
            diagnostics.push(reasons::not_acting(&place, "the field does not act yet"));
        }
        let parents = route.value.spec.parent_refs.as_deref().unwrap_or_default();
        if parents.is_empty() {
            diagnostics.push(reasons::no_parents(&route.at("spec.parentRefs")));
        }
        let mut attachments: Vec<AttachmentNode> = Vec::new();
        let mut outcomes = Vec::new();
        for (index, parent) in parents.iter().enumerate() {
            let field = format!("spec.parentRefs[{index}]");
            let bound = self.bind_parent(route, parent, &field);
            if let Some(owner) = self.served_parent(route, parent) {
                let listeners = self.count_listeners(route, parent, &owner);
                let refusal = bound.as_ref().err().cloned();
                let (gateway, set) = (owner.gateway.clone(), owner.set.map(|set| set.key.clone()));
                outcomes.push(ParentNode { index, gateway, set, listeners, refusal });
            }
            match bound {
                Ok(bound) => {
                    for one in bound {
                        let same = |known: &&mut AttachmentNode| {
                            known.gateway == one.gateway && known.listener == one.listener
                        };
                        if attachments.iter_mut().find(same).is_none() {
                            attachments.push(one);
                        }
                    }
                }
                Err(diagnostic) => diagnostics.push(*diagnostic),
            }
        }
        attachments.sort_by(|a, b| (&a.gateway, a.listener).cmp(&(&b.gateway, b.listener)));
        (attachments, outcomes)
    }

    /// The Gateway or ListenerSet that a parent names, if it is served here.
    fn served_parent(&self, route: &Object<HttpRoute>, parent: &HttpRouteParentRefs) -> Option<Owner<'_>> {
        let id = parent_id(route, parent)?;
        if id.kind == Kind::Gateway {
            let (gateway, node) = self.gateways.get_key_value(&id.key)?;
            return Some(Owner { gateway, node, set: None });
        }
        let object = self.cluster.listener_sets.get(&id.key)?;
        let (gateway, node) = self.gateways.get_key_value(&gateway_of(&id.key, &object.value.parent_ref)?)?;
        Some(Owner { gateway, node, set: Some(node.set(&id.key)?) })
    }

    /// The listeners that a route is attached to in Gateway API's sense, which does not ask whether they are served.
    fn count_listeners(
        &self,
        route: &Object<HttpRoute>,
        parent: &HttpRouteParentRefs,
        owner: &Owner<'_>,
    ) -> Vec<usize> {
        let counts = |shape: &crate::graph::ListenerShape| {
            parent.section_name.as_deref().is_none_or(|section| shape.name == section)
                && parent.port.is_none_or(|port| i32::from(shape.port) == port)
                && shape.allows_kind(route.kind)
                && shape.allows_namespace(self.cluster, &owner.key().namespace, &route.key.namespace)
                && intersect_hostnames(route, shape.hostname.as_ref()).is_some()
        };
        let places = owner.places();
        let shapes = owner.node.shapes.iter().enumerate().filter(|(index, _)| places.contains(index));
        shapes.filter(|(_, shape)| shape.as_ref().is_some_and(counts)).map(|(index, _)| index).collect()
    }

    fn bind_parent(
        &self,
        route: &Object<HttpRoute>,
        parent: &HttpRouteParentRefs,
        field: &str,
    ) -> Result<Vec<AttachmentNode>, Box<Diagnostic>> {
        let at = |name: &str| route.at(&format!("{field}.{name}"));
        let Some(id) = parent_id(route, parent) else {
            let group = parent.group.as_deref().unwrap_or(GATEWAY_API);
            let kind = parent.kind.as_deref().unwrap_or("Gateway");
            return Err(reasons::invalid_parent_kind(&at("kind"), group, kind).into());
        };
        let Some(listeners) = self.listeners_of(&id) else {
            let near = self.nearest_parent(&id);
            let refused = self.cluster.refused.get(&id);
            return Err(reasons::missing_parent(&at("name"), &id, near, refused).into());
        };
        let Some(owner) = self.served_parent(route, parent) else {
            return Err(reasons::parent_not_served(&at("name"), &id).into());
        };
        if let Some(set) = owner.set.filter(|set| set.shapes.is_none()) {
            return Err(reasons::parent_not_allowed(&at("name"), &set.key, owner.gateway).into());
        }
        let section = parent.section_name.as_deref();
        if let Some(section) = section
            && !listeners.iter().any(|listener| listener.name == section)
        {
            let near = nearest(section, listeners.iter().map(|listener| listener.name.as_str()));
            return Err(reasons::missing_listener(&at("sectionName"), &id, section, near).into());
        }
        let wanted: Vec<(usize, &ListenerNode)> = owner
            .node
            .listeners
            .iter()
            .enumerate()
            .filter(|(_, listener)| listener.shape.set.as_ref() == owner.set.map(|set| &set.key))
            .filter(|(_, listener)| section.is_none_or(|section| listener.shape.name == section))
            .filter(|(_, listener)| parent.port.is_none_or(|port| i32::from(listener.port) == port))
            .collect();
        if wanted.is_empty() {
            let asked = listeners.iter().any(|listener| {
                section.is_none_or(|section| listener.name == section)
                    && parent.port.is_none_or(|port| listener.port == port)
            });
            let place = if parent.port.is_some() { at("port") } else { at("name") };
            return Err(reasons::no_served_listener(&place, &id, asked).into());
        }
        let namespace = &route.key.namespace;
        let of_kind: Vec<_> =
            wanted.into_iter().filter(|(_, listener)| listener.shape.allows_kind(route.kind)).collect();
        if of_kind.is_empty() {
            return Err(reasons::kind_not_allowed_by_listeners(&at("name"), &id, route.kind).into());
        }
        let allowed: Vec<_> = of_kind
            .into_iter()
            .filter(|(_, listener)| {
                listener.shape.allows_namespace(self.cluster, &id.key.namespace, namespace)
            })
            .collect();
        if allowed.is_empty() {
            let kind = route.kind;
            return Err(reasons::not_allowed_by_listeners(&at("name"), &id, kind, namespace).into());
        }
        let bound: Vec<_> = allowed
            .into_iter()
            .filter_map(|(index, listener)| {
                let hostnames = intersect_hostnames(route, listener.hostname.as_ref())?;
                let (gateway, set) = (owner.gateway.clone(), listener.shape.set.clone());
                Some(AttachmentNode { gateway, set, listener: index, hostnames })
            })
            .collect();
        // A hostname that is none has its own error.
        let written = route.value.spec.hostnames.as_deref().unwrap_or_default();
        if bound.is_empty() && written.iter().all(|hostname| Hostname::new(hostname).is_ok()) {
            return Err(reasons::no_matching_hostname(&route.at("spec.hostnames"), &id).into());
        }
        Ok(bound)
    }

    /// The listeners of a Gateway or ListenerSet, as they are written; `None` if there is none of its name.
    fn listeners_of(&self, parent: &ObjectId) -> Option<&[GatewayListeners]> {
        let gateway = match parent.kind {
            Kind::ListenerSet => &self.cluster.listener_sets.get(&parent.key)?.value.as_gateway,
            _ => &self.cluster.gateways.get(&parent.key)?.value,
        };
        Some(&gateway.spec.listeners)
    }

    /// The name nearest to that of a parent that does not exist.
    fn nearest_parent(&self, parent: &ObjectId) -> Option<&str> {
        let all: Vec<&Key> = match parent.kind {
            Kind::ListenerSet => self.cluster.listener_sets.keys().collect(),
            _ => self.cluster.gateways.keys().collect(),
        };
        let beside = all.into_iter().filter(|known| known.namespace == parent.key.namespace);
        nearest(&parent.key.name, beside.map(|known| &*known.name))
    }
}

/// A parent that is served here.
struct Owner<'a> {
    gateway: &'a Key,
    node: &'a GatewayNode,
    /// The ListenerSet, if it is one.
    set: Option<&'a SetNode>,
}

impl Owner<'_> {
    /// The Gateway or the ListenerSet.
    fn key(&self) -> &Key {
        self.set.map_or(self.gateway, |set| &set.key)
    }

    /// Where its listeners stand among the Gateway's shapes.
    fn places(&self) -> Range<usize> {
        match self.set {
            None => 0..self.node.own,
            Some(set) => set.shapes.clone().unwrap_or(0..0),
        }
    }
}

/// The Gateway or ListenerSet that a parent means; `None` if it is something else.
pub(super) fn parent_id(route: &Object<HttpRoute>, parent: &HttpRouteParentRefs) -> Option<ObjectId> {
    if parent.group.as_deref().unwrap_or(GATEWAY_API) != GATEWAY_API {
        return None;
    }
    let kind = match parent.kind.as_deref().unwrap_or("Gateway") {
        "Gateway" => Kind::Gateway,
        "ListenerSet" => Kind::ListenerSet,
        _ => return None,
    };
    let namespace = parent.namespace.as_deref().unwrap_or(&route.key.namespace);
    Some(ObjectId { kind, key: Key::new(namespace, &parent.name) })
}

/// The hostnames that a route has on a listener; `None` if they have none in common.
fn intersect_hostnames(route: &Object<HttpRoute>, listener: Option<&Hostname>) -> Option<Vec<Hostname>> {
    let asked = route.value.spec.hostnames.as_deref().unwrap_or_default();
    if asked.is_empty() {
        return Some(listener.into_iter().cloned().collect());
    }
    let mut both = Vec::new();
    for hostname in asked.iter().filter_map(|hostname| Hostname::new(hostname).ok()) {
        let shared = match listener {
            None => Some(hostname),
            Some(of_listener) => of_listener.intersect(&hostname),
        };
        both.extend(shared.filter(|shared| !both.contains(shared)));
    }
    (!both.is_empty()).then_some(both)
}
