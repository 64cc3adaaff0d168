//! About failover that cannot happen as configured.

use understudy_conf::{GatewayDuration, Priority, Weight};

use crate::diagnostics::{Diagnostic, Place, Reason};

pub(crate) fn fallback_without_detection(place: &Place, policy: Option<&str>) -> Diagnostic {
    let message = match policy {
        None => "nothing detects that the primary fails, so the fallback serves only when the primary has no endpoint \
                 or cannot be connected to"
            .to_owned(),
        Some(policy) => format!(
            "{policy} has no healthCheck, so the fallback serves only when the primary has no endpoint or \
             cannot be connected to"
        ),
    };
    let remedy = match policy {
        None => "Add a BackendTrafficPolicy with healthCheck.passive for the route.",
        Some(_) => "Add healthCheck.passive to it.",
    };
    place.warning(Reason::FailoverImpossible, message, remedy)
}

pub(crate) fn every_detector_off(place: &Place) -> Diagnostic {
    place.warning(
        Reason::FailoverImpossible,
        "every detector is off, so no endpoint is ever ejected",
        "Set consecutive5XxErrors or consecutiveGatewayErrors to 1 or more.",
    )
}

pub(crate) fn ejection_percent_too_low(place: &Place, percent: usize, endpoints: usize) -> Diagnostic {
    place.warning(
        Reason::FailoverImpossible,
        format!("{percent} % of {endpoints} primary endpoints allow no ejection but the first"),
        "Use 100, so that the fallback can take over from a primary pool that fails as a whole.",
    )
}

pub(crate) fn weight_zero(place: &Place, priority: Priority) -> Diagnostic {
    let pool = if priority == 0 { "primary" } else { "fallback" };
    place.warning(
        Reason::NoEffect,
        format!(
            "with weight 0 the reference gets no traffic, not even when the rest of the {pool} pool fails"
        ),
        "Remove the reference, or give it a weight.",
    )
}

pub(crate) fn weight_as_share(place: &Place, primary: Weight, fallback: Weight) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        format!(
            "{primary} to {fallback} is no split: weights count only within the primary or the fallback pool"
        ),
        "Remove the weights; for a split, remove fallback: true from the Backend.",
    )
}

pub(crate) fn only_fallbacks(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        "all references are fallbacks, so there is no primary pool",
        "Remove fallback: true from one of the Backends.",
    )
}

pub(crate) fn request_timeout_below_connect(
    place: &Place,
    request: GatewayDuration,
    connect: GatewayDuration,
) -> Diagnostic {
    place.warning(
        Reason::FailoverImpossible,
        format!("requests end after {request}, before a connection attempt does ({connect}), so none can be retried"),
        "Set timeout.tcp.connectTimeout of a BackendTrafficPolicy well below it.",
    )
}
