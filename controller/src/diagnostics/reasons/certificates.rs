//! About certificates: those of listeners, those that backends are shown, and the authorities that sign theirs.

use super::suggest;
use crate::cluster::Key;
use crate::diagnostics::{Diagnostic, Place, Reason};
use crate::watch::Kind;

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

pub(crate) fn certificate_expired(place: &Place, name: &str, when: &str, who: &str) -> Diagnostic {
    place.warning(
        Reason::CertificateExpired,
        format!("the certificate of {name} expired at {when}, so {who} refuse it"),
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

pub(crate) fn certificate_not_yet_valid(place: &Place, name: &str, when: &str, who: &str) -> Diagnostic {
    place.warning(
        Reason::CertificateExpired,
        format!("the certificate of {name} is valid from {when} on, so {who} refuse it until then"),
        "Check the clocks, or use a certificate that is valid now.",
    )
}

pub(crate) fn unsupported_ca_kind(place: &Place, group: &str, kind: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedValue,
        format!("authorities cannot be read from a {kind} of group {group:?}"),
        "Put their certificates into a ConfigMap or a Secret, under the key ca.crt.",
    )
}

pub(crate) fn ca_not_found(place: &Place, kind: Kind, key: &Key, near: Option<&str>) -> Diagnostic {
    place.error(
        Reason::InvalidBackendTLS,
        format!("there is no {kind} {key}"),
        suggest(near, format!("Add the {kind}, in this namespace, or correct the name.")),
    )
}

pub(crate) fn invalid_ca(place: &Place, kind: Kind, key: &Key, what: &str, remedy: String) -> Diagnostic {
    place.error(Reason::InvalidBackendTLS, format!("{kind} {key} {what}"), remedy)
}

pub(crate) fn no_authority_for_clients(place: &Place, listener: &str, field: &str) -> Diagnostic {
    place.error(
        Reason::NoValidCACertificate,
        format!("listener {listener} could verify no client, so it is not served: {field} names no authority that can be used"),
        "Refer to a ConfigMap that holds the authorities' certificates under the key ca.crt.",
    )
}

pub(crate) fn insecure_clients(place: &Place) -> Diagnostic {
    place.warning(
        Reason::InsecureFrontendValidationMode,
        "clients are served whatever certificate they show, and without any",
        "Use AllowValidOnly as soon as all clients have their certificates.",
    )
}

pub(crate) fn no_clients_to_verify(place: &Place, port: Option<i32>) -> Diagnostic {
    let of_port = port.map(|port| format!(" of port {port}")).unwrap_or_default();
    place.warning(
        Reason::NoEffect,
        format!("there is no HTTPS listener{of_port} that it could hold for"),
        "Add one, or remove it: clients of other protocols are not verified.",
    )
}

pub(crate) fn nothing_to_trust(place: &Place) -> Diagnostic {
    place.error(
        Reason::InvalidBackendTLS,
        "nothing says which certificates are to be trusted",
        "Give caCertificateRefs, or wellKnownCACertificates: System.",
    )
}

pub(crate) fn endpoint_without_name(place: &Place) -> Diagnostic {
    place.error(
        Reason::InvalidBackendTLS,
        "the endpoint has neither name nor address that its certificate could be for",
        "Give it a hostname, or the Backend a tls.sni.",
    )
}

pub(crate) fn subject_alt_name(place: &Place) -> Diagnostic {
    place.error(
        Reason::Invalid,
        "it is no name that a certificate could be for",
        "Give type Hostname with a DNS name as hostname, or type URI with uri as in \"spiffe://cluster.local/ns/shop\".",
    )
}

pub(crate) fn nothing_verified(place: &Place) -> Diagnostic {
    place.warning(
        Reason::InsecureBackend,
        "the endpoints' certificates are not verified, so nobody knows who answers",
        "Give caCertificateRefs or wellKnownCACertificates in its place.",
    )
}

pub(crate) fn old_tls_min(place: &Place, version: &str) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        format!("TLS {version} is not spoken: 1.2 is the oldest version"),
        "Use 1.2 or 1.3, or remove it.",
    )
}

pub(crate) fn old_tls_max(place: &Place, version: &str) -> Diagnostic {
    place.error(
        Reason::UnsupportedValue,
        format!("TLS {version} and older are not spoken"),
        "Use 1.2 or 1.3, or remove it.",
    )
}

pub(crate) fn tls_max_by_refusal(place: &Place) -> Diagnostic {
    place.warning(
        Reason::NoEffect,
        "1.3 is offered all the same, and an endpoint that takes it is refused rather than spoken to in 1.2",
        "Limit the version at the endpoints, or remove it.",
    )
}
