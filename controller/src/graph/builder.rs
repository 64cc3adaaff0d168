//! Builds graphs, each with what still holds of the last one.
//!
//! Inputs: a [`Cluster`], and the one of the last graph. Outputs: a [`Graph`] and diagnostics, both the same as if nothing
//! were known of the last one: a new builder has no memory and builds everything, by the same steps. In each step, what
//! was made of objects of which none differs is kept; and what is made anew and is equal to what there was is dropped
//! for it, so that later steps see no difference. `docs/decisions/0018-what-a-change-costs.md` tells why.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use understudy_conf::differences;

use crate::Options;
use crate::changes::Changes;
use crate::cluster::{Cluster, Key};
use crate::diagnostics::Diagnostic;
use crate::graph::backend::{Backends, build_backends};
use crate::graph::backend_tls::TlsSource;
use crate::graph::failover::{Doubts, FailoverReports};
use crate::graph::http_route::Resolver;
use crate::graph::listener_tls::Certificates;
use crate::graph::service_ports::{Rebuilt, ServicePorts};
use crate::graph::{BuiltRoute, Graph, backend_tls_policy, backend_traffic_policy, gateway, route_hosts};
use crate::watch::{Kind, ObjectId};

/// What came of every route.
pub(super) type Routes = Arc<BTreeMap<ObjectId, Arc<BuiltRoute>>>;

/// Builds graphs.
#[derive(Debug, Default)]
pub(crate) struct GraphBuilder {
    last: Option<Last>,
}

/// What the last graph was made of, and what cannot be seen in it.
#[derive(Debug)]
struct Last {
    cluster: Cluster,
    options: Options,
    graph: Arc<Graph>,
    /// What was said of the targets of BackendTLSPolicies.
    tls_targets: Vec<Diagnostic>,
    /// The routes as each of them is by itself.
    bound: Routes,
    /// What was said of BackendTrafficPolicies.
    policies: Vec<Diagnostic>,
    ports: ServicePorts,
    failover: FailoverReports,
}

/// Builds the graph of a cluster of which nothing is known.
#[cfg(test)]
pub(crate) fn build_graph(
    cluster: &Cluster,
    options: &Options,
    now: i64,
    diagnostics: &mut Vec<Diagnostic>,
) -> Arc<Graph> {
    GraphBuilder::default().build(cluster, options, now, diagnostics)
}

impl GraphBuilder {
    /// Builds the graph of a cluster. `now`, in seconds since 1970, judges the dates of certificates.
    pub(crate) fn build(
        &mut self,
        cluster: &Cluster,
        options: &Options,
        now: i64,
        diagnostics: &mut Vec<Diagnostic>,
    ) -> Arc<Graph> {
        let last = self.last.take().filter(|last| are_read_alike(&last.options, options));
        let changes = last.as_ref().map(|last| Changes::between(&last.cluster, cluster));
        let graph = last.as_ref().map(|last| last.graph.clone()).unwrap_or_default();
        // Of what there was no graph, everything is a change.
        let known = last.zip(changes);

        let certificates = Certificates { cluster, now };
        let gateways = keep(&graph.gateways, gateway::build_gateways(certificates, options, diagnostics));
        let same_gateways = Arc::ptr_eq(&gateways, &graph.gateways);

        let tls_targets = match &known {
            Some((last, changes)) if !backend_tls_policy::may_differ(changes) => last.tls_targets.clone(),
            _ => backend_tls_policy::report_targets(cluster),
        };
        let tls = TlsSource { cluster, now };
        let before = known.as_ref().map(|(_, changes)| (&*graph, changes));
        let backends = build_backends(tls, options, before, diagnostics);

        let (policies, of_policies) = match &known {
            Some((last, changes))
                if same_gateways && !backend_traffic_policy::may_differ(cluster, changes) =>
            {
                (graph.policies.clone(), last.policies.clone())
            }
            _ => {
                let mut said = Vec::new();
                let built = backend_traffic_policy::build_policies(cluster, &gateways, &mut said);
                (keep(&graph.policies, built), said)
            }
        };
        let same_policies = Arc::ptr_eq(&policies, &graph.policies);

        let resolver = Resolver { cluster, tls, gateways: &gateways, backends: &backends.nodes };
        let mut bound = known.as_ref().map(|(last, _)| last.bound.clone()).unwrap_or_default();
        let is_same = |changes: &Changes| {
            same_gateways && !changes.gateways && !changes.tls_policies && !changes.refused
        };
        let same = known.as_ref().map(|(_, changes)| changes).filter(|changes| is_same(changes));
        let mut rebuilt = build_routes(&resolver, &mut bound, same, &backends);
        let mut routes = bound.clone();
        if [&bound, &graph.routes].iter().any(|routes| has_rivals(routes)) {
            let same =
                known.as_ref().is_some_and(|(last, _)| same_gateways && Arc::ptr_eq(&last.bound, &bound));
            routes = match same {
                true => graph.routes.clone(),
                false => route_hosts::resolve_hosts(cluster, &gateways, &bound, &graph.routes),
            };
            rebuilt = differences(&graph.routes, &routes, Arc::ptr_eq)
                .map(|(id, before, after)| Rebuilt {
                    id: id.clone(),
                    before: before.cloned(),
                    after: after.cloned(),
                })
                .collect();
        }

        let everything = Changes::default();
        let (mut ports, mut failover, changes) = match known {
            Some((last, changes)) => (last.ports, last.failover, changes),
            None => (ServicePorts::default(), FailoverReports::default(), everything),
        };
        let services = ports.update(cluster, &routes, &rebuilt, &changes);
        let graph = Arc::new(Graph {
            gateways,
            routes,
            backends: backends.nodes,
            services: ports.nodes.clone(),
            policies,
        });
        let doubts = Doubts {
            all: !same_gateways || !same_policies,
            rebuilt: &rebuilt,
            backends: &backends.differing,
            services: &services,
        };
        failover.update(cluster, &graph, &doubts);

        diagnostics.extend(tls_targets.iter().chain(&of_policies).cloned());
        route_hosts::report_idle(cluster, &graph.gateways, &graph.routes, diagnostics);
        diagnostics.extend(graph.routes.values().flat_map(|route| &route.trace.diagnostics).cloned());
        ports.report(cluster, &graph.routes, diagnostics);
        diagnostics.extend(failover.diagnostics().cloned());
        self.last = Some(Last {
            cluster: cluster.clone(),
            options: options.clone(),
            graph: graph.clone(),
            tls_targets,
            bound,
            policies: of_policies,
            ports,
            failover,
        });
        graph
    }
}

/// Whether what is kept was made with the same options. Sockets are bound anew in each graph, and guards are no part of it.
fn are_read_alike(last: &Options, now: &Options) -> bool {
    let read = |options: &Options| {
        let Options { resolve_services, cluster_domain, backend_api, live, listen: _, held: _, guard: _ } =
            options;
        (*resolve_services, cluster_domain.clone(), *backend_api, *live)
    };
    read(last) == read(now)
}

/// Builds the routes that may differ; all of them where nothing is known to be the same. Gives those that do differ.
fn build_routes(
    resolver: &Resolver<'_>,
    routes: &mut Routes,
    same: Option<&Changes>,
    backends: &Backends,
) -> Vec<Rebuilt> {
    let cluster = resolver.cluster;
    let doubtful: BTreeSet<ObjectId> = match same {
        None => cluster.routes().map(|route| route.id()).chain(routes.keys().cloned()).collect(),
        Some(changes) => {
            let differs = |(id, route): &(&ObjectId, &Arc<BuiltRoute>)| {
                changes.namespaces.contains(&id.key.namespace)
                    || route.trace.reads.differ(changes, &backends.faces)
            };
            let none = changes.are_for_no_other_route() && backends.faces.is_empty();
            let others = routes.iter().filter(|_| !none).filter(differs).map(|(id, _)| id);
            others.chain(&changes.routes).cloned().collect()
        }
    };
    let mut rebuilt = Vec::new();
    for id in doubtful {
        let before = routes.get(&id).cloned();
        let after = cluster.route(&id).map(|route| resolver.build_route(route));
        if before.as_deref() == after.as_ref() {
            continue;
        }
        let after = after.map(Arc::new);
        let all = Arc::make_mut(routes);
        match &after {
            Some(after) => drop(all.insert(id.clone(), after.clone())),
            None => drop(all.remove(&id)),
        }
        rebuilt.push(Rebuilt { id, before, after });
    }
    rebuilt
}

/// Whether there are GRPCRoutes, of which HTTPRoutes may want the same hosts.
fn has_rivals(routes: &BTreeMap<ObjectId, Arc<BuiltRoute>>) -> bool {
    let first = ObjectId { kind: Kind::GrpcRoute, key: Key::new("", "") };
    routes.range(first..).next().is_some_and(|(id, _)| id.kind == Kind::GrpcRoute)
}

/// What was there, if what is there now is equal to it.
fn keep<T: PartialEq>(last: &Arc<T>, now: T) -> Arc<T> {
    if **last == now { last.clone() } else { Arc::new(now) }
}
