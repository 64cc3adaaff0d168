//! Routes of all kinds: what each parent of ours makes of them.

use std::collections::BTreeMap;

use gateway_api::apis::experimental::httproutes::{HttpRoute, HttpRouteParentRefs};
use serde_json::Value;

use crate::cluster::{Cluster, Object};
use crate::diagnostics::{Diagnostic, Reason, Severity};
use crate::graph::{ParentNode, RouteNode, RuleAction};
use crate::status::condition::{
    Condition, OWN_WARNING, accepted, not_accepted, resolved_refs, unresolved_refs,
};
use crate::status::findings::{Findings, field, is_below, sentences};
use crate::status::{Desired, Doubts, Entry, Inputs, Report, has_own_entry};
use crate::watch::GATEWAY_API;

/// A status has place for no more parents.
const MAX_PARENTS: usize = 32;

pub(super) fn build_routes(inputs: Inputs<'_>, findings: &Findings<'_>, doubts: &Doubts) -> Vec<Desired> {
    let mut statuses = Vec::new();
    let mut unbound = Vec::new();
    for route in doubts.routes(inputs.cluster) {
        match inputs.graph.routes.get(&route.id()) {
            Some(built) if !built.parents.is_empty() => {
                let builder = Builder { route, node: built.node.as_ref(), findings };
                statuses.push(desired(route, builder.build(&built.parents)));
            }
            _ => unbound.extend(is_marked(route).then(|| desired(route, Vec::new()))),
        }
    }
    statuses.append(&mut unbound);
    statuses
}

/// Routes whose status has an entry of ours.
pub(super) fn marked(cluster: &Cluster) -> impl Iterator<Item = &Object<HttpRoute>> {
    cluster.routes().map(AsRef::as_ref).filter(|route| is_marked(route))
}

fn is_marked(route: &Object<HttpRoute>) -> bool {
    has_own_entry(route.status().as_deref(), "parents")
}

pub(super) fn desired(route: &Object<HttpRoute>, entries: Vec<Entry>) -> Desired {
    Desired { id: route.id(), generation: route.generation(), report: Report::Parents(entries) }
}

struct Builder<'a> {
    route: &'a Object<HttpRoute>,
    /// What is served of it, if anything.
    node: Option<&'a RouteNode>,
    findings: &'a Findings<'a>,
}

impl Builder<'_> {
    fn build(&self, parents: &[ParentNode]) -> Vec<Entry> {
        let references = self.route.value.spec.parent_refs.as_deref().unwrap_or_default();
        // What the route says by itself is the same for every parent.
        let rules = self.rule_conditions();
        let refs = self.resolved_refs();
        let warning = self.warning();
        let mut entries: Vec<Entry> = Vec::new();
        for parent in parents {
            let Some(reference) = references.get(parent.index).map(parent_ref) else { continue };
            if entries.len() == MAX_PARENTS || entries.iter().any(|known| known.reference == reference) {
                continue;
            }
            let mut conditions = vec![self.accepted(parent, &rules), refs.clone()];
            conditions.extend(rules.partly.clone().filter(|_| conditions[0].holds));
            conditions.extend(warning.clone());
            entries.push(Entry { reference, conditions });
        }
        entries
    }

    fn accepted(&self, parent: &ParentNode, rules: &RuleConditions) -> Condition {
        if let Some(refusal) = &parent.refusal {
            let reason = match (refusal.reason, refusal.severity) {
                // The listener is there and not served: what the route asks for is right.
                (Reason::NoMatchingParent, Severity::Warning) => "NoReadyListeners",
                (reason, _) => reason.as_str(),
            };
            return not_accepted(reason, sentences(&[refusal]));
        }
        let attached = self.node.is_some_and(|node| {
            let mut attachments = node.attachments.iter();
            attachments.any(|one| (&one.gateway, &one.set) == (&parent.gateway, &parent.set))
        });
        if !attached {
            if let Some(refused) = &rules.refused {
                return refused.clone();
            }
            let hostnames: Vec<_> =
                self.errors().filter(|finding| is_below(finding, "spec.hostnames")).collect();
            return not_accepted("UnsupportedValue", sentences(&hostnames));
        }
        rules.refused.clone().unwrap_or_else(|| accepted("The route is accepted."))
    }

    fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.findings.errors(&self.route.label)
    }

    fn resolved_refs(&self) -> Condition {
        let found: Vec<_> = self.errors().filter(|finding| is_about_reference(finding)).collect();
        match found.first() {
            None => resolved_refs(),
            Some(first) => {
                let reason = match first.reason {
                    Reason::Invalid => "InvalidBackendRef",
                    reason => reason.as_str(),
                };
                unresolved_refs(reason, sentences(&found))
            }
        }
    }

    /// What becomes of rules that cannot act as they are written.
    fn rule_conditions(&self) -> RuleConditions {
        let mut broken: BTreeMap<usize, Vec<&Diagnostic>> = BTreeMap::new();
        let below = |finding: &&Diagnostic| is_below(finding, "spec.rules") && !is_about_reference(finding);
        for finding in self.errors().filter(below) {
            broken.entry(rule_index(field(finding))).or_default().push(finding);
        }
        if broken.is_empty() {
            return RuleConditions::default();
        }
        let rules = self.route.value.spec.rules.as_ref().map_or(1, Vec::len).max(1);
        let found: Vec<_> = broken.values().flatten().copied().collect();
        let is_lost = |index: &usize| {
            let node = self.node.and_then(|node| node.rules.iter().find(|rule| rule.index == *index));
            node.is_none_or(|rule| matches!(rule.action, RuleAction::Respond(_)))
        };
        let lost: Vec<_> = broken.keys().filter(|index| is_lost(index)).copied().collect();
        if lost.len() >= rules {
            return RuleConditions {
                refused: Some(not_accepted("UnsupportedValue", sentences(&found))),
                partly: None,
            };
        }
        // Gateway API asks for these first words.
        let what = if lost.is_empty() {
            "Fell Back: parts of rules do not act.".to_owned()
        } else {
            let numbers = lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            format!("Dropped Rule: spec.rules[{numbers}].")
        };
        let message = format!("{what} {}", sentences(&found));
        let partly = Condition::new("PartiallyInvalid", true, "UnsupportedValue", message);
        RuleConditions { refused: None, partly: Some(partly) }
    }

    /// What acts otherwise than it was probably meant. Endpoints come and go, and are no reason to write.
    fn warning(&self) -> Option<Condition> {
        let parents = |finding: &&Diagnostic| is_below(finding, "spec.parentRefs");
        let found: Vec<_> = self
            .findings
            .warnings(&self.route.label)
            .filter(|finding| finding.reason != Reason::EndpointsNotFound && !parents(finding))
            .collect();
        let first = found.first()?;
        Some(Condition::new(OWN_WARNING, true, first.reason.as_str(), sentences(&found)))
    }
}

/// What the rules of a route come to, where any of them is wrong.
#[derive(Default)]
struct RuleConditions {
    /// No rule acts.
    refused: Option<Condition>,
    /// Some rules act.
    partly: Option<Condition>,
}

/// Whether a finding is about something that a route refers to, rather than about the route itself.
fn is_about_reference(finding: &Diagnostic) -> bool {
    let field = field(finding);
    // Values that break the kind's own rules are the route's, though they stand at the reference.
    let is_value = field.contains("].filters[")
        || field.ends_with("].weight")
        || finding.reason == Reason::Invalid && field.ends_with("].port");
    let of_mirror = field.contains(".requestMirror.backendRef");
    let of_rule = field.contains(".backendRefs[") && !is_value;
    is_below(finding, "spec.rules") && (of_mirror || of_rule)
}

/// The rule that a field stands in.
fn rule_index(field: &str) -> usize {
    let rest = field.strip_prefix("spec.rules[").unwrap_or("");
    rest.split(']').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A parent as it stands in the route, with what is meant where group and kind are left out.
fn parent_ref(reference: &HttpRouteParentRefs) -> Value {
    let mut value = serde_json::to_value(reference).unwrap_or_default();
    if let Value::Object(fields) = &mut value {
        fields.entry("group").or_insert_with(|| GATEWAY_API.into());
        fields.entry("kind").or_insert_with(|| "Gateway".into());
    }
    value
}
