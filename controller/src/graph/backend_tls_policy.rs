//! BackendTLSPolicy: how Services and Backends are spoken to over TLS.

use std::sync::Arc;

use gateway_api::apis::standard::backendtlspolicies::{
    BackendTlsPolicy, BackendTlsPolicyTargetRefs, BackendTlsPolicyValidationSubjectAltNames,
    BackendTlsPolicyValidationSubjectAltNamesType as SanType,
};
use understudy_conf::{BackendTls, Hostname, SubjectAltName, Trust};
use understudy_crds::ObjectReference;

use crate::changes::Changes;
use crate::cluster::{Cluster, Key, Object, Objects};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::backend_tls::{TlsNode, TlsSource, canonical};
use crate::watch::{ENVOY, Kind, ObjectId, nearest};

/// What a policy may cover.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TlsTarget<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) key: &'a Key,
    /// The name of the Service's port; `None`: the whole object.
    pub(crate) section: Option<&'a str>,
}

/// The policy that covers a target, if one does: one for its section before one for the whole, then the older one.
pub(crate) fn find_tls_policy<'a>(
    cluster: &'a Cluster,
    target: TlsTarget<'_>,
) -> Option<&'a Object<BackendTlsPolicy>> {
    let covers = |reference: &BackendTlsPolicyTargetRefs| {
        let same = canonical_group(&reference.group) == target.group
            && reference.kind == target.kind
            && *reference.name == *target.key.name;
        match reference.section_name.as_deref().filter(|name| !name.is_empty()) {
            None => same.then_some(1),
            // A Backend's sections are its ports, of which a reference names none.
            Some(section) => (same && target.section.is_none_or(|own| own == section)).then_some(0),
        }
    };
    let policies = cluster.backend_tls_policies.values().map(AsRef::as_ref);
    policies
        .filter(|policy: &&Object<_>| policy.key.namespace == target.key.namespace)
        .filter_map(|policy| Some((policy.value.spec.target_refs.iter().filter_map(covers).min()?, policy)))
        .min_by_key(|(rank, policy)| (*rank, policy.seniority()))
        .map(|(_, policy)| policy)
}

/// A policy that may have been meant for a target and cannot be read. What it asks for is not known, so the target is
/// not served.
pub(crate) fn find_unreadable<'a>(cluster: &'a Cluster, target: &TlsTarget<'_>) -> Option<&'a ObjectId> {
    let mut refused = cluster.refused.iter();
    refused.find_map(|(id, refused)| {
        let meant = id.kind == Kind::BackendTlsPolicy
            && id.key.namespace == target.key.namespace
            && refused.remains.may_target(target.kind, &target.key.name);
        meant.then_some(id)
    })
}

/// The core group has two names.
fn canonical_group(group: &str) -> &str {
    if group == "core" { "" } else { group }
}

/// Says which targets a policy cannot cover: they do not exist, or an older policy has them.
pub(super) fn report_targets(cluster: &Cluster) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    for policy in cluster.backend_tls_policies.values() {
        for (index, target) in policy.value.spec.target_refs.iter().enumerate() {
            let at = |name: &str| policy.at(&format!("spec.targetRefs[{index}].{name}"));
            let key = Key::new(&policy.key.namespace, &target.name);
            let kind = match (canonical_group(&target.group), &*target.kind) {
                ("", "Service") => Kind::Service,
                (ENVOY, "Backend") => Kind::Backend,
                (group, kind) => {
                    diagnostics.push(reasons::invalid_tls_target(&at("kind"), group, kind));
                    continue;
                }
            };
            let (exists, near) = match kind {
                Kind::Service => known(&cluster.services, &key),
                _ => known(&cluster.backends, &key),
            };
            if !exists {
                let refused = cluster.refused.get(&ObjectId { kind, key: key.clone() });
                diagnostics.push(reasons::target_not_found(&at("name"), kind, &key, near, refused));
                continue;
            }
            if let Some(section) = target.section_name.as_deref().filter(|_| kind == Kind::Service)
                && !has_port(cluster, &key, section)
            {
                diagnostics.push(reasons::missing_port_target(&at("sectionName"), &key, section));
            }
            let older = cluster.backend_tls_policies.values().find(|other| {
                other.key.namespace == policy.key.namespace
                    && other.seniority() < policy.seniority()
                    && other.value.spec.target_refs.iter().any(|other| {
                        canonical_group(&other.group) == canonical_group(&target.group)
                            && (&other.kind, &other.name, &other.section_name)
                                == (&target.kind, &target.name, &target.section_name)
                    })
            });
            if let Some(older) = older {
                diagnostics.push(reasons::tls_policy_conflicted(
                    &at("name"),
                    &older.label,
                    &older.location(),
                ));
            }
        }
    }
    diagnostics
}

/// Whether anything else may be said of targets than before.
pub(super) fn may_differ(changes: &Changes) -> bool {
    changes.tls_policies || changes.refused || !changes.services.is_empty() || !changes.backends.is_empty()
}

fn known<'c, T>(objects: &'c Objects<T>, key: &Key) -> (bool, Option<&'c str>) {
    let same = objects.keys().filter(|known| known.namespace == key.namespace);
    let exists = objects.contains_key(key);
    let near = if exists { None } else { nearest(&key.name, same.map(|known| &*known.name)) };
    (exists, near)
}

fn has_port(cluster: &Cluster, key: &Key, name: &str) -> bool {
    let spec = cluster.services.get(key).and_then(|service| service.value.spec.as_ref());
    spec.into_iter()
        .flat_map(|spec| spec.ports.iter().flatten())
        .any(|port| port.name.as_deref() == Some(name))
}

impl TlsSource<'_> {
    /// The TLS that a policy asks for, over what the Backend's own `tls` says. `None` where it cannot be kept; what is
    /// wrong is said at the policy's field.
    pub(crate) fn resolve_policy(
        self,
        policy: &Object<BackendTlsPolicy>,
        own: Option<TlsNode>,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<TlsNode> {
        let spec = &policy.value.spec;
        let at = |field: &str| policy.at(&format!("spec.validation.{field}"));
        if spec.options.as_ref().is_some_and(|options| !options.is_empty()) {
            diagnostics.push(reasons::not_acting(&policy.at("spec.options"), "the field does not act yet"));
        }
        let mut wrong = Vec::new();
        let mut bundles = Vec::new();
        let trust = match (&spec.validation.ca_certificate_refs, &spec.validation.well_known_ca_certificates)
        {
            (Some(refs), _) if !refs.is_empty() => {
                for (index, reference) in refs.iter().enumerate() {
                    let (group, kind, name) = (&reference.group, &reference.kind, &reference.name);
                    let reference =
                        ObjectReference { group: group.clone(), kind: kind.clone(), name: name.clone() };
                    let found = self.resolve_bundle(&policy.key.namespace, &reference, |name| {
                        at(&format!("caCertificateRefs[{index}].{name}"))
                    });
                    match found {
                        Ok(bundle) => bundles.push(Arc::new(bundle)),
                        Err(diagnostic) => wrong.push(*diagnostic),
                    }
                }
                Trust::Bundles(bundles.iter().map(|bundle| bundle.name.clone()).collect())
            }
            (_, Some(known)) if known == "System" => Trust::System,
            _ => {
                wrong.push(reasons::nothing_to_trust(&policy.at("spec.validation")));
                Trust::System
            }
        };
        let hostname = canonical(&spec.validation.hostname);
        // With an underscore it would be sent and verified as another name.
        if rustls::pki_types::DnsName::try_from(&*hostname).is_err() || hostname.contains('_') {
            wrong.push(reasons::invalid(
                &at("hostname"),
                format!("{:?} is no DNS name", spec.validation.hostname),
                "Give the name that the endpoints' certificates are for.",
            ));
        }
        let mut subject_alt_names = Vec::new();
        for (index, name) in spec.validation.subject_alt_names.iter().flatten().enumerate() {
            match subject_alt_name(name) {
                Some(name) if subject_alt_names.contains(&name) => {}
                Some(name) => subject_alt_names.push(name),
                None => wrong.push(reasons::subject_alt_name(&at(&format!("subjectAltNames[{index}]")))),
            }
        }
        // Then nothing else is verified than without it.
        if subject_alt_names == [SubjectAltName::Hostname(hostname.clone())] {
            subject_alt_names.clear();
        }
        let usable = wrong.is_empty();
        diagnostics.append(&mut wrong);
        let (own, client) = own.map(|own| (Some(own.tls), own.client)).unwrap_or_default();
        let base = own.unwrap_or_else(|| BackendTls::new(Trust::System));
        let tls = BackendTls { trust, server_name: Some(hostname), subject_alt_names, ..base };
        usable.then_some(TlsNode { tls, bundles, client })
    }
}

/// A name that a certificate may be for; `None` where it is none.
fn subject_alt_name(name: &BackendTlsPolicyValidationSubjectAltNames) -> Option<SubjectAltName> {
    match name.r#type {
        SanType::Hostname => {
            let hostname = canonical(name.hostname.as_deref()?);
            Hostname::new(&hostname).is_ok().then_some(SubjectAltName::Hostname(hostname))
        }
        SanType::Uri => {
            let uri = name.uri.as_deref()?;
            let (scheme, rest) = uri.split_once(':')?;
            let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            (is_scheme && !rest.is_empty()).then(|| SubjectAltName::Uri(uri.to_owned()))
        }
    }
}
