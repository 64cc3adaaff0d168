//! ListenerSet: whether it belongs to its Gateway, and whether its listeners are served.

use std::collections::BTreeMap;

use crate::cluster::Key;
use crate::graph::{GatewayNode, SetNode};
use crate::lease::ServingSidecar;
use crate::status::condition::{Condition, accepted, not_accepted, not_programmed, programmed};
use crate::status::findings::{Findings, is_below, sentences};
use crate::status::gateway::named;
use crate::status::listeners::Section;
use crate::status::{Desired, Inputs, Report};
use crate::watch::{Kind, ObjectId};

/// Builds the status of a ListenerSet of a Gateway, whose conditions are given. Says whether it is accepted, too.
pub(super) fn build_set(
    inputs: Inputs<'_>,
    findings: &Findings<'_>,
    (gateway, node): (&Key, &GatewayNode),
    set: &SetNode,
    parent: &[Condition],
    attached: &BTreeMap<(&Key, usize), usize>,
) -> Option<(Desired, bool)> {
    let object = inputs.cluster.listener_sets.get(&set.key)?;
    let id = ObjectId { kind: Kind::ListenerSet, key: set.key.clone() };
    let generation = object.generation();
    let view = object.as_gateway();
    let Some(shapes) = &set.shapes else {
        let refused: Vec<_> =
            findings.errors(&object.label).filter(|finding| is_below(finding, "spec.parentRef")).collect();
        let message = sentences(&refused);
        let conditions =
            vec![not_accepted("NotAllowed", message.clone()), not_programmed("NotAllowed", message)];
        let report = Report::ListenerSet { conditions, listeners: Vec::new() };
        return Some((Desired { id, generation, report }, false));
    };
    let section = Section { findings, object: &view, node, set: Some(&set.key), first: shapes.start };
    let holds = |kind: &str| parent.iter().find(|condition| condition.kind == kind);
    let parent_programmed = holds("Programmed");
    let accepted = match holds("Accepted").filter(|condition| !condition.holds) {
        Some(_) => not_accepted("ParentNotAccepted", format!("Gateway {gateway} is not accepted.")),
        None => accept(&section),
    };
    let programmed = if !accepted.holds {
        not_programmed(
            if accepted.reason == "ParentNotAccepted" { "ParentNotAccepted" } else { "ListenersNotValid" },
            accepted.message.clone(),
        )
    } else if let Some(condition) = parent_programmed.filter(|condition| !condition.holds) {
        let message = format!("Gateway {gateway} is not programmed: {}", condition.message);
        not_programmed("ParentNotProgrammed", message)
    } else if let Some(waits) = section.waiting() {
        not_programmed("Pending", sentences(&[waits]))
    } else {
        let served = |sidecar: &ServingSidecar| sidecar.sets.get(&set.key).copied();
        let behind = |sidecar: &&ServingSidecar| served(sidecar).is_none_or(|served| served < generation);
        let behind: Vec<_> =
            inputs.sidecars.iter().filter(behind).map(|sidecar| sidecar.node.as_str()).collect();
        if behind.is_empty() {
            programmed()
        } else {
            let message = format!("Generation {generation} is not served yet by {}.", named(&behind));
            not_programmed("Pending", message)
        }
    };
    let is_accepted = accepted.holds;
    let listeners = section.reports(gateway, attached, &programmed);
    let report = Report::ListenerSet { conditions: vec![accepted, programmed], listeners };
    Some((Desired { id, generation, report }, is_accepted))
}

fn accept(section: &Section<'_>) -> Condition {
    let refused = section.refused();
    if refused.is_empty() {
        return accepted("The ListenerSet belongs to its Gateway.");
    }
    let message = format!("Not served: {}. See the conditions of each listener.", named(&refused));
    let holds = refused.len() < section.object.value.spec.listeners.len();
    Condition::new("Accepted", holds, "ListenersNotValid", message)
}
