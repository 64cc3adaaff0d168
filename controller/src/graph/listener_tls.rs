//! TLS of a listener: the certificates that it names.

use std::sync::Arc;

use gateway_api::apis::experimental::gateways::{
    Gateway, GatewayListeners, GatewayListenersTlsCertificateRefs, GatewayListenersTlsMode,
};
use understudy_conf::{Certificate, CertificateName, Hostname};

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::certificate::{CertificatePair, TLS_TYPE, read_certificate};
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::{GATEWAY_API, Kind, ObjectId, nearest};

/// A certificate that is about to end is worth a word for this many seconds before: two weeks.
const EXPIRES_SOON: i64 = 14 * 24 * 3600;

/// What a listener's references are followed in.
#[derive(Clone, Copy)]
pub(crate) struct Certificates<'a> {
    pub(crate) cluster: &'a Cluster,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

impl Certificates<'_> {
    /// The certificates of a listener that ends TLS; `None` where it cannot be served, for want of one.
    pub(crate) fn resolve_listener(
        &self,
        gateway: &Object<Gateway>,
        listener: &GatewayListeners,
        hostname: Option<&Hostname>,
        field: &str,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<Vec<Arc<Certificate>>> {
        // What is missing or contradicts the protocol was said when the Gateway was read.
        let tls = listener.tls.as_ref()?;
        if tls.mode == Some(GatewayListenersTlsMode::Passthrough) {
            return None;
        }
        if tls.options.as_ref().is_some_and(|options| !options.is_empty()) {
            let place = gateway.at(&format!("{field}.tls.options"));
            diagnostics.push(reasons::not_acting(&place, "the field does not act yet"));
        }
        let mut certificates: Vec<Arc<Certificate>> = Vec::new();
        let mut covered = false;
        for (index, reference) in tls.certificate_refs.iter().flatten().enumerate() {
            let field = format!("{field}.tls.certificateRefs[{index}]");
            match self.resolve_ref(gateway, reference, &field) {
                Ok((certificate, pair)) => {
                    let dates = Dates { now: self.now, who: "clients" };
                    let place = gateway.at(&format!("{field}.name"));
                    diagnostics.extend(dates.report(&place, &certificate.name, &pair));
                    if certificates.iter().all(|known| known.name != certificate.name) {
                        certificates.push(certificate.into());
                    }
                    covered |= hostname.is_none_or(|hostname| pair.covers(hostname));
                }
                Err(diagnostic) => diagnostics.push(*diagnostic),
            }
        }
        let place = gateway.at(&format!("{field}.tls.certificateRefs"));
        if certificates.is_empty() {
            if tls.certificate_refs.as_ref().is_some_and(|refs| !refs.is_empty()) {
                diagnostics.push(reasons::listener_without_certificate(&place, &listener.name));
            }
            return None;
        }
        if let Some(hostname) = hostname.filter(|_| !covered) {
            diagnostics.push(reasons::certificate_for_another_name(&place, hostname.as_str()));
        }
        Some(certificates)
    }

    fn resolve_ref(
        &self,
        gateway: &Object<Gateway>,
        reference: &GatewayListenersTlsCertificateRefs,
        field: &str,
    ) -> Result<(Certificate, CertificatePair), Box<Diagnostic>> {
        let at = |name: &str| gateway.at(&format!("{field}.{name}"));
        let group = reference.group.as_deref().unwrap_or("");
        let kind = reference.kind.as_deref().unwrap_or("Secret");
        if !matches!((group, kind), ("" | "core", "Secret")) {
            return Err(reasons::invalid_certificate_kind(&at("kind"), group, kind).into());
        }
        let namespace = reference.namespace.as_deref().unwrap_or(&gateway.key.namespace);
        let key = Key::new(namespace, &reference.name);
        let kind_of_gateway = gateway.kind.info().name;
        let from = Referrer { group: GATEWAY_API, kind: kind_of_gateway, namespace: &gateway.key.namespace };
        if !is_permitted(self.cluster, &from, "", kind, &key) {
            return Err(reasons::ref_not_permitted(&at("namespace"), &from, "", kind, &key).into());
        }
        resolve_certificate(self.cluster, &key, &at("name"))
    }
}

/// The certificate of a Secret, to whoever may refer to it.
pub(super) fn resolve_certificate(
    cluster: &Cluster,
    key: &Key,
    place: &Place,
) -> Result<(Certificate, CertificatePair), Box<Diagnostic>> {
    let Some(secret) = cluster.secrets.get(key) else {
        let id = ObjectId { kind: Kind::Secret, key: key.clone() };
        if let Some(refused) = cluster.refused.get(&id) {
            let remedy = format!("Correct the Secret ({}).", refused.location);
            return Err(reasons::invalid_certificate(place, key, "could not be read", remedy).into());
        }
        let secrets = cluster.secrets.keys().filter(|known| known.namespace == key.namespace);
        let near = nearest(&key.name, secrets.map(|known| &*known.name));
        return Err(reasons::certificate_not_found(place, key, near).into());
    };
    let found = secret.value.type_.as_deref().unwrap_or("Opaque");
    if found != TLS_TYPE {
        let what = format!("is of type {found}");
        let remedy = format!("Give it type: {TLS_TYPE}, with tls.crt and tls.key.");
        return Err(reasons::invalid_certificate(place, key, &what, remedy).into());
    }
    let pair = read_certificate(&secret.value).map_err(|error| {
        let what = format!("cannot be used: {error}");
        reasons::invalid_certificate(place, key, &what, error.remedy().to_owned())
    })?;
    let name = CertificateName::new(format!("secret/{}/{}", key.namespace, key.name))
        .map_err(|error| reasons::invalid(place, error.to_string(), "Use shorter names."))?;
    Ok((Certificate { name, chain: pair.chain.clone(), key: pair.key.clone() }, pair))
}

/// Whoever is shown a certificate that is out of date refuses it, but a gateway that refused it too would help nobody.
pub(super) struct Dates {
    /// Seconds since 1970.
    pub(super) now: i64,
    /// Who is shown it.
    pub(super) who: &'static str,
}

impl Dates {
    pub(super) fn report(
        &self,
        place: &Place,
        name: &CertificateName,
        pair: &CertificatePair,
    ) -> Option<Diagnostic> {
        let name = name.as_str();
        if pair.not_after < self.now {
            Some(reasons::certificate_expired(place, name, &date(pair.not_after), self.who))
        } else if pair.not_before > self.now {
            Some(reasons::certificate_not_yet_valid(place, name, &date(pair.not_before), self.who))
        } else if pair.not_after < self.now + EXPIRES_SOON {
            Some(reasons::certificate_expires_soon(place, name, &date(pair.not_after)))
        } else {
            None
        }
    }
}

fn date(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
