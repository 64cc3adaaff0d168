//! Gateways with their listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::{Certificate, CertificateName, Gateway, GatewayName, Listener, ListenerTls};

use crate::graph::{Graph, ListenerNode};

pub(super) fn build_gateways(graph: &Graph) -> BTreeMap<GatewayName, Arc<Gateway>> {
    graph
        .gateways
        .values()
        .map(|node| {
            let listeners = node.listeners.iter().map(|listener| Listener {
                name: listener.name.clone(),
                port: listener.port,
                bind: listener.bind.clone(),
                protocol: listener.protocol,
                hostname: listener.hostname.clone(),
                tls: build_tls(listener),
            });
            let gateway = Gateway { name: node.name.clone(), listeners: listeners.collect() };
            (node.name.clone(), Arc::new(gateway))
        })
        .collect()
}

fn build_tls(listener: &ListenerNode) -> Option<ListenerTls> {
    let certificates = listener.certificates.iter().map(|certificate| certificate.name.clone()).collect();
    listener.tls_mode.map(|mode| ListenerTls { mode, certificates })
}

/// The certificates of the listeners that are served.
pub(super) fn build_certificates(graph: &Graph) -> BTreeMap<CertificateName, Arc<Certificate>> {
    let listeners = graph.gateways.values().flat_map(|gateway| &gateway.listeners);
    listeners
        .flat_map(|listener| &listener.certificates)
        .map(|certificate| (certificate.name.clone(), certificate.clone()))
        .collect()
}
