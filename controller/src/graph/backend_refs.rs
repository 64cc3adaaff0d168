//! Routes: the references of their rules.

use gateway_api::apis::experimental::httproutes::{HttpRoute, HttpRouteRulesBackendRefs};
use understudy_conf::{BackendName, Priority, UpstreamProtocol, Weight};

use crate::addresses::Transport;
use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::backend_tls_policy::{TlsTarget, find_tls_policy, find_unreadable};
use crate::graph::filters::{BuiltFilters, MirrorSource};
use crate::graph::http_route::{MirrorNode, PortUse, RefNode, RefTargetNode, Resolver, Trace};
use crate::graph::reads::Reads;
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::graph::service;
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId, nearest};

impl Resolver<'_> {
    /// Builds a reference; one that cannot be followed stays as an invalid one.
    pub(super) fn build_ref(
        &self,
        route: &Object<HttpRoute>,
        reference: &HttpRouteRulesBackendRefs,
        field: &str,
        filters: Option<BuiltFilters>,
        trace: &mut Trace,
    ) -> RefNode {
        let weight = Weight::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
        let mut target = self.resolve_ref(route, reference, field, trace).unwrap_or_else(|diagnostic| {
            let text = diagnostic.message.clone();
            trace.diagnostics.push(*diagnostic);
            RefTargetNode::Invalid(text)
        });
        // A reference keeps its rank even if it is invalid: an invalid fallback must not become a primary.
        let priority = self.rank_of(route, reference, &mut trace.reads);
        if filters.is_none() {
            target = RefTargetNode::Invalid("a filter of the reference cannot act".to_owned());
        }
        let BuiltFilters { filters, mirrors, .. } = filters.unwrap_or_default();
        let mirrors = self.build_mirrors(route, mirrors, field, trace);
        RefNode { target, priority, weight, filters, mirrors }
    }

    /// Follows the references of mirrors. One that cannot be followed is said and left out: requests go on without.
    pub(super) fn build_mirrors(
        &self,
        route: &Object<HttpRoute>,
        mirrors: Vec<MirrorSource>,
        field: &str,
        trace: &mut Trace,
    ) -> Vec<MirrorNode> {
        let mut built = Vec::new();
        for MirrorSource { field: own, reference, numerator, denominator } in mirrors {
            match self.resolve_ref(route, &reference, &format!("{field}.{own}"), trace) {
                Ok(target) => built.push(MirrorNode { target, numerator, denominator }),
                Err(mut diagnostic) => {
                    diagnostic.message.push_str("; nothing is mirrored to it, and requests go on");
                    trace.diagnostics.push(*diagnostic);
                }
            }
        }
        built
    }

    fn rank_of(
        &self,
        route: &Object<HttpRoute>,
        reference: &HttpRouteRulesBackendRefs,
        reads: &mut Reads,
    ) -> Priority {
        if reference.group.as_deref() != Some(ENVOY) || reference.kind.as_deref() != Some("Backend") {
            return 0;
        }
        let key = ref_key(route, reference);
        reads.backend(&key);
        let fallback = match self.backends.get(&key) {
            Some(node) => node.fallback,
            None => {
                let id = ObjectId { kind: Kind::Backend, key };
                self.cluster.refused.get(&id).is_some_and(|refused| refused.remains.fallback)
            }
        };
        Priority::from(fallback)
    }

    fn resolve_ref(
        &self,
        route: &Object<HttpRoute>,
        reference: &HttpRouteRulesBackendRefs,
        field: &str,
        trace: &mut Trace,
    ) -> Result<RefTargetNode, Box<Diagnostic>> {
        let at = |name: &str| route.at(&format!("{field}.{name}"));
        let group = reference.group.as_deref().unwrap_or("");
        let kind = reference.kind.as_deref().unwrap_or("Service");
        let key = ref_key(route, reference);
        if !matches!((group, kind), ("", "Service") | (ENVOY, "Backend")) {
            return Err(reasons::invalid_ref_kind(&at("kind"), group, kind).into());
        }
        let from =
            Referrer { group: GATEWAY_API, kind: route.kind.info().name, namespace: &route.key.namespace };
        if key.namespace != route.key.namespace {
            trace.reads.grants(&key.namespace);
        }
        if !is_permitted(self.cluster, &from, group, kind, &key) {
            return Err(reasons::ref_not_permitted(&at("namespace"), &from, group, kind, &key).into());
        }
        if kind == "Backend" {
            return self.resolve_backend(route.kind, &key, &at("name"), &mut trace.reads);
        }
        trace.reads.service(&key);
        let Some(service) = self.cluster.services.get(&key) else {
            trace.reads.services_in(&key.namespace);
            let known = self.cluster.services.keys();
            return Err(self.not_found(&at("name"), Kind::Service, &key, known).into());
        };
        if service::is_external_name(&service.value) {
            return Err(reasons::external_name_service(&at("name"), &key).into());
        }
        let Some(port) = reference.port.and_then(|port| u16::try_from(port).ok()) else {
            return Err(reasons::port_not_specified(&at("port"), &key).into());
        };
        let transport = if route.kind == Kind::UdpRoute { Transport::Udp } else { Transport::Tcp };
        let Some(service_port) = service::find_port(&service.value, transport, port) else {
            let ports = service.value.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let alike = ports.filter(|port| transport.is_of(port.protocol.as_deref()));
            let ports: Vec<_> = alike.map(|port| port.port).collect();
            let found = reasons::port_not_found(&at("port"), &key, transport.as_str(), port, &ports);
            return Err(found.into());
        };
        let is_plain = service::protocol_of(service_port) == UpstreamProtocol::Http1;
        let is_h2 = route.kind == Kind::GrpcRoute && is_plain;
        let section = service_port.name.as_deref().or(Some(""));
        let target = TlsTarget { group: "", kind: "Service", key: &key, section };
        let tls = match find_tls_policy(self.cluster, target) {
            // There is no TLS over datagrams.
            _ if transport == Transport::Udp => None,
            None => match find_unreadable(self.cluster, &target) {
                None => None,
                Some(policy) => {
                    return Err(reasons::service_needs_tls(&at("name"), &key, &policy.to_string()).into());
                }
            },
            Some(policy) => {
                trace.reads.contents();
                match self.tls.resolve_policy(policy, None, &mut trace.diagnostics) {
                    Some(tls) => Some(tls),
                    None => return Err(reasons::service_needs_tls(&at("name"), &key, &policy.label).into()),
                }
            }
        };
        let variant = match (transport, is_h2) {
            (Transport::Udp, _) => "@udp",
            (Transport::Tcp, true) => "@h2c",
            (Transport::Tcp, false) => "",
        };
        let name = format!("service/{}/{}/{port}{variant}", key.namespace, key.name);
        let backend = BackendName::new(&name).map_err(|error| {
            Box::new(reasons::invalid(&at("name"), error.to_string(), "Use shorter names."))
        })?;
        if trace.ports.iter().all(|known| known.name != backend) {
            let (name, field) = (backend.clone(), field.to_owned());
            trace.ports.push(PortUse { name, service: key, port, transport, is_h2, tls, field });
        }
        Ok(RefTargetNode::Service(backend))
    }

    fn resolve_backend(
        &self,
        kind: Kind,
        key: &Key,
        place: &Place,
        reads: &mut Reads,
    ) -> Result<RefTargetNode, Box<Diagnostic>> {
        reads.backend(key);
        match self.backends.get(key) {
            None => {
                reads.backends_in(&key.namespace);
                Err(self.not_found(place, Kind::Backend, key, self.cluster.backends.keys()).into())
            }
            Some(node) => match &node.endpoints {
                Ok(_) => {
                    if node.is_shown_certificate() {
                        reads.shown_certificate(key);
                    }
                    let of_calls = kind == Kind::GrpcRoute && node.protocol == UpstreamProtocol::Http1;
                    let key = key.clone();
                    Ok(if of_calls { RefTargetNode::H2Backend(key) } else { RefTargetNode::Backend(key) })
                }
                Err(unusable) => Err(reasons::unusable_backend(place, unusable).into()),
            },
        }
    }

    fn not_found<'k>(
        &self,
        place: &Place,
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
