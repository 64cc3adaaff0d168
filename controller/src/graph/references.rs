//! Which Secrets and ConfigMaps are referred to by something that may refer to them.

use std::collections::BTreeSet;

use crate::CONTROLLER_NAME;
use crate::cluster::{Cluster, Key};
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId};

/// The Secrets and ConfigMaps whose contents the graph asks for.
pub(crate) fn referenced_contents(cluster: &Cluster) -> BTreeSet<ObjectId> {
    let mut found = BTreeSet::new();
    let mut add = |from: &Referrer<'_>, kind: &str, namespace: Option<&str>, name: &str| {
        let kind_known = match kind {
            "Secret" => Kind::Secret,
            "ConfigMap" => Kind::ConfigMap,
            _ => return,
        };
        let key = Key::new(namespace.unwrap_or(from.namespace), name);
        if is_permitted(cluster, from, "", kind, &key) {
            found.insert(ObjectId { kind: kind_known, key });
        }
    };
    for gateway in cluster.gateways.values() {
        let class = cluster.gateway_classes.get(&Key::new("", &gateway.value.spec.gateway_class_name));
        if class.is_none_or(|class| class.value.spec.controller_name != CONTROLLER_NAME) {
            continue;
        }
        let from = Referrer { group: GATEWAY_API, kind: "Gateway", namespace: &gateway.key.namespace };
        let listeners = gateway.value.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        for reference in listeners.filter_map(|tls| tls.certificate_refs.as_ref()).flatten() {
            let kind = reference.kind.as_deref().unwrap_or("Secret");
            add(&from, kind, reference.namespace.as_deref(), &reference.name);
        }
    }
    for backend in cluster.backends.values() {
        let Some(tls) = &backend.value.spec.tls else { continue };
        let from = Referrer { group: ENVOY, kind: "Backend", namespace: &backend.key.namespace };
        for reference in tls.ca_certificate_refs.iter().flatten() {
            add(&from, &reference.kind, None, &reference.name);
        }
        if let Some(reference) = &tls.client_certificate_ref {
            add(&from, "Secret", reference.namespace.as_deref(), &reference.name);
        }
    }
    for policy in cluster.backend_tls_policies.values() {
        let from =
            Referrer { group: GATEWAY_API, kind: "BackendTLSPolicy", namespace: &policy.key.namespace };
        for reference in policy.value.spec.validation.ca_certificate_refs.iter().flatten() {
            add(&from, &reference.kind, None, &reference.name);
        }
    }
    found
}
