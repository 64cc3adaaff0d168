//! TLS to a backend: the authorities, the name and the client certificate that `Backend.spec.tls` names.

use std::sync::Arc;

use understudy_conf::{BackendTls, CaBundle, CaBundleName, Certificate, TlsVersion, Trust};
use understudy_crds::{Backend, BackendEndpoint, ObjectReference};

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::ca_bundle::{read_config_map, read_secret};
use crate::graph::listener_tls::{Dates, resolve_certificate};
use crate::graph::reference_grant::{Referrer, is_permitted};
use crate::watch::{ENVOY, Kind, ObjectId, nearest};

/// How a backend is spoken to over TLS, with all that it refers to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TlsNode {
    pub(crate) tls: BackendTls,
    pub(crate) bundles: Vec<Arc<CaBundle>>,
    pub(crate) client: Option<Arc<Certificate>>,
}

/// What references are followed in, and who refers.
#[derive(Clone, Copy)]
pub(super) struct TlsSource<'a> {
    pub(super) cluster: &'a Cluster,
    /// Seconds since 1970.
    pub(super) now: i64,
}

impl TlsSource<'_> {
    /// The TLS of a Backend that asks for it; `covered`: a BackendTLSPolicy says whom to trust. Whatever is wrong is said
    /// at the Backend's own field.
    pub(super) fn resolve_backend(
        self,
        backend: &Object<Backend>,
        tls: &understudy_crds::BackendTls,
        covered: bool,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Option<TlsNode> {
        report_not_acting(backend, tls, diagnostics);
        let at = |field: &str| backend.at(&format!("spec.tls.{field}"));
        let mut wrong = Vec::new();
        let mut bundles = Vec::new();
        let trust = if tls.insecure_skip_verify == Some(true) {
            Trust::Nothing
        } else if let Some(refs) = tls.ca_certificate_refs.as_ref().filter(|refs| !refs.is_empty()) {
            for (index, reference) in refs.iter().enumerate() {
                let field = format!("caCertificateRefs[{index}]");
                let found = self
                    .resolve_bundle(&backend.key.namespace, reference, |name| at(&format!("{field}.{name}")));
                match found {
                    Ok(bundle) => bundles.push(Arc::new(bundle)),
                    Err(diagnostic) => wrong.push(*diagnostic),
                }
            }
            Trust::Bundles(bundles.iter().map(|bundle| bundle.name.clone()).collect())
        } else {
            if tls.well_known_ca_certificates.is_none() && !covered {
                wrong.push(reasons::nothing_to_trust(&backend.at("spec.tls")));
            }
            Trust::System
        };
        let mut made =
            BackendTls { server_name: tls.sni.as_deref().map(canonical), ..BackendTls::new(trust) };
        if made.trust != Trust::Nothing && made.server_name.is_none() && !covered {
            wrong.extend(nameless_endpoints(backend));
        }
        wrong.extend(set_versions(&mut made, tls, at, diagnostics));
        let client = match self.resolve_client(backend, tls, diagnostics) {
            Ok(client) => client,
            Err(diagnostic) => {
                wrong.push(*diagnostic);
                None
            }
        };
        made.client_certificate = client.as_ref().map(|client| client.name.clone());
        let usable = wrong.is_empty();
        diagnostics.append(&mut wrong);
        usable.then_some(TlsNode { tls: made, bundles, client })
    }

    /// The bundle that a reference names, in the namespace of who refers.
    pub(super) fn resolve_bundle(
        self,
        namespace: &str,
        reference: &ObjectReference,
        at: impl Fn(&str) -> Place,
    ) -> Result<CaBundle, Box<Diagnostic>> {
        let key = Key::new(namespace, &reference.name);
        let (kind, prefix) = match (&*reference.group, &*reference.kind) {
            ("" | "core", "ConfigMap") => (Kind::ConfigMap, "configmap"),
            ("" | "core", "Secret") => (Kind::Secret, "secret"),
            (group, kind) => return Err(reasons::unsupported_ca_kind(&at("kind"), group, kind).into()),
        };
        let place = at("name");
        let found = match kind {
            Kind::ConfigMap => {
                self.cluster.config_maps.get(&key).map(|object| read_config_map(&object.value))
            }
            _ => self.cluster.secrets.get(&key).map(|object| read_secret(&object.value)),
        };
        let Some(found) = found else {
            let id = ObjectId { kind, key: key.clone() };
            if let Some(refused) = self.cluster.refused.get(&id) {
                let remedy = format!("Correct the {kind} ({}).", refused.location);
                return Err(reasons::invalid_ca(&place, kind, &key, "could not be read", remedy).into());
            }
            let near = match kind {
                Kind::ConfigMap => nearest(&key.name, names_of(self.cluster.config_maps.keys(), &key)),
                _ => nearest(&key.name, names_of(self.cluster.secrets.keys(), &key)),
            };
            return Err(reasons::ca_not_found(&place, kind, &key, near).into());
        };
        let certificates = found.map_err(|error| {
            let what = format!("cannot be used: {error}");
            reasons::invalid_ca(&place, kind, &key, &what, error.remedy())
        })?;
        let name = CaBundleName::new(format!("{prefix}/{}/{}", key.namespace, key.name))
            .map_err(|error| reasons::invalid(&place, error.to_string(), "Use shorter names."))?;
        Ok(CaBundle { name, certificates })
    }

    fn resolve_client(
        self,
        backend: &Object<Backend>,
        tls: &understudy_crds::BackendTls,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Result<Option<Arc<Certificate>>, Box<Diagnostic>> {
        let Some(reference) = &tls.client_certificate_ref else { return Ok(None) };
        let at = |field: &str| backend.at(&format!("spec.tls.clientCertificateRef.{field}"));
        if let Some(group) = reference.group.as_deref().filter(|group| !matches!(*group, "" | "core")) {
            return Err(reasons::invalid_certificate_kind(&at("group"), group, "Secret").into());
        }
        let namespace = reference.namespace.as_deref().unwrap_or(&backend.key.namespace);
        let key = Key::new(namespace, &reference.name);
        let from = Referrer { group: ENVOY, kind: "Backend", namespace: &backend.key.namespace };
        if !is_permitted(self.cluster, &from, "", "Secret", &key) {
            return Err(reasons::ref_not_permitted(&at("namespace"), &from, "", "Secret", &key).into());
        }
        let place = at("name");
        let (certificate, pair) = resolve_certificate(self.cluster, &key, &place)?;
        let dates = Dates { now: self.now, who: "endpoints that ask for it" };
        diagnostics.extend(dates.report(&place, &certificate.name, &pair));
        Ok(Some(Arc::new(certificate)))
    }
}

fn names_of<'k>(keys: impl Iterator<Item = &'k Key>, near: &Key) -> impl Iterator<Item = &'k str> {
    keys.filter(move |key| key.namespace == near.namespace).map(|key| &*key.name)
}

/// As it is sent: in lower case, without the dot at its end.
pub(super) fn canonical(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// Endpoints that have no name and no address which a certificate could be for.
fn nameless_endpoints(backend: &Object<Backend>) -> Vec<Diagnostic> {
    let nameless = |endpoint: &BackendEndpoint| endpoint.unix.is_some() && endpoint.hostname.is_none();
    let endpoints = backend.value.spec.endpoints.iter().flatten().enumerate();
    endpoints
        .filter(|(_, endpoint)| nameless(endpoint))
        .map(|(index, _)| {
            let place = backend.at(&format!("spec.endpoints[{index}]"));
            reasons::endpoint_without_name(&place)
        })
        .collect()
}

/// Sets the versions; what cannot be spoken is an error, what is spoken otherwise than asked for a warning.
fn set_versions(
    made: &mut BackendTls,
    tls: &understudy_crds::BackendTls,
    at: impl Fn(&str) -> Place,
    diagnostics: &mut Vec<Diagnostic>,
) -> Option<Diagnostic> {
    match tls.min_version.as_deref() {
        Some("1.3") => made.min_version = TlsVersion::Tls13,
        Some(old @ ("1.0" | "1.1")) => diagnostics.push(reasons::old_tls_min(&at("minVersion"), old)),
        _ => {}
    }
    match tls.max_version.as_deref() {
        Some("1.2") => {
            made.max_version = TlsVersion::Tls12;
            diagnostics.push(reasons::tls_max_by_refusal(&at("maxVersion")));
        }
        Some(old @ ("1.0" | "1.1")) => return Some(reasons::old_tls_max(&at("maxVersion"), old)),
        _ => {}
    }
    None
}

fn report_not_acting(
    backend: &Object<Backend>,
    tls: &understudy_crds::BackendTls,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let fields = [
        ("ciphers", tls.ciphers.is_some()),
        ("ecdhCurves", tls.ecdh_curves.is_some()),
        ("signatureAlgorithms", tls.signature_algorithms.is_some()),
        ("alpnProtocols", tls.alpn_protocols.is_some()),
        ("fingerprints", tls.fingerprints.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, is_set)| *is_set) {
        let place = backend.at(&format!("spec.tls.{field}"));
        diagnostics.push(reasons::not_acting(&place, "the field does not act yet"));
    }
    if tls.insecure_skip_verify == Some(true) {
        diagnostics.push(reasons::nothing_verified(&backend.at("spec.tls.insecureSkipVerify")));
    }
}
