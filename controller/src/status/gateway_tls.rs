//! Gateway: what its conditions say of TLS, its own and that of its listeners.

use gateway_api::apis::experimental::gateways::Gateway;
use understudy_conf::Hostname;

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, Reason};
use crate::graph::{allows_insecure_clients, validation_of};
use crate::status::ListenerReport;
use crate::status::condition::{Condition, resolved_refs, unresolved_refs};
use crate::status::findings::{Findings, is_below, sentences};
use crate::status::gateway::named;

/// Clients are served whatever they show.
pub(super) const INSECURE_CLIENTS: &str = "InsecureFrontendValidationMode";
/// Hostnames of listeners of one port overlap.
pub(super) const OVERLAPPING: &str = "OverlappingTLSConfig";

/// The conditions of a Gateway that says something of TLS.
pub(super) fn gateway_conditions(
    gateway: &Object<Gateway>,
    findings: &Findings<'_>,
    listeners: &[ListenerReport],
) -> Vec<Condition> {
    if gateway.value.spec.tls.is_none() {
        return Vec::new();
    }
    let certificate: Vec<&Diagnostic> = findings
        .errors(&gateway.label)
        .filter(|finding| is_below(finding, "spec.tls.backend.clientCertificateRef"))
        .collect();
    let unresolved = |listener: &&ListenerReport| {
        listener.conditions.iter().any(|condition| condition.kind == "ResolvedRefs" && !condition.holds)
    };
    let unresolved: Vec<&str> =
        listeners.iter().filter(unresolved).map(|listener| listener.name.as_str()).collect();
    let references = match certificate.first() {
        Some(first) if first.reason == Reason::RefNotPermitted => {
            unresolved_refs("RefNotPermitted", sentences(&certificate))
        }
        Some(_) => unresolved_refs("InvalidClientCertificateRef", sentences(&certificate)),
        None if !unresolved.is_empty() => {
            let message = format!("See the conditions of listeners {}.", named(&unresolved));
            unresolved_refs("ListenersNotResolved", message)
        }
        None => resolved_refs(),
    };
    let insecure = allows_insecure_clients(&gateway.value).then(|| {
        let message = "Clients are served whatever certificate they show, and without any.";
        Condition::new(INSECURE_CLIENTS, true, "ConfigurationChanged", message)
    });
    [references].into_iter().chain(insecure).collect()
}

/// The field that says what clients of a listener must show.
pub(super) fn clients_field(gateway: &Gateway, index: usize) -> Option<String> {
    let listener = gateway.spec.listeners.get(index).filter(|listener| listener.protocol == "HTTPS")?;
    Some(validation_of(gateway, listener.port)?.field)
}

/// The condition of a listener over TLS some hostnames of which are another one's, too.
pub(super) fn overlapping(gateway: &Gateway, index: usize) -> Option<Condition> {
    let listeners = &gateway.spec.listeners;
    let is_tls = |protocol: &str| matches!(protocol, "HTTPS" | "TLS");
    let own = listeners.get(index).filter(|listener| is_tls(&listener.protocol))?;
    let others = listeners.iter().enumerate().filter(|(other, listener)| {
        *other != index
            && listener.port == own.port
            && is_tls(&listener.protocol)
            && overlap(own.hostname.as_deref(), listener.hostname.as_deref())
    });
    let others: Vec<&str> = others.map(|(_, listener)| listener.name.as_str()).collect();
    (!others.is_empty()).then(|| {
        let message = format!(
            "Some hostnames are those of listeners {}, too. The most specific one serves each; requests on a \
             connection that was made for another are answered 421.",
            named(&others)
        );
        Condition::new(OVERLAPPING, true, "OverlappingHostnames", message)
    })
}

/// Whether some name is covered by both; a listener without hostname covers all.
fn overlap(one: Option<&str>, other: Option<&str>) -> bool {
    let given = |hostname: Option<&str>| hostname.filter(|hostname| !hostname.is_empty()).map(Hostname::new);
    match (given(one), given(other)) {
        (Some(Ok(one)), Some(Ok(other))) => one.intersect(&other).is_some(),
        (Some(Err(_)), _) | (_, Some(Err(_))) => false,
        (None, _) | (_, None) => true,
    }
}
