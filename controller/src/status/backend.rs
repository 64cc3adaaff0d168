//! Backend: whether routes can use it.

use crate::diagnostics::Reason;
use crate::status::condition::{Condition, OWN_ACCEPTED, OWN_WARNING};
use crate::status::findings::{Findings, sentences};
use crate::status::{Desired, Doubts, Inputs, Report, has_other_manager};
use crate::watch::{Kind, ObjectId};

pub(super) fn build_backends(inputs: Inputs<'_>, findings: &Findings<'_>, doubts: &Doubts) -> Vec<Desired> {
    // Where another gateway accepts and refuses Backends, two of us would write over each other without end.
    let kind = if has_other_manager(inputs.cluster) { OWN_ACCEPTED } else { "Accepted" };
    let mut desired = Vec::new();
    for backend in doubts.backends(&inputs.cluster.backends) {
        let Some(node) = inputs.graph.backends.get(&backend.key) else { continue };
        let keeps_last_good =
            findings.warnings(&backend.label).any(|finding| finding.reason == Reason::LastGoodKept);
        let accepted = match &node.endpoints {
            Ok(_) if keeps_last_good => {
                let errors: Vec<_> = findings.errors(&backend.label).collect();
                let message = format!("{} The last version without errors is served.", sentences(&errors));
                Condition::new(kind, false, "Invalid", message)
            }
            Ok(_) => Condition::new(kind, true, "Accepted", "The Backend is accepted."),
            Err(unusable) => {
                let errors: Vec<_> = findings.errors(&backend.label).collect();
                let message = if errors.is_empty() {
                    format!("{}. {}", unusable.message, unusable.remedy)
                } else {
                    sentences(&errors)
                };
                Condition::new(kind, false, "Invalid", message)
            }
        };
        let warnings: Vec<_> = findings
            .warnings(&backend.label)
            .filter(|finding| finding.reason != Reason::LastGoodKept)
            .collect();
        let warning = warnings
            .first()
            .map(|first| Condition::new(OWN_WARNING, true, first.reason.as_str(), sentences(&warnings)));
        desired.push(Desired {
            id: ObjectId { kind: Kind::Backend, key: backend.key.clone() },
            generation: backend.generation(),
            report: Report::Backend(std::iter::once(accepted).chain(warning).collect()),
        });
    }
    desired
}
