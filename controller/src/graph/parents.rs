//! Routes: bound to the listeners of their parents.

use gateway_api::apis::experimental::httproutes::{HttpRoute, HttpRouteParentRefs};
use understudy_conf::Hostname;

use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::ListenerNode;
use crate::graph::gateway::GatewayNode;
use crate::graph::http_route::{AttachmentNode, Resolver};
use crate::watch::{GATEWAY_API, Kind, ObjectId, nearest};

/// What came of one of a route's parents, where it is a Gateway that is served here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParentNode {
    /// Its place in `spec.parentRefs`.
    pub(crate) index: usize,
    pub(crate) gateway: Key,
    /// The listeners that count the route as attached, served or not, by their places in the Gateway's spec.
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
            if let Some((gateway, node)) = self.served_gateway(route, parent) {
                let listeners = self.count_listeners(route, parent, gateway, node);
                let refusal = bound.as_ref().err().cloned();
                outcomes.push(ParentNode { index, gateway: gateway.clone(), listeners, refusal });
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

    /// The Gateway that a parent names, if it is served here.
    fn served_gateway(
        &self,
        route: &Object<HttpRoute>,
        parent: &HttpRouteParentRefs,
    ) -> Option<(&Key, &GatewayNode)> {
        let group = parent.group.as_deref().unwrap_or(GATEWAY_API);
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        let key = Key::new(parent.namespace.as_deref().unwrap_or(&route.key.namespace), &parent.name);
        self.gateways.get_key_value(&key).filter(|_| (group, kind) == (GATEWAY_API, "Gateway"))
    }

    /// The listeners that a route is attached to in Gateway API's sense, which does not ask whether they are served.
    fn count_listeners(
        &self,
        route: &Object<HttpRoute>,
        parent: &HttpRouteParentRefs,
        gateway: &Key,
        node: &GatewayNode,
    ) -> Vec<usize> {
        let counts = |shape: &crate::graph::ListenerShape| {
            parent.section_name.as_deref().is_none_or(|section| shape.name == section)
                && parent.port.is_none_or(|port| i32::from(shape.port) == port)
                && shape.allows_kind(route.kind)
                && shape.allows_namespace(self.cluster, &gateway.namespace, &route.key.namespace)
                && intersect_hostnames(route, shape.hostname.as_ref()).is_some()
        };
        let shapes = node.shapes.iter().enumerate();
        shapes.filter(|(_, shape)| shape.as_ref().is_some_and(counts)).map(|(index, _)| index).collect()
    }

    fn bind_parent(
        &self,
        route: &Object<HttpRoute>,
        parent: &HttpRouteParentRefs,
        field: &str,
    ) -> Result<Vec<AttachmentNode>, Box<Diagnostic>> {
        let at = |name: &str| route.at(&format!("{field}.{name}"));
        let group = parent.group.as_deref().unwrap_or(GATEWAY_API);
        let kind = parent.kind.as_deref().unwrap_or("Gateway");
        if (group, kind) != (GATEWAY_API, "Gateway") {
            return Err(reasons::invalid_parent_kind(&at("kind"), group, kind).into());
        }
        let key = Key::new(parent.namespace.as_deref().unwrap_or(&route.key.namespace), &parent.name);
        let Some(gateway) = self.cluster.gateways.get(&key) else {
            let same_namespace =
                self.cluster.gateways.keys().filter(|known| known.namespace == key.namespace);
            let near = nearest(&key.name, same_namespace.map(|known| &*known.name));
            let refused = self.cluster.refused.get(&ObjectId { kind: Kind::Gateway, key: key.clone() });
            return Err(reasons::missing_parent(&at("name"), &key, near, refused).into());
        };
        let Some(node) = self.gateways.get(&key) else {
            return Err(reasons::parent_not_served(&at("name"), &key).into());
        };
        let section = parent.section_name.as_deref();
        if let Some(section) = section
            && !gateway.value.spec.listeners.iter().any(|listener| listener.name == section)
        {
            let near =
                nearest(section, gateway.value.spec.listeners.iter().map(|listener| listener.name.as_str()));
            return Err(reasons::missing_listener(&at("sectionName"), &key, section, near).into());
        }
        let wanted: Vec<(usize, &ListenerNode)> = node
            .listeners
            .iter()
            .enumerate()
            .filter(|(_, listener)| section.is_none_or(|section| listener.name.as_str() == section))
            .filter(|(_, listener)| parent.port.is_none_or(|port| i32::from(listener.port) == port))
            .collect();
        if wanted.is_empty() {
            let asked = gateway.value.spec.listeners.iter().any(|listener| {
                section.is_none_or(|section| listener.name == section)
                    && parent.port.is_none_or(|port| listener.port == port)
            });
            let place = if parent.port.is_some() { at("port") } else { at("name") };
            return Err(reasons::no_served_listener(&place, &key, asked).into());
        }
        let namespace = &route.key.namespace;
        let of_kind: Vec<_> =
            wanted.into_iter().filter(|(_, listener)| listener.shape.allows_kind(route.kind)).collect();
        if of_kind.is_empty() {
            return Err(reasons::kind_not_allowed_by_listeners(&at("name"), &key, route.kind).into());
        }
        let allowed: Vec<_> = of_kind
            .into_iter()
            .filter(|(_, listener)| listener.shape.allows_namespace(self.cluster, &key.namespace, namespace))
            .collect();
        if allowed.is_empty() {
            let kind = route.kind;
            return Err(reasons::not_allowed_by_listeners(&at("name"), &key, kind, namespace).into());
        }
        let bound: Vec<_> = allowed
            .into_iter()
            .filter_map(|(index, listener)| {
                let hostnames = intersect_hostnames(route, listener.hostname.as_ref())?;
                Some(AttachmentNode { gateway: key.clone(), listener: index, hostnames })
            })
            .collect();
        // A hostname that is none has its own error.
        let written = route.value.spec.hostnames.as_deref().unwrap_or_default();
        if bound.is_empty() && written.iter().all(|hostname| Hostname::new(hostname).is_ok()) {
            return Err(reasons::no_matching_hostname(&route.at("spec.hostnames"), &key).into());
        }
        Ok(bound)
    }
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
