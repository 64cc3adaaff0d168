//! Backends: those that a pool refers to, with the authorities and certificates of their TLS.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use understudy_conf::{Backend, BackendName, State, UpstreamProtocol, differences};

use crate::cluster::Key;
use crate::graph::{BackendNode, Graph, ServiceBackend};
use crate::translate::uses::Uses;
use crate::translate::{gateways, keep_object, keep_objects};

/// Where the endpoints of a backend come from.
enum Source<'g> {
    Service(&'g ServiceBackend),
    Backend(&'g BackendNode),
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
    for name in names {
        match build_backend(graph, name).filter(|_| uses.has_backend(name)) {
            Some(backend) => keep_object(&mut state.backends, name.clone(), backend),
            None => drop(state.backends.remove(name)),
        }
    }
}

/// Collects the authorities and certificates that backends and listeners refer to.
pub(super) fn update_authorities(graph: &Graph, state: &mut State) {
    let mut certificates = gateways::build_certificates(graph);
    let mut bundles = BTreeMap::new();
    for backend in state.backends.values().filter(|backend| backend.tls.is_some()) {
        let node = match find_source(graph, &backend.name) {
            Some(Source::Service(node)) => node.tls.as_ref(),
            Some(Source::Backend(node)) => node.tls.as_ref(),
            None => None,
        };
        let Some(tls) = node else { continue };
        bundles.extend(tls.bundles.iter().map(|bundle| (bundle.name.clone(), bundle.clone())));
        certificates.extend(tls.client.iter().map(|client| (client.name.clone(), client.clone())));
    }
    state.ca_bundles = keep_objects(&state.ca_bundles, bundles);
    state.certificates = keep_objects(&state.certificates, certificates);
}

fn find_source<'g>(graph: &'g Graph, name: &BackendName) -> Option<Source<'g>> {
    if let Some(service) = graph.services.get(name) {
        return Some(Source::Service(service));
    }
    let (namespace, object) = name.as_str().strip_prefix("backend/")?.split_once('/')?;
    let object = object.strip_suffix(H2).unwrap_or(object);
    graph.backends.get(&Key::new(namespace, object)).map(|node| Source::Backend(node))
}

fn build_backend(graph: &Graph, name: &BackendName) -> Option<Backend> {
    let (protocol, endpoints, tls) = match find_source(graph, name)? {
        Source::Service(node) => (node.protocol, &node.endpoints, &node.tls),
        Source::Backend(node) => (node.protocol, node.endpoints.as_ref().ok()?, &node.tls),
    };
    let is_h2 = name.as_str().ends_with(H2);
    Some(Backend {
        name: name.clone(),
        protocol: if is_h2 { UpstreamProtocol::H2c } else { protocol },
        tls: tls.as_ref().map(|node| node.tls.clone()),
        endpoints: endpoints.clone(),
    })
}
