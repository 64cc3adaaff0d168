//! Gateways with their listeners.

use std::collections::BTreeMap;
use std::sync::Arc;

use understudy_conf::{Gateway, GatewayName, Listener};

use crate::graph::Graph;

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
                tls: None,
            });
            let gateway = Gateway { name: node.name.clone(), listeners: listeners.collect() };
            (node.name.clone(), Arc::new(gateway))
        })
        .collect()
}
