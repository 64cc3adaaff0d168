//! The conditions of a Backend that say how it fares, one constructor each. Pure.

use crate::visible::inventory::BackendInfo;

/// Whether its endpoints take traffic.
pub(crate) const HEALTHY: &str = "understudy.dev/Healthy";
/// Whether it belongs to the primary or the fallback pool; the reason says it, for `kubectl get`.
pub(crate) const ROLE: &str = "understudy.dev/Role";

/// A condition without its times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub(crate) status: &'static str,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

fn healthy(status: &'static str, reason: &'static str, message: String) -> Condition {
    Condition { kind: HEALTHY, status, reason, message }
}

pub(crate) fn all_healthy(nodes: usize) -> Condition {
    let nodes = if nodes == 1 {
        "the one node that reports".to_owned()
    } else {
        format!("all {nodes} nodes that report")
    };
    healthy("True", "AllHealthy", format!("no endpoint fails on {nodes}"))
}

pub(crate) fn endpoints_ejected(message: String) -> Condition {
    healthy("False", "EndpointsEjected", message)
}

pub(crate) fn endpoints_unhealthy(message: String) -> Condition {
    healthy("False", "EndpointsUnhealthy", message)
}

pub(crate) fn endpoints_unproven(message: String) -> Condition {
    healthy("False", "EndpointsUnproven", message)
}

pub(crate) fn endpoints_refused(message: String) -> Condition {
    healthy("False", "EndpointsRefused", message)
}

pub(crate) fn no_endpoints(message: String) -> Condition {
    healthy("False", "NoEndpoints", message)
}

pub(crate) fn not_used() -> Condition {
    healthy(
        "Unknown",
        "NotUsed",
        "no route that is served refers to it, so nothing is known of it".to_owned(),
    )
}

pub(crate) fn no_reports() -> Condition {
    healthy("Unknown", "NoReports", "no node reports".to_owned())
}

pub(crate) fn left_out(nodes: &str) -> Condition {
    let message = format!("so much fails on {nodes} that not all of it is reported");
    healthy("Unknown", "TooMuchFails", message)
}

pub(crate) fn role(backend: &BackendInfo) -> Condition {
    let (reason, message) = if backend.is_fallback {
        ("Fallback", "it serves while the primary pool of a rule cannot carry the load")
    } else {
        ("Primary", "it serves first")
    };
    Condition { kind: ROLE, status: "True", reason, message: message.to_owned() }
}
