//! HTTPRoute: bound to the listeners of its parents.

use gateway_api::apis::experimental::httproutes::{HttpRoute, HttpRouteParentRefs};
use understudy_conf::Hostname;

use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::ListenerNode;
use crate::graph::http_route::{AttachmentNode, Resolver};
use crate::watch::{GATEWAY_API, Kind, ObjectId, nearest};

impl Resolver<'_> {
    /// Binds a route to every listener that it names and that takes it.
    pub(super) fn bind_parents(
        &self,
        route: &Object<HttpRoute>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Vec<AttachmentNode> {
        if route.value.spec.use_default_gateways.is_some() {
            let place = route.at("spec.useDefaultGateways");
            diagnostics.push(reasons::not_acting(&place, "the field does not act yet"));
        }
        let parents = route.value.spec.parent_refs.as_deref().unwrap_or_default();
        if parents.is_empty() {
            diagnostics.push(reasons::no_parents(&route.at("spec.parentRefs")));
        }
        let mut attachments: Vec<AttachmentNode> = Vec::new();
        for (index, parent) in parents.iter().enumerate() {
            let field = format!("spec.parentRefs[{index}]");
            match self.bind_parent(route, parent, &field) {
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
        attachments
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
        let allowed: Vec<_> = wanted
            .into_iter()
            .filter(|(_, listener)| {
                listener.http_routes && listener.allows_namespace(self.cluster, &key.namespace, namespace)
            })
            .collect();
        if allowed.is_empty() {
            return Err(reasons::not_allowed_by_listeners(&at("name"), &key, namespace).into());
        }
        let bound: Vec<_> = allowed
            .into_iter()
            .filter_map(|(index, listener)| {
                let hostnames = intersect_hostnames(route, listener)?;
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
fn intersect_hostnames(route: &Object<HttpRoute>, listener: &ListenerNode) -> Option<Vec<Hostname>> {
    let asked = route.value.spec.hostnames.as_deref().unwrap_or_default();
    if asked.is_empty() {
        return Some(listener.hostname.iter().cloned().collect());
    }
    let mut both = Vec::new();
    for hostname in asked.iter().filter_map(|hostname| Hostname::new(hostname).ok()) {
        let shared = match &listener.hostname {
            None => Some(hostname),
            Some(of_listener) => of_listener.intersect(&hostname),
        };
        both.extend(shared.filter(|shared| !both.contains(shared)));
    }
    (!both.is_empty()).then_some(both)
}
