//! HTTPRoute: bound to listeners, with its references resolved.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use gateway_api::apis::experimental::httproutes::{
    HttpRoute, HttpRouteParentRefs, HttpRouteRulesBackendRefs,
};
use understudy_conf::{
    BackendName, Hostname, HttpFilter, HttpMatch, Priority, Redirect, Retry, RuleTimeouts, Weight,
};

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Reason, reasons};
use crate::graph::backend_tls_policy::find_tls_policy;
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::graph::rules::{BuiltRule, Outcome, build_rules};
use crate::graph::{BackendNode, GatewayNode, ListenerNode, ServiceBackend, service};
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId, nearest};

/// A route that is attached to at least one listener.
#[derive(Debug)]
pub(crate) struct RouteNode {
    pub(crate) key: Key,
    pub(crate) created: i64,
    pub(crate) attachments: Vec<AttachmentNode>,
    pub(crate) rules: Vec<RuleNode>,
}

/// A route on a listener.
#[derive(Debug, Clone)]
pub(crate) struct AttachmentNode {
    pub(crate) gateway: Key,
    /// The listener's place among the gateway's.
    pub(crate) listener: usize,
    pub(crate) hostnames: Vec<Hostname>,
}

/// A rule with its references.
#[derive(Debug)]
pub(crate) struct RuleNode {
    /// Its place in the route, which names its pool.
    pub(crate) index: usize,
    pub(crate) name: Option<String>,
    pub(crate) matches: Vec<HttpMatch>,
    pub(crate) filters: Vec<HttpFilter>,
    pub(crate) timeouts: Option<RuleTimeouts>,
    pub(crate) retry: Option<Retry>,
    pub(crate) action: RuleAction,
}

/// What a rule does.
#[derive(Debug)]
pub(crate) enum RuleAction {
    Redirect(Redirect),
    Forward(Vec<RefNode>),
    Respond(u16),
}

/// A reference of a rule.
#[derive(Debug)]
pub(crate) struct RefNode {
    pub(crate) target: RefTargetNode,
    pub(crate) priority: Priority,
    pub(crate) weight: Weight,
    pub(crate) filters: Vec<HttpFilter>,
}

/// What a reference refers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RefTargetNode {
    Backend(Key),
    Service(BackendName),
    /// Nothing that can be served; the text says why.
    Invalid(String),
}

/// Follows the references of routes.
pub(crate) struct Resolver<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) gateways: &'a BTreeMap<Key, GatewayNode>,
    pub(crate) backends: &'a BTreeMap<Key, BackendNode>,
}

impl Resolver<'_> {
    /// Builds a route; `None` if it is attached to nothing.
    pub(crate) fn build_route(
        &self,
        route: &Object<HttpRoute>,
        services: &mut BTreeMap<String, ServiceBackend>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<RouteNode> {
        let attachments = self.bind_parents(route, diagnostics);
        let mut rules = Vec::new();
        for (index, rule) in build_rules(route).0.into_iter().enumerate() {
            rules.extend(self.build_rule(route, index, rule, services, diagnostics));
        }
        if attachments.is_empty() {
            return None;
        }
        Some(RouteNode { key: route.key.clone(), created: route.created, attachments, rules })
    }

    fn bind_parents(
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

    fn build_rule(
        &self,
        route: &Object<HttpRoute>,
        index: usize,
        built: BuiltRule,
        services: &mut BTreeMap<String, ServiceBackend>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<RuleNode> {
        let field = format!("spec.rules[{index}]");
        let Some(matches) = built.matches else {
            diagnostics.push(reasons::rule_left_out(&route.at(&field)));
            return None;
        };
        let action = match built.outcome {
            Outcome::Redirect(redirect) => RuleAction::Redirect(redirect),
            Outcome::Refused => RuleAction::Respond(500),
            Outcome::Forward(filters) => {
                let rules = route.value.spec.rules.as_deref().unwrap_or_default();
                let refs = rules.get(index).and_then(|rule| rule.backend_refs.as_deref()).unwrap_or_default();
                let refs: Vec<_> = refs
                    .iter()
                    .zip(filters)
                    .enumerate()
                    .map(|(number, (reference, filters))| {
                        let field = format!("{field}.backendRefs[{number}]");
                        self.build_ref(route, reference, &field, filters, services, diagnostics)
                    })
                    .collect();
                if refs.is_empty() {
                    diagnostics.push(reasons::no_backend_refs(&route.at(&format!("{field}.backendRefs"))));
                    RuleAction::Respond(500)
                } else {
                    RuleAction::Forward(refs)
                }
            }
        };
        let BuiltRule { name, filters, timeouts, retry, .. } = built;
        Some(RuleNode { index, name, matches, filters, timeouts, retry, action })
    }

    fn build_ref(
        &self,
        route: &Object<HttpRoute>,
        reference: &HttpRouteRulesBackendRefs,
        field: &str,
        filters: Option<Vec<HttpFilter>>,
        services: &mut BTreeMap<String, ServiceBackend>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> RefNode {
        let weight = Weight::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
        let mut target =
            self.resolve_ref(route, reference, field, services, diagnostics).unwrap_or_else(|diagnostic| {
                let text = diagnostic.message.clone();
                diagnostics.push(*diagnostic);
                RefTargetNode::Invalid(text)
            });
        // A reference keeps its rank even if it is invalid: an invalid fallback must not become a primary.
        let priority = self.rank_of(route, reference);
        if filters.is_none() {
            target = RefTargetNode::Invalid("a filter of the reference cannot act".to_owned());
        }
        RefNode { target, priority, weight, filters: filters.unwrap_or_default() }
    }

    fn rank_of(&self, route: &Object<HttpRoute>, reference: &HttpRouteRulesBackendRefs) -> Priority {
        if reference.group.as_deref() != Some(ENVOY) || reference.kind.as_deref() != Some("Backend") {
            return 0;
        }
        let key = ref_key(route, reference);
        let fallback = match self.backends.get(&key) {
            Some(node) => node.fallback,
            None => {
                let id = ObjectId { kind: Kind::Backend, key };
                self.cluster.refused.get(&id).is_some_and(|refused| refused.fallback)
            }
        };
        Priority::from(fallback)
    }

    fn resolve_ref(
        &self,
        route: &Object<HttpRoute>,
        reference: &HttpRouteRulesBackendRefs,
        field: &str,
        services: &mut BTreeMap<String, ServiceBackend>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<RefTargetNode, Box<Diagnostic>> {
        let at = |name: &str| route.at(&format!("{field}.{name}"));
        let group = reference.group.as_deref().unwrap_or("");
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let key = ref_key(route, reference);
        if !matches!((group, kind), ("", "Service") | (ENVOY, "Backend")) {
            return Err(reasons::invalid_ref_kind(&at("kind"), group, kind).into());
        }
        let from = Referrer { group: GATEWAY_API, kind: "HTTPRoute", namespace: &route.key.namespace };
        if !is_permitted(self.cluster, &from, group, kind, &key) {
            return Err(reasons::ref_not_permitted(&at("namespace"), &from, group, kind, &key).into());
        }
        if kind == "Backend" {
            return self.resolve_backend(&key, &at("name"));
        }
        let Some(service) = self.cluster.services.get(&key) else {
            let known = self.cluster.services.keys();
            return Err(self.not_found(&at("name"), Kind::Service, &key, known).into());
        };
        if service::is_external_name(&service.value) {
            return Err(reasons::external_name_service(&at("name"), &key).into());
        }
        let Some(port) = reference.port.and_then(|port| u16::try_from(port).ok()) else {
            return Err(reasons::port_not_specified(&at("port"), &key).into());
        };
        let Some(service_port) = service::find_port(&service.value, port) else {
            let ports = service.value.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let tcp = ports.filter(|port| port.protocol.as_deref().unwrap_or("TCP") == "TCP");
            let ports: Vec<_> = tcp.map(|port| port.port).collect();
            return Err(reasons::port_not_found(&at("port"), &key, port, &ports).into());
        };
        if let Some(policy) = find_tls_policy(self.cluster, "", "Service", &key) {
            return Err(reasons::service_needs_tls(&at("name"), &key, &policy.label).into());
        }
        let name = format!("service/{}/{}/{port}", key.namespace, key.name);
        let backend = BackendName::new(&name).map_err(|error| {
            Box::new(reasons::invalid(&at("name"), error.to_string(), "Use shorter names."))
        })?;
        if let Entry::Vacant(entry) = services.entry(name) {
            let slices = self.cluster.slices_of(&key);
            let protocol = service::protocol_of(service_port);
            if slices.is_empty() {
                diagnostics.push(reasons::service_without_slices(&at("name"), &key));
            }
            if protocol == understudy_conf::UpstreamProtocol::H2c {
                diagnostics.push(reasons::not_acting(
                    &service.at("spec.ports"),
                    "HTTP/2 is not spoken to backends yet",
                ));
            }
            let endpoints = service::resolve_endpoints(&slices, service_port);
            entry.insert(ServiceBackend { protocol, endpoints });
        }
        Ok(RefTargetNode::Service(backend))
    }

    fn resolve_backend(
        &self,
        key: &Key,
        place: &crate::diagnostics::Place,
    ) -> Result<RefTargetNode, Box<Diagnostic>> {
        match self.backends.get(key) {
            None => Err(self.not_found(place, Kind::Backend, key, self.cluster.backends.keys()).into()),
            Some(node) => match &node.endpoints {
                Ok(_) => Ok(RefTargetNode::Backend(key.clone())),
                Err(unusable) if unusable.reason == Reason::Invalid => {
                    Err(reasons::invalid_backend(place, unusable).into())
                }
                Err(unusable) => {
                    Err(place.error(unusable.reason, &unusable.message, &unusable.remedy).into())
                }
            },
        }
    }

    fn not_found<'k>(
        &self,
        place: &crate::diagnostics::Place,
        kind: Kind,
        key: &Key,
        known: impl Iterator<Item = &'k Key>,
    ) -> Diagnostic {
        if let Some(refused) = self.cluster.refused.get(&ObjectId { kind, key: key.clone() }) {
            return reasons::backend_refused(place, kind, key, &refused.location);
        }
        let near = nearest(
            &key.name,
            known.filter(|other| other.namespace == key.namespace).map(|other| &*other.name),
        );
        reasons::backend_not_found(place, kind, key, near)
    }
}

fn ref_key(route: &Object<HttpRoute>, reference: &HttpRouteRulesBackendRefs) -> Key {
    Key::new(reference.namespace.as_deref().unwrap_or(&route.key.namespace), &reference.name)
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
