//! BackendTLSPolicy: whether TLS to what it targets is set up, said to each Gateway whose routes lead there.

use std::collections::{BTreeMap, BTreeSet};

use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy;

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Reason};
use crate::graph::Graph;
use crate::status::condition::{
    Condition, OWN_WARNING, accepted, not_accepted, resolved_refs, unresolved_refs,
};
use crate::status::findings::{Findings, field, sentences};
use crate::status::policy_target::{MAX_ANCESTORS, ancestor_ref, refusal_reason, warning_reason};
use crate::status::{Desired, Entry, Inputs, Report, has_own_entry};
use crate::watch::{ENVOY, Kind, ObjectId};

/// Kind, namespace and name of what a route refers to.
type Target = (Kind, Key);

pub(super) fn build_policies(inputs: Inputs<'_>, findings: &Findings<'_>) -> Vec<Desired> {
    if inputs.cluster.backend_tls_policies.is_empty() {
        return Vec::new();
    }
    let users = gateways_by_target(inputs.cluster, inputs.graph);
    let mut statuses = Vec::new();
    for policy in inputs.cluster.backend_tls_policies.values() {
        let targets = policy.value.spec.target_refs.iter().filter_map(|target| {
            let kind = match (target.group.as_str(), target.kind.as_str()) {
                ("" | "core", "Service") => Kind::Service,
                (ENVOY, "Backend") => Kind::Backend,
                _ => return None,
            };
            users.get(&(kind, Key::new(&policy.key.namespace, &target.name)))
        });
        let gateways: BTreeSet<_> = targets.flatten().copied().collect();
        if gateways.is_empty() && !has_own_entry(policy.status().as_deref(), "ancestors") {
            continue;
        }
        let conditions = build_conditions(findings, policy);
        let entries = gateways.into_iter().take(MAX_ANCESTORS).map(|gateway| Entry {
            reference: ancestor_ref(&(gateway.clone(), None)),
            conditions: conditions.clone(),
        });
        statuses.push(desired(policy, entries.collect()));
    }
    statuses
}

/// Policies whose status has an entry of ours.
pub(super) fn marked(cluster: &Cluster) -> impl Iterator<Item = &Object<BackendTlsPolicy>> {
    let policies = cluster.backend_tls_policies.values().map(AsRef::as_ref);
    policies.filter(|policy: &&Object<_>| has_own_entry(policy.status().as_deref(), "ancestors"))
}

pub(super) fn desired(policy: &Object<BackendTlsPolicy>, entries: Vec<Entry>) -> Desired {
    Desired {
        id: ObjectId { kind: Kind::BackendTlsPolicy, key: policy.key.clone() },
        generation: policy.generation(),
        report: Report::Ancestors(entries),
    }
}

/// The Gateways of the routes that refer to something.
fn gateways_by_target<'g>(cluster: &Cluster, graph: &'g Graph) -> BTreeMap<Target, BTreeSet<&'g Key>> {
    let mut users: BTreeMap<Target, BTreeSet<&Key>> = BTreeMap::new();
    for (id, route) in graph.routes.iter() {
        let parents = &route.parents;
        if parents.is_empty() {
            continue;
        }
        let rules = cluster.route(id).and_then(|route| route.value.spec.rules.as_deref());
        for reference in rules.unwrap_or_default().iter().flat_map(|rule| rule.backend_refs.iter().flatten())
        {
            let kind = match (reference.group.as_deref(), reference.kind.as_deref()) {
                (None | Some("" | "core"), None | Some("Service")) => Kind::Service,
                (Some(ENVOY), Some("Backend")) => Kind::Backend,
                _ => continue,
            };
            let namespace = reference.namespace.as_deref().unwrap_or(&id.key.namespace);
            let gateways = users.entry((kind, Key::new(namespace, &reference.name))).or_default();
            gateways.extend(parents.iter().map(|parent| &parent.gateway));
        }
    }
    users
}

fn build_conditions(findings: &Findings<'_>, policy: &Object<BackendTlsPolicy>) -> Vec<Condition> {
    let errors: Vec<_> = findings.errors(&policy.label).collect();
    let of_authorities = |finding: &&&Diagnostic| field(finding).contains("caCertificateRefs");
    let authorities: Vec<_> = errors.iter().filter(of_authorities).copied().collect();
    let refs = match authorities.first() {
        None => resolved_refs(),
        Some(first) if first.reason == Reason::UnsupportedValue => {
            unresolved_refs("InvalidKind", sentences(&authorities))
        }
        Some(_) => unresolved_refs("InvalidCACertificateRef", sentences(&authorities)),
    };
    let accepted = match errors.iter().find(|finding| !of_authorities(finding)) {
        Some(first) => not_accepted(refusal_reason(first.reason), sentences(&errors)),
        None if !authorities.is_empty() => not_accepted("NoValidCACertificate", sentences(&authorities)),
        None => accepted("The policy is accepted."),
    };
    let warnings: Vec<_> = findings.warnings(&policy.label).collect();
    let warning = (!warnings.is_empty())
        .then(|| Condition::new(OWN_WARNING, true, warning_reason(&warnings), sentences(&warnings)));
    [accepted, refs].into_iter().chain(warning).collect()
}
