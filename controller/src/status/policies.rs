//! BackendTrafficPolicy: where it acts, and where not.

use serde_json::json;
use understudy_crds::BackendTrafficPolicy;

use crate::cluster::{Cluster, Object};
use crate::diagnostics::{Diagnostic, Reason};
use crate::graph::describe;
use crate::status::condition::{Condition, accepted, not_accepted};
use crate::status::findings::{Findings, sentences, sentences_for};
use crate::status::gateway::named;
use crate::status::policy_target::{
    MAX_ANCESTORS, Said, SaidTo, ancestor_ref, ancestors_of, refusal_reason, warning_reason,
};
use crate::status::{Desired, Entry, Inputs, Report, has_other_manager, has_own_entry};
use crate::watch::{GATEWAY_API, Kind, ObjectId};

pub(super) fn build_policies(inputs: Inputs<'_>, findings: &Findings<'_>) -> Vec<Desired> {
    let policies = inputs.cluster.policies.values();
    policies
        .map(|policy| desired(policy, build_entries(inputs, findings, policy)))
        .filter(|status| !matches!(&status.report, Report::Ancestors(entries) if entries.is_empty()))
        .chain(gone(inputs, findings))
        .collect()
}

/// Policies that act nowhere any more.
fn gone(inputs: Inputs<'_>, findings: &Findings<'_>) -> Vec<Desired> {
    let left = marked(inputs.cluster).filter(|policy| build_entries(inputs, findings, policy).is_empty());
    left.map(|policy| desired(policy, Vec::new())).collect()
}

/// Policies whose status has an entry of ours.
pub(super) fn marked(cluster: &Cluster) -> impl Iterator<Item = &Object<BackendTrafficPolicy>> {
    let policies = cluster.policies.values().map(AsRef::as_ref);
    policies.filter(|policy: &&Object<_>| has_own_entry(policy.status().as_deref(), "ancestors"))
}

pub(super) fn desired(policy: &Object<BackendTrafficPolicy>, entries: Vec<Entry>) -> Desired {
    Desired {
        id: ObjectId { kind: Kind::BackendTrafficPolicy, key: policy.key.clone() },
        generation: policy.generation(),
        report: Report::Ancestors(entries),
    }
}

fn build_entries(
    inputs: Inputs<'_>,
    findings: &Findings<'_>,
    policy: &Object<BackendTrafficPolicy>,
) -> Vec<Entry> {
    let index = &inputs.graph.policies;
    let targets = index.targets.get(&policy.key).map_or(&[][..], Vec::as_slice);
    let mut said = SaidTo::new();
    for target in targets {
        let Some(spot) = &target.spot else { continue };
        for ancestor in ancestors_of(inputs.graph, spot) {
            said.entry(ancestor).or_default().refusals.extend(target.refusal.as_deref());
        }
    }
    for (spot, winner) in index.overridden.get(&policy.key).into_iter().flatten() {
        let what = format!("{} by {winner}", describe(spot));
        // It is said where the policy stands, which need not be where the other one does.
        for ancestor in ancestors_of(inputs.graph, spot) {
            let own = said.iter_mut().filter(|((gateway, _), _)| *gateway == ancestor.0);
            own.for_each(|(_, said)| said.overridden.push(what.clone()));
        }
    }
    for parent in index.merged.get(&policy.key).into_iter().flatten() {
        said.values_mut().for_each(|said| said.merged.push(parent.to_string()));
    }
    let broken: Vec<_> = findings
        .errors(&policy.label)
        .filter(|finding| !matches!(finding.reason, Reason::Conflicted | Reason::TargetNotFound))
        .collect();
    let mut warnings: Vec<_> = findings
        .warnings(&policy.label)
        .filter(|finding| !matches!(finding.reason, Reason::TargetNotFound | Reason::LastGoodKept))
        .collect();
    warnings.extend(findings.caused_by(&policy.label));
    // A target that does not exist has no Gateway to which it could be said.
    warnings.extend(
        targets.iter().filter(|target| target.spot.is_none()).filter_map(|target| target.refusal.as_deref()),
    );
    let mut entries: Vec<_> = said
        .into_iter()
        .take(MAX_ANCESTORS)
        .map(|(ancestor, said)| Entry {
            reference: ancestor_ref(&ancestor),
            conditions: build_conditions(policy, &broken, &warnings, &said),
        })
        .collect();
    if entries.is_empty() && !has_other_manager(inputs.cluster) {
        entries.extend(missing_targets(inputs, policy));
    }
    entries
}

fn build_conditions(
    policy: &Object<BackendTrafficPolicy>,
    broken: &[&Diagnostic],
    warnings: &[&Diagnostic],
    said: &Said<'_>,
) -> Vec<Condition> {
    let is_valid = policy.is_valid;
    let mut conditions = vec![match (is_valid, said.refusals.first()) {
        (false, _) => not_accepted("Invalid", sentences(broken)),
        (true, Some(first)) => not_accepted(refusal_reason(first.reason), sentences(&said.refusals)),
        (true, None) => accepted("The policy is accepted."),
    }];
    let list = |names: &[String]| named(&names.iter().map(String::as_str).collect::<Vec<_>>());
    if !said.overridden.is_empty() {
        let message = format!("Replaced as a whole at {}.", list(&said.overridden));
        conditions.push(Condition::new("Overridden", true, "Overridden", message));
    }
    if is_valid && said.refusals.is_empty() && !said.merged.is_empty() {
        let message = format!("Merged with {}.", list(&said.merged));
        conditions.push(Condition::new("Merged", true, "Merged", message));
    }
    // Beside a refusal, what is left of the errors is worth a warning.
    let mut warnings = warnings.to_vec();
    if is_valid {
        warnings.extend(broken);
    }
    if is_valid && !warnings.is_empty() {
        conditions.push(Condition::new(
            "Warning",
            true,
            warning_reason(&warnings),
            sentences_for(&policy.label, &warnings),
        ));
    }
    conditions
}

/// Targets that do not exist have no Gateway that could be named: they stand for themselves.
fn missing_targets(inputs: Inputs<'_>, policy: &Object<BackendTrafficPolicy>) -> Vec<Entry> {
    let targets = inputs.graph.policies.targets.get(&policy.key);
    let mut entries: Vec<Entry> = Vec::new();
    for target in targets.into_iter().flatten().take(MAX_ANCESTORS) {
        let (Some((kind, name)), Some(refusal)) = (&target.missing, &target.refusal) else { continue };
        let reference = json!({
            "group": GATEWAY_API, "kind": kind, "namespace": &*policy.key.namespace, "name": name,
        });
        if entries.iter().all(|known| known.reference != reference) {
            let conditions = vec![not_accepted(refusal_reason(refusal.reason), sentences(&[refusal]))];
            entries.push(Entry { reference, conditions });
        }
    }
    entries
}
