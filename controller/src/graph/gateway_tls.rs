//! TLS of a Gateway as a whole: what it asks of clients (`spec.tls.frontend`), and what it shows to backends
//! (`spec.tls.backend`).

use std::sync::Arc;

use gateway_api::apis::experimental::gateways::{
    Gateway, GatewayTlsFrontendDefaultValidationMode as DefaultMode,
    GatewayTlsFrontendPerPortTlsValidationMode as PortMode,
};
use understudy_conf::{
    CaBundle, CaBundleName, Certificate, ClientValidation, ClientValidationMode, Protocol,
};
use understudy_crds::ObjectReference;

use crate::cluster::{Key, Object};
use crate::diagnostics::{Diagnostic, Reason, reasons};
use crate::graph::backend_tls::TlsSource;
use crate::graph::listener_sets::{Part, part_of};
use crate::graph::listener_tls::{Certificates, Dates, resolve_certificate};
use crate::graph::listeners::ListenerNode;
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::GATEWAY_API;

/// What clients of a listener must show.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ClientsNode {
    pub(crate) validation: ClientValidation,
    pub(crate) bundles: Vec<Arc<CaBundle>>,
}

/// A `validation` of a Gateway's front, whichever of the two places it stands in.
pub(crate) struct Validation<'a> {
    /// Its field.
    pub(crate) field: String,
    refs: Vec<CaRef<'a>>,
    mode: ClientValidationMode,
}

struct CaRef<'a> {
    group: &'a str,
    kind: &'a str,
    namespace: Option<&'a str>,
    name: &'a str,
}

/// What holds for the HTTPS listeners of a port: what is said of it, else of all.
pub(crate) fn validation_of(gateway: &Gateway, port: i32) -> Option<Validation<'_>> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let per_port = frontend.per_port.as_deref().unwrap_or_default();
    if let Some(index) = per_port.iter().position(|of_port| of_port.port == port) {
        return validation_at(gateway, index);
    }
    let validation = frontend.default.validation.as_ref()?;
    let refs = validation.ca_certificate_refs.iter().map(|reference| CaRef {
        group: &reference.group,
        kind: &reference.kind,
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
    });
    Some(Validation {
        field: "spec.tls.frontend.default.validation".to_owned(),
        refs: refs.collect(),
        mode: mode_of(validation.mode == Some(DefaultMode::AllowInsecureFallback)),
    })
}

/// What is said of the port at a place of the list.
fn validation_at(gateway: &Gateway, index: usize) -> Option<Validation<'_>> {
    let frontend = gateway.spec.tls.as_ref()?.frontend.as_ref()?;
    let validation = frontend.per_port.as_ref()?.get(index)?.tls.validation.as_ref()?;
    let refs = validation.ca_certificate_refs.iter().map(|reference| CaRef {
        group: &reference.group,
        kind: &reference.kind,
        namespace: reference.namespace.as_deref(),
        name: &reference.name,
    });
    Some(Validation {
        field: format!("spec.tls.frontend.perPort[{index}].tls.validation"),
        refs: refs.collect(),
        mode: mode_of(validation.mode == Some(PortMode::AllowInsecureFallback)),
    })
}

fn mode_of(insecure: bool) -> ClientValidationMode {
    if insecure { ClientValidationMode::AllowInsecure } else { ClientValidationMode::Require }
}

/// Every `validation` of a Gateway, with the port that it is for; `None`: for all others.
fn validations(gateway: &Gateway) -> Vec<(Option<i32>, Validation<'_>)> {
    // No listener has this port, and no entry may be for it.
    let of_all = validation_of(gateway, 0).map(|validation| (None, validation));
    let frontend = gateway.spec.tls.as_ref().and_then(|tls| tls.frontend.as_ref());
    let per_port = frontend.and_then(|frontend| frontend.per_port.as_deref()).unwrap_or_default();
    let of_ports = per_port.iter().enumerate();
    let of_ports = of_ports.filter_map(|(index, of)| Some((Some(of.port), validation_at(gateway, index)?)));
    of_all.into_iter().chain(of_ports).collect()
}

/// The references to ConfigMaps and Secrets of a Gateway's TLS as a whole: kind, namespace and name.
pub(crate) fn references_of(gateway: &Gateway) -> Vec<(&str, Option<&str>, &str)> {
    let mut found = Vec::new();
    for (_, validation) in validations(gateway) {
        let core = validation.refs.into_iter().filter(|reference| matches!(reference.group, "" | "core"));
        found.extend(core.map(|reference| (reference.kind, reference.namespace, reference.name)));
    }
    let backend = gateway.spec.tls.as_ref().and_then(|tls| tls.backend.as_ref());
    if let Some(reference) = backend.and_then(|backend| backend.client_certificate_ref.as_ref()) {
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        found.push((kind, reference.namespace.as_deref(), &reference.name));
    }
    found
}

/// Whether a Gateway serves clients on some port whatever they show.
pub(crate) fn allows_insecure_clients(gateway: &Gateway) -> bool {
    let mut all = validations(gateway).into_iter();
    all.any(|(_, validation)| validation.mode == ClientValidationMode::AllowInsecure)
}

/// Has the HTTPS listeners of a Gateway, and those of its ListenerSets, verify their clients as it asks. A listener that could verify nobody is not
/// served.
pub(super) fn bind_clients(
    gateway: &Object<Gateway>,
    parts: &[Part],
    source: Certificates<'_>,
    listeners: &mut Vec<ListenerNode>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let mut resolved = Vec::new();
    for (port, validation) in validations(&gateway.value) {
        let is_used = parts.iter().flat_map(|part| &part.object.value.spec.listeners).any(|listener| {
            let of = validation_of(&gateway.value, listener.port);
            listener.protocol == "HTTPS" && of.is_some_and(|of| of.field == validation.field)
        });
        let place = gateway.at(&validation.field);
        if !is_used {
            diagnostics.push(reasons::no_clients_to_verify(&place, port));
        } else if validation.mode == ClientValidationMode::AllowInsecure {
            let place = gateway.at(&format!("{}.mode", validation.field));
            diagnostics.push(reasons::insecure_clients(&place));
        }
        let clients = resolve_clients(gateway, source, &validation, diagnostics);
        resolved.push((validation.field, clients));
    }
    listeners.retain_mut(|listener| {
        if listener.protocol != Protocol::Https {
            return true;
        }
        let Some(asked) = validation_of(&gateway.value, listener.port.into()) else { return true };
        let found = resolved.iter().find(|(field, _)| *field == asked.field);
        listener.clients = found.and_then(|(_, clients)| clients.clone());
        if listener.clients.is_none() {
            let place = part_of(parts, listener).at(&listener.field);
            let name = &listener.shape.name;
            diagnostics.push(reasons::no_authority_for_clients(&place, name, &asked.field));
        }
        listener.clients.is_some()
    });
}

/// The authorities that a validation names; `None` if there is none of them.
fn resolve_clients(
    gateway: &Object<Gateway>,
    source: Certificates<'_>,
    validation: &Validation<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<ClientsNode> {
    let mut bundles: Vec<Arc<CaBundle>> = Vec::new();
    for (index, reference) in validation.refs.iter().enumerate() {
        let field = format!("{}.caCertificateRefs[{index}]", validation.field);
        match resolve_authority(gateway, source, reference, &field) {
            Ok(bundle) if bundles.iter().any(|known| known.name == bundle.name) => {}
            Ok(bundle) => bundles.push(Arc::new(bundle)),
            Err(diagnostic) => diagnostics.push(*diagnostic),
        }
    }
    let names: Vec<CaBundleName> = bundles.iter().map(|bundle| bundle.name.clone()).collect();
    let validation = ClientValidation { bundles: names, mode: validation.mode };
    (!bundles.is_empty()).then_some(ClientsNode { validation, bundles })
}

fn resolve_authority(
    gateway: &Object<Gateway>,
    source: Certificates<'_>,
    reference: &CaRef<'_>,
    field: &str,
) -> Result<CaBundle, Box<Diagnostic>> {
    let at = |name: &str| gateway.at(&format!("{field}.{name}"));
    let namespace = reference.namespace.unwrap_or(&gateway.key.namespace);
    let key = Key::new(namespace, reference.name);
    let from = Referrer { group: GATEWAY_API, kind: "Gateway", namespace: &gateway.key.namespace };
    let is_known = matches!(reference.group, "" | "core") && matches!(reference.kind, "ConfigMap" | "Secret");
    if is_known && !is_permitted(source.cluster, &from, "", reference.kind, &key) {
        return Err(reasons::ref_not_permitted(&at("namespace"), &from, "", reference.kind, &key).into());
    }
    let target = ObjectReference {
        group: reference.group.to_owned(),
        kind: reference.kind.to_owned(),
        name: reference.name.to_owned(),
    };
    let tls = TlsSource { cluster: source.cluster, now: source.now };
    tls.resolve_bundle(namespace, &target, at).map_err(|mut diagnostic| {
        diagnostic.reason = match diagnostic.reason {
            Reason::UnsupportedValue => Reason::InvalidCACertificateKind,
            _ => Reason::InvalidCACertificateRef,
        };
        diagnostic
    })
}

/// The certificate that a Gateway shows to backends over TLS, if it names one that can be used.
pub(super) fn resolve_client_certificate(
    gateway: &Object<Gateway>,
    source: Certificates<'_>,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Arc<Certificate>> {
    let backend = gateway.value.spec.tls.as_ref()?.backend.as_ref()?;
    let reference = backend.client_certificate_ref.as_ref()?;
    let at = |name: &str| gateway.at(&format!("spec.tls.backend.clientCertificateRef.{name}"));
    let group = reference.group.as_deref().unwrap_or("");
    let kind = reference.kind.as_deref().unwrap_or("Secret");
    if !matches!((group, kind), ("" | "core", "Secret")) {
        let field = if kind == "Secret" { "group" } else { "kind" };
        diagnostics.push(reasons::invalid_certificate_kind(&at(field), group, kind));
        return None;
    }
    let namespace = reference.namespace.as_deref().unwrap_or(&gateway.key.namespace);
    let key = Key::new(namespace, &reference.name);
    let from = Referrer { group: GATEWAY_API, kind: "Gateway", namespace: &gateway.key.namespace };
    if !is_permitted(source.cluster, &from, "", kind, &key) {
        diagnostics.push(reasons::ref_not_permitted(&at("namespace"), &from, "", kind, &key));
        return None;
    }
    let place = at("name");
    match resolve_certificate(source.cluster, &key, &place) {
        Ok((certificate, pair)) => {
            let dates = Dates { now: source.now, who: "backends that ask for it" };
            diagnostics.extend(dates.report(&place, &certificate.name, &pair));
            Some(Arc::new(certificate))
        }
        Err(diagnostic) => {
            diagnostics.push(*diagnostic);
            None
        }
    }
}
