//! Backends: those that a pool refers to.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::{Backend, BackendName, Pool, RefTarget};

use crate::cluster::Key;
use crate::graph::Graph;

pub(super) fn add_backends(graph: &Graph, pool: &Pool, backends: &mut BTreeMap<BackendName, Arc<Backend>>) {
    for reference in &pool.refs {
        let RefTarget::Backend(name) = &reference.target else { continue };
        if !backends.contains_key(name)
            && let Some(backend) = build_backend(graph, name)
        {
            backends.insert(name.clone(), Arc::new(backend));
        }
    }
}

fn build_backend(graph: &Graph, name: &BackendName) -> Option<Backend> {
    if let Some(service) = graph.services.get(name.as_str()) {
        let endpoints = service.endpoints.clone();
        return Some(Backend { name: name.clone(), protocol: service.protocol, endpoints });
    }
    let (namespace, object) = name.as_str().strip_prefix("backend/")?.split_once('/')?;
    let node = graph.backends.get(&Key::new(namespace, object))?;
    let endpoints = node.endpoints.as_ref().ok()?.clone();
    Some(Backend { name: name.clone(), protocol: node.protocol, endpoints })
}
