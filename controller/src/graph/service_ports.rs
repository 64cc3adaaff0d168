//! The ports of Services that routes use, with their endpoints.
//!
//! Routes themselves know nothing of endpoints: pods come and go without that any route is built again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use understudy_conf::{BackendName, UpstreamProtocol};

use crate::changes::Changes;
use crate::cluster::Cluster;
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::http_route::PortUse;
use crate::graph::{BuiltRoute, ServiceBackend, service};
use crate::watch::ObjectId;

/// A route before and after it was built again.
pub(super) struct Rebuilt {
    pub(super) id: ObjectId,
    pub(super) before: Option<Arc<BuiltRoute>>,
    pub(super) after: Option<Arc<BuiltRoute>>,
}

/// The ports, who uses them, and which of them lack endpoints.
#[derive(Debug, Clone, Default)]
pub(super) struct ServicePorts {
    pub(super) nodes: Arc<BTreeMap<BackendName, Arc<ServiceBackend>>>,
    users: BTreeMap<BackendName, BTreeSet<ObjectId>>,
    lacking: BTreeMap<BackendName, Lack>,
}

/// What EndpointSlices lack.
#[derive(Debug, Clone, Copy)]
enum Lack {
    Slices,
    Port,
}

impl ServicePorts {
    /// Follows routes that were built again, and changes of slices. Gives the ports that differ.
    pub(super) fn update(
        &mut self,
        cluster: &Cluster,
        routes: &BTreeMap<ObjectId, Arc<BuiltRoute>>,
        rebuilt: &[Rebuilt],
        changes: &Changes,
    ) -> BTreeSet<BackendName> {
        let mut doubtful: BTreeSet<BackendName> = BTreeSet::new();
        for Rebuilt { id, before, after } in rebuilt {
            for port in before.iter().flat_map(|route| &route.trace.ports) {
                if let Some(users) = self.users.get_mut(&port.name) {
                    users.remove(id);
                }
                doubtful.insert(port.name.clone());
            }
            for port in after.iter().flat_map(|route| &route.trace.ports) {
                self.users.entry(port.name.clone()).or_default().insert(id.clone());
                doubtful.insert(port.name.clone());
            }
        }
        for service in &changes.endpoints {
            let prefix = format!("service/{}/{}/", service.namespace, service.name);
            let ports = self
                .nodes
                .range::<str, _>((Bound::Included(&*prefix), Bound::Unbounded))
                .map(|(name, _)| name);
            doubtful.extend(ports.take_while(|name| name.as_str().starts_with(&prefix)).cloned());
        }
        let mut differing = BTreeSet::new();
        for name in doubtful {
            let built = self.first_use(&name, routes).and_then(|(_, port)| build_node(cluster, port));
            match built {
                Some((node, lack)) => {
                    match lack {
                        Some(lack) => drop(self.lacking.insert(name.clone(), lack)),
                        None => drop(self.lacking.remove(&name)),
                    }
                    if self.nodes.get(&name).is_some_and(|known| **known == node) {
                        continue;
                    }
                    Arc::make_mut(&mut self.nodes).insert(name.clone(), Arc::new(node));
                }
                None => {
                    self.users.remove(&name);
                    self.lacking.remove(&name);
                    Arc::make_mut(&mut self.nodes).remove(&name);
                }
            }
            differing.insert(name);
        }
        differing
    }

    /// Says what lacks endpoints, at the first route that uses it.
    pub(super) fn report(
        &self,
        cluster: &Cluster,
        routes: &BTreeMap<ObjectId, Arc<BuiltRoute>>,
        diagnostics: &mut Vec<Diagnostic>,
    ) {
        for (name, lack) in &self.lacking {
            let Some((route, port)) = self.first_use(name, routes) else { continue };
            let Some(route) = cluster.route(route) else { continue };
            let at = |field: &str| route.at(&format!("{}.{field}", port.field));
            diagnostics.push(match lack {
                Lack::Slices => reasons::service_without_slices(&at("name"), &port.service),
                Lack::Port => reasons::service_port_without_slices(&at("port"), &port.service, port.port),
            });
        }
    }

    fn first_use<'r>(
        &self,
        name: &BackendName,
        routes: &'r BTreeMap<ObjectId, Arc<BuiltRoute>>,
    ) -> Option<(&'r ObjectId, &'r PortUse)> {
        let (id, route) = routes.get_key_value(self.users.get(name)?.first()?)?;
        Some((id, route.trace.ports.iter().find(|port| port.name == *name)?))
    }
}

fn build_node(cluster: &Cluster, port: &PortUse) -> Option<(ServiceBackend, Option<Lack>)> {
    let service = &cluster.services.get(&port.service)?.value;
    let service_port = service::find_port(service, port.transport, port.port)?;
    let slices = cluster.slices_of(&port.service);
    let lack = match service::has_port(&slices, service_port) {
        _ if slices.is_empty() => Some(Lack::Slices),
        false => Some(Lack::Port),
        true => None,
    };
    let endpoints = service::resolve_endpoints(&slices, service_port);
    let protocol = if port.is_h2 { UpstreamProtocol::H2c } else { service::protocol_of(service_port) };
    Some((ServiceBackend { protocol, endpoints, tls: port.tls.clone() }, lack))
}
