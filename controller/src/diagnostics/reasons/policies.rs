//! About policies and their targets.

use super::suggest;
use crate::cluster::{Key, Refused};
use crate::diagnostics::{Diagnostic, Place, Reason};
use crate::watch::{Kind, ObjectId};

pub(crate) fn target_not_found(
    place: &Place,
    kind: Kind,
    key: &Key,
    near: Option<&str>,
    refused: Option<&Refused>,
) -> Diagnostic {
    if let Some(Refused { location, .. }) = refused {
        let message = format!("{kind} {key} could not be read ({location})");
        return place.error(Reason::TargetNotFound, message, format!("Correct the {kind}."));
    }
    place.error(
        Reason::TargetNotFound,
        format!("there is no {kind} {key}, so the policy does not act on it"),
        suggest(near, "Name an object in the policy's own namespace."),
    )
}

pub(crate) fn missing_rule(place: &Place, route: &ObjectId, section: &str, near: Option<&str>) -> Diagnostic {
    place.error(
        Reason::TargetNotFound,
        format!("{route} has no rule named {section}"),
        suggest(near, "Give the rule that name, or leave sectionName out."),
    )
}

pub(crate) fn missing_listener_target(
    place: &Place,
    owner: &ObjectId,
    section: &str,
    near: Option<&str>,
) -> Diagnostic {
    place.error(
        Reason::TargetNotFound,
        format!("{owner} has no listener {section}"),
        suggest(near, "Use the name of one of its listeners, or leave sectionName out."),
    )
}

pub(crate) fn selector_without_targets(place: &Place, kind: &str) -> Diagnostic {
    place.warning(
        Reason::TargetNotFound,
        format!("the selector selects no {kind}"),
        "Compare its labels with those of the objects; another namespace needs namespaces and a ReferenceGrant.",
    )
}

pub(crate) fn policy_conflicted(place: &Place, owner: &Key, location: &str) -> Diagnostic {
    place.error(
        Reason::Conflicted,
        format!("BackendTrafficPolicy {owner} ({location}) has the same target, and was first"),
        "Join the two, or give them different targets.",
    )
}

pub(crate) fn invalid_tls_target(place: &Place, group: &str, kind: &str) -> Diagnostic {
    place.error(
        Reason::InvalidKind,
        format!("a {kind} of group {group:?} cannot be covered"),
        "Use a Service, or a Backend of group gateway.envoyproxy.io.",
    )
}

pub(crate) fn missing_port_target(place: &Place, key: &Key, section: &str) -> Diagnostic {
    place.error(
        Reason::TargetNotFound,
        format!("Service {key} has no port named {section}, so the policy covers nothing of it"),
        "Name a port of the Service, or leave sectionName out to cover all of them.",
    )
}

pub(crate) fn tls_policy_conflicted(place: &Place, owner: &str, location: &str) -> Diagnostic {
    place.error(
        Reason::Conflicted,
        format!("{owner} ({location}) has the same target, and was first"),
        "Join the two, or give them different targets.",
    )
}

pub(crate) fn policy_overridden(place: &Place, spot: &str, winner: &Key) -> Diagnostic {
    place.info(
        Reason::Overridden,
        format!("it does not act on {spot}, where BackendTrafficPolicy {winner} replaces it as a whole"),
        "",
    )
}

pub(crate) fn merge_invalid(place: &Place, with: &str, problem: &understudy_crds::Problem) -> Diagnostic {
    place.error(
        Reason::Invalid,
        format!(
            "merged with {with}, {} breaks a rule ({}), so it acts alone",
            problem.field, problem.message
        ),
        problem.remedy.clone(),
    )
}

pub(crate) fn local_origin_without_split(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        "it has no effect without splitExternalLocalOriginErrors: local failures count as 5xx",
        "Set splitExternalLocalOriginErrors: true, or remove it.",
    )
}

pub(crate) fn first_ejection_always_allowed(place: &Place) -> Diagnostic {
    place.info(Reason::NoEffect, "the first ejection of a pool is always allowed", "Remove it.")
}

pub(crate) fn buffer_limit_capped(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NotActing,
        "at most 64Ki of a request's body are kept for a retry",
        "A request with a longer body is not retried once it was read; use 64Ki or less.",
    )
}
