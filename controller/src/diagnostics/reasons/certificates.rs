//! About the certificates of listeners.

use super::suggest;
use crate::cluster::Key;
use crate::diagnostics::{Diagnostic, Place, Reason};

pub(crate) fn invalid_certificate_kind(place: &Place, group: &str, kind: &str) -> Diagnostic {
    place.error(
        Reason::InvalidCertificateRef,
        format!("a {kind} of group {group:?} cannot be a certificate here"),
        "Use a Secret of type kubernetes.io/tls, without group.",
    )
}

pub(crate) fn certificate_not_found(place: &Place, key: &Key, near: Option<&str>) -> Diagnostic {
    place.error(
        Reason::InvalidCertificateRef,
        format!("there is no Secret {key}"),
        suggest(near, "Add the Secret, or correct name and namespace."),
    )
}

pub(crate) fn invalid_certificate(place: &Place, key: &Key, what: &str, remedy: String) -> Diagnostic {
    place.error(Reason::InvalidCertificateRef, format!("Secret {key} {what}"), remedy)
}

pub(crate) fn listener_without_certificate(place: &Place, listener: &str) -> Diagnostic {
    place.error(
        Reason::InvalidCertificateRef,
        format!("listener {listener} has no certificate that can be used, so it is not served"),
        "Refer to a Secret of type kubernetes.io/tls that holds certificate and key.",
    )
}

pub(crate) fn certificate_for_another_name(place: &Place, hostname: &str) -> Diagnostic {
    place.warning(
        Reason::InvalidCertificateRef,
        format!("no certificate is for {hostname}, the listener's hostname, so clients refuse it"),
        "Use a certificate with that name among its subject alternative names.",
    )
}

pub(crate) fn certificate_expired(place: &Place, name: &str, when: &str) -> Diagnostic {
    place.warning(
        Reason::CertificateExpired,
        format!("the certificate of {name} expired at {when}, so clients refuse it"),
        "Renew it; the new one is taken without a restart.",
    )
}

pub(crate) fn certificate_expires_soon(place: &Place, name: &str, when: &str) -> Diagnostic {
    place.warning(
        Reason::CertificateExpired,
        format!("the certificate of {name} expires at {when}"),
        "Renew it; the new one is taken without a restart.",
    )
}

pub(crate) fn certificate_not_yet_valid(place: &Place, name: &str, when: &str) -> Diagnostic {
    place.warning(
        Reason::CertificateExpired,
        format!("the certificate of {name} is valid from {when} on, so clients refuse it until then"),
        "Check the clocks, or use a certificate that is valid now.",
    )
}
