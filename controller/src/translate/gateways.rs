//! Gateways with their listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::{
    CaBundle, CaBundleName, Certificate, CertificateName, Gateway, GatewayName, Listener, ListenerTls,
};

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
    let client_validation = listener.clients.as_ref().map(|clients| clients.validation.clone());
    listener.tls_mode.map(|mode| ListenerTls { mode, certificates, client_validation })
}

/// The certificate of that name that some Gateway shows to backends.
pub(super) fn find_client_certificate<'g>(
    graph: &'g Graph,
    name: &CertificateName,
) -> Option<&'g Arc<Certificate>> {
    let mut shown = graph.gateways.values().filter_map(|gateway| gateway.client_certificate.as_ref());
    shown.find(|certificate| certificate.name == *name)
}

/// The authorities that clients of the listeners are verified by.
pub(super) fn build_bundles(graph: &Graph) -> BTreeMap<CaBundleName, Arc<CaBundle>> {
    let listeners = graph.gateways.values().flat_map(|gateway| &gateway.listeners);
    listeners
        .filter_map(|listener| listener.clients.as_ref())
        .flat_map(|clients| &clients.bundles)
        .map(|bundle| (bundle.name.clone(), bundle.clone()))
        .collect()
}

/// The certificates of the listeners that are served.
pub(super) fn build_certificates(graph: &Graph) -> BTreeMap<CertificateName, Arc<Certificate>> {
    let listeners = graph.gateways.values().flat_map(|gateway| &gateway.listeners);
    listeners
        .flat_map(|listener| &listener.certificates)
        .map(|certificate| (certificate.name.clone(), certificate.clone()))
        .collect()
}
