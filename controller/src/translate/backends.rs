//! Backends: those that a pool refers to, with the authorities and certificates of their TLS.
//!
//! What is spoken to over TLS with a Gateway's certificate is a backend of its own for each such certificate, named as the
//! backend with the certificate's name behind an `@`: one set of endpoints may be reached through two Gateways.

use std::collections::BTreeSet;
use std::sync::Arc;

use understudy_conf::{Backend, BackendName, CertificateName, State, UpstreamProtocol, differences};

use crate::cluster::Key;
use crate::graph::{BackendNode, Graph, ServiceBackend, TlsNode};
use crate::translate::uses::Uses;
use crate::translate::{gateways, keep_object, keep_objects};

/// Where the endpoints of a backend come from.
enum Source<'g> {
    Service(&'g ServiceBackend),
    Backend(&'g BackendNode),
}

impl<'g> Source<'g> {
    fn find(graph: &'g Graph, name: &str) -> Option<Self> {
        if let Some(service) = graph.services.get(name) {
            return Some(Source::Service(service));
        }
        let (namespace, object) = name.strip_prefix("backend/")?.split_once('/')?;
        let object = object.strip_suffix(H2).unwrap_or(object);
        graph.backends.get(&Key::new(namespace, object)).map(|node| Source::Backend(node))
    }

    fn tls(&self) -> Option<&'g TlsNode> {
        match self {
            Self::Service(node) => node.tls.as_ref(),
            Self::Backend(node) => node.tls.as_ref(),
        }
    }
}

/// A backend's name, taken apart.
fn parts_of(name: &BackendName) -> (&str, Option<CertificateName>) {
    match name.as_str().split_once("@secret/") {
        Some((base, certificate)) => (base, CertificateName::new(format!("secret/{certificate}")).ok()),
        None => (name.as_str(), None),
    }
}

/// Whether a Gateway's certificate is shown to a backend: it is spoken to over TLS, and has none of its own to be shown.
pub(super) fn is_shown_certificate(graph: &Graph, name: &BackendName) -> bool {
    let tls = Source::find(graph, name.as_str()).and_then(|source| source.tls());
    tls.is_some_and(|tls| tls.client.is_none())
}

/// The backend that a backend is to the Gateways with a certificate.
pub(super) fn with_certificate(
    graph: &Graph,
    name: &BackendName,
    certificate: Option<&CertificateName>,
) -> BackendName {
    let certificate = certificate.filter(|_| is_shown_certificate(graph, name));
    let variant = certificate.and_then(|certificate| BackendName::new(format!("{name}@{certificate}")).ok());
    variant.unwrap_or_else(|| name.clone())
}

/// The backends that may differ from those of another graph.
pub(super) fn differing(last: &Graph, graph: &Graph) -> Vec<BackendName> {
    let mut names = Vec::new();
    if !Arc::ptr_eq(&last.services, &graph.services) {
        let services = differences(&last.services, &graph.services, Arc::ptr_eq);
        names.extend(services.map(|(name, ..)| name.clone()));
    }
    if !Arc::ptr_eq(&last.backends, &graph.backends) {
        let backends = differences(&last.backends, &graph.backends, Arc::ptr_eq);
        for (_, before, after) in backends {
            let Some(node) = before.or(after) else { continue };
            names.push(node.name.clone());
            names.extend(h2_name(&node.name));
        }
    }
    names
}

/// What stands behind the name of a Backend that is spoken to by HTTP/2 without saying so itself.
const H2: &str = "@h2c";

/// The name of a Backend where it is spoken to by HTTP/2 without saying so itself.
pub(super) fn h2_name(name: &BackendName) -> Option<BackendName> {
    BackendName::new(format!("{name}{H2}")).ok()
}

/// Looks again at the backends of these names.
pub(super) fn update_backends(graph: &Graph, names: &BTreeSet<BackendName>, uses: &Uses, state: &mut State) {
    for name in uses.with_variants(names) {
        match build_backend(graph, &name).filter(|_| uses.has_backend(&name)) {
            Some(backend) => keep_object(&mut state.backends, name, backend),
            None => drop(state.backends.remove(&name)),
        }
    }
}

/// Collects the authorities and certificates that backends and listeners refer to.
pub(super) fn update_authorities(graph: &Graph, state: &mut State) {
    let mut certificates = gateways::build_certificates(graph);
    let mut bundles = gateways::build_bundles(graph);
    for backend in state.backends.values().filter(|backend| backend.tls.is_some()) {
        let (base, shown) = parts_of(&backend.name);
        let shown = shown.and_then(|shown| gateways::find_client_certificate(graph, &shown));
        certificates.extend(shown.map(|shown| (shown.name.clone(), shown.clone())));
        let Some(tls) = Source::find(graph, base).and_then(|source| source.tls()) else { continue };
        bundles.extend(tls.bundles.iter().map(|bundle| (bundle.name.clone(), bundle.clone())));
        certificates.extend(tls.client.iter().map(|client| (client.name.clone(), client.clone())));
    }
    state.ca_bundles = keep_objects(&state.ca_bundles, bundles);
    state.certificates = keep_objects(&state.certificates, certificates);
}

fn build_backend(graph: &Graph, name: &BackendName) -> Option<Backend> {
    let (base, certificate) = parts_of(name);
    let (protocol, endpoints, tls) = match Source::find(graph, base)? {
        Source::Service(node) => (node.protocol, &node.endpoints, &node.tls),
        Source::Backend(node) => (node.protocol, node.endpoints.as_ref().ok()?, &node.tls),
    };
    let mut tls = tls.as_ref().map(|node| node.tls.clone());
    if let Some(certificate) = certificate {
        gateways::find_client_certificate(graph, &certificate)?;
        tls.as_mut()?.client_certificate.get_or_insert(certificate);
    }
    Some(Backend {
        name: name.clone(),
        protocol: if base.ends_with(H2) { UpstreamProtocol::H2c } else { protocol },
        tls,
        endpoints: endpoints.clone(),
    })
}
