//! About values that break rules, and values without effect.

use understudy_conf::HostnameError;

use crate::diagnostics::{Diagnostic, Place, Reason};

pub(crate) fn invalid(place: &Place, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
    place.error(Reason::Invalid, message, remedy)
}

pub(crate) fn invalid_hostname(place: &Place, error: &HostnameError) -> Diagnostic {
    place.error(Reason::Invalid, error.to_string(), "Use a name such as www.example.com or *.example.com.")
}

pub(crate) fn unsupported_value(
    place: &Place,
    message: impl Into<String>,
    remedy: impl Into<String>,
) -> Diagnostic {
    place.error(Reason::UnsupportedValue, message, remedy)
}

pub(crate) fn no_effect(place: &Place, message: impl Into<String>, remedy: impl Into<String>) -> Diagnostic {
    place.warning(Reason::NoEffect, message, remedy)
}

pub(crate) fn not_acting(place: &Place, message: &str) -> Diagnostic {
    place.warning(Reason::NotActing, message, "It is accepted without effect: do not rely on it.")
}

pub(crate) fn not_acting_info(place: &Place, message: &str) -> Diagnostic {
    place.info(Reason::NotActing, message, "")
}

pub(crate) fn deprecated(place: &Place, successor: &str) -> Diagnostic {
    place.info(Reason::DeprecatedField, "the field is deprecated", format!("Use {successor}."))
}
