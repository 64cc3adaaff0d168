//! Which Secrets and ConfigMaps are referred to by something that may refer to them.

use std::collections::BTreeSet;

use gateway_api::apis::experimental::gatewayclasses::GatewayClass;
use gateway_api::apis::experimental::gateways::Gateway;

use crate::CONTROLLER_NAME;
use crate::cluster::{Cluster, Key, Object};
use crate::graph::gateway_class::is_ours;
use crate::graph::gateway_tls::references_of;
use crate::graph::listener_sets::gateway_of;
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::{ENVOY, GATEWAY_API, Kind, ObjectId};

/// The Secrets and ConfigMaps whose contents the graph asks for.
pub(crate) fn referenced_contents(cluster: &Cluster) -> BTreeSet<ObjectId> {
    let classes = cluster.gateway_classes.values().filter(|class| is_ours(class));
    let mut found: BTreeSet<ObjectId> = classes.filter_map(|class| parameters_of(class)).collect();
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
        let infrastructure = gateway.value.spec.infrastructure.as_ref();
        if let Some(parameters) = infrastructure.and_then(|found| found.parameters_ref.as_ref())
            && (parameters.group.as_str(), parameters.kind.as_str()) == ("", "ConfigMap")
        {
            add(&from, "ConfigMap", None, &parameters.name);
        }
        add_certificates(&gateway.value, &from, &mut add);
        for (kind, namespace, name) in references_of(&gateway.value) {
            add(&from, kind, namespace, name);
        }
    }
    for set in cluster.listener_sets.values() {
        // Only what a Gateway of ours may show has to be known here.
        let gateway = gateway_of(&set.key, &set.value.parent_ref).and_then(|key| cluster.gateways.get(&key));
        let class = gateway.and_then(|gateway| {
            cluster.gateway_classes.get(&Key::new("", &gateway.value.spec.gateway_class_name))
        });
        if class.is_some_and(|class| class.value.spec.controller_name == CONTROLLER_NAME) {
            let from = Referrer { group: GATEWAY_API, kind: "ListenerSet", namespace: &set.key.namespace };
            add_certificates(&set.value.as_gateway, &from, &mut add);
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

/// Adds the certificates of listeners.
fn add_certificates(
    gateway: &Gateway,
    from: &Referrer<'_>,
    add: &mut impl FnMut(&Referrer<'_>, &str, Option<&str>, &str),
) {
    let listeners = gateway.spec.listeners.iter().filter_map(|listener| listener.tls.as_ref());
    for reference in listeners.filter_map(|tls| tls.certificate_refs.as_ref()).flatten() {
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        add(from, kind, reference.namespace.as_deref(), &reference.name);
    }
}

/// The ConfigMap that says how the Gateways of a class are reached. Whoever writes a class may name any: it is nobody's
/// namespace.
fn parameters_of(class: &Object<GatewayClass>) -> Option<ObjectId> {
    let reference = class.value.spec.parameters_ref.as_ref()?;
    let is_config_map = reference.group.is_empty() && reference.kind == "ConfigMap";
    let key = Key::new(reference.namespace.as_deref()?, &reference.name);
    is_config_map.then_some(ObjectId { kind: Kind::ConfigMap, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::load::{Loader, Settling};

    #[test]
    fn what_the_tls_of_a_gateway_refers_to_is_asked_for() {
        let text = format!(
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: ours}}
spec: {{controllerName: {CONTROLLER_NAME}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: eg, namespace: a}}
spec:
  gatewayClassName: ours
  tls:
    backend: {{clientCertificateRef: {{name: shown}}}}
    frontend:
      default: {{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: all}}, {{group: '', kind: ConfigMap, name: not-granted, namespace: b}}]}}}}
      perPort: [{{port: 443, tls: {{validation: {{caCertificateRefs: [{{group: core, kind: Secret, name: one}}, {{group: x, kind: Secret, name: other}}]}}}}}}]
  listeners: [{{name: http, protocol: HTTP, port: 80}}]
"
        );
        let mut loader = Loader::default();
        loader.take_stdin(Ok(text));
        loader.refresh(&[Source::Stdin], Settling::TakeAll);
        let asked = referenced_contents(&loader.load().cluster);
        let expected = [(Kind::ConfigMap, "all"), (Kind::Secret, "one"), (Kind::Secret, "shown")];
        let expected: BTreeSet<_> =
            expected.into_iter().map(|(kind, name)| ObjectId { kind, key: Key::new("a", name) }).collect();
        assert_eq!(asked, expected);
    }

    #[test]
    fn the_parameters_of_our_classes_are_asked_for() {
        let class = |name: &str, controller: &str, kind: &str| {
            format!(
                "---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: {name}}}
spec:
  controllerName: {controller}
  parametersRef: {{group: '', kind: {kind}, name: {name}, namespace: understudy-system}}
"
            )
        };
        let text = class("ours", CONTROLLER_NAME, "ConfigMap")
            + &class("secret", CONTROLLER_NAME, "Secret")
            + &class("theirs", "example.com/controller", "ConfigMap");
        let mut loader = Loader::default();
        loader.take_stdin(Ok(text));
        loader.refresh(&[Source::Stdin], Settling::TakeAll);
        let asked: Vec<ObjectId> = referenced_contents(&loader.load().cluster).into_iter().collect();
        let key = Key::new("understudy-system", "ours");
        assert_eq!(asked, [ObjectId { kind: Kind::ConfigMap, key }]);
    }
}
