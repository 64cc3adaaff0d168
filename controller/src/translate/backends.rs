//! Backends: those that a pool refers to, with the authorities and certificates of their TLS.

use std::sync::Arc;

use understudy_conf::{Backend, BackendName, Pool, RefTarget, State};

use crate::cluster::Key;
use crate::graph::{Graph, TlsNode};

pub(super) fn add_backends(graph: &Graph, pool: &Pool, state: &mut State) {
    for reference in &pool.refs {
        let RefTarget::Backend(name) = &reference.target else { continue };
        if state.backends.contains_key(name) {
            continue;
        }
        if let Some((backend, tls)) = build_backend(graph, name) {
            state.backends.insert(name.clone(), Arc::new(backend));
            add_tls(tls, state);
        }
    }
}

fn add_tls(tls: Option<&TlsNode>, state: &mut State) {
    let Some(tls) = tls else { return };
    for bundle in &tls.bundles {
        state.ca_bundles.insert(bundle.name.clone(), bundle.clone());
    }
    if let Some(certificate) = &tls.client {
        state.certificates.insert(certificate.name.clone(), certificate.clone());
    }
}

fn build_backend<'g>(graph: &'g Graph, name: &BackendName) -> Option<(Backend, Option<&'g TlsNode>)> {
    let (protocol, endpoints, tls) = match graph.services.get(name.as_str()) {
        Some(service) => (service.protocol, &service.endpoints, service.tls.as_ref()),
        None => {
            let (namespace, object) = name.as_str().strip_prefix("backend/")?.split_once('/')?;
            let node = graph.backends.get(&Key::new(namespace, object))?;
            (node.protocol, node.endpoints.as_ref().ok()?, node.tls.as_ref())
        }
    };
    let backend = Backend {
        name: name.clone(),
        protocol,
        tls: tls.map(|node| node.tls.clone()),
        endpoints: endpoints.clone(),
    };
    Some((backend, tls))
}
