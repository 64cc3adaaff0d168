//! HTTPRoutes and GRPCRoutes that want the same hosts of one listener: the oldest has them, then the first by name. One of
//! which no rule acts is not accepted anyway, and takes no host from another.
//!
//! Of TCPRoutes and UDPRoutes on one listener, nothing is taken: Gateway API counts them all. Those that get no traffic are
//! told so.
//!
//! Inputs: the routes as each of them is by itself. Outputs: the same, without the attachments that were lost, and with
//! what is said of that. A route that lost a listener takes it from no other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use understudy_conf::Hostname;

use crate::cluster::{Cluster, Key};
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::builder::Routes;
use crate::graph::gateway::GatewayNode;
use crate::graph::{AttachmentNode, BuiltRoute};
use crate::watch::{Kind, ObjectId};

/// A listener that is served: its Gateway, and its place among that one's.
type Place<'g> = (&'g Key, usize);

/// A route on a listener.
struct Claim<'r> {
    id: &'r ObjectId,
    created: i64,
    acts: bool,
    hostnames: &'r [Hostname],
}

/// Takes from routes the listeners whose hosts another kind's route has. What is equal to `last` is shared with it.
pub(super) fn resolve_hosts(
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    bound: &Routes,
    last: &Routes,
) -> Routes {
    let lost = find_losers(bound);
    if lost.is_empty() {
        return bound.clone();
    }
    let mut routes = bound.clone();
    let all = Arc::make_mut(&mut routes);
    for (id, places) in lost {
        let Some(route) = bound.get(&id) else { continue };
        let without = take_listeners(cluster, gateways, &id, route, &places);
        let same = last.get(&id).filter(|known| ***known == without).cloned();
        all.insert(id, same.unwrap_or_else(|| Arc::new(without)));
    }
    routes
}

/// The routes that lose listeners, with the route that has each of them.
fn find_losers(bound: &Routes) -> BTreeMap<ObjectId, BTreeMap<(Key, usize), ObjectId>> {
    let attachments = |kind: Kind| {
        let routes = bound.iter().filter(move |(id, _)| id.kind == kind);
        routes.filter_map(|(id, route)| Some((id, route.node.as_ref()?))).flat_map(|(id, node)| {
            node.attachments.iter().map(move |attachment| {
                let hostnames = attachment.hostnames.as_slice();
                (place_of(attachment), Claim { id, created: node.created, acts: node.acts, hostnames })
            })
        })
    };
    let mut claims: BTreeMap<Place<'_>, Vec<Claim<'_>>> = BTreeMap::new();
    for (place, claim) in attachments(Kind::GrpcRoute) {
        claims.entry(place).or_default().push(claim);
    }
    for (place, claim) in attachments(Kind::HttpRoute) {
        if let Some(rivals) = claims.get_mut(&place) {
            rivals.push(claim);
        }
    }
    let mut lost: BTreeMap<ObjectId, BTreeMap<(Key, usize), ObjectId>> = BTreeMap::new();
    for ((gateway, listener), mut claims) in claims {
        claims.sort_by(|a, b| {
            let rank = |claim: &Claim<'_>| (!claim.acts, age(claim.created));
            (rank(a), &a.id.key, a.id.kind).cmp(&(rank(b), &b.id.key, b.id.kind))
        });
        let mut winners: Vec<Claim<'_>> = Vec::new();
        for claim in claims {
            let rival = winners
                .iter()
                .find(|winner| winner.id.kind != claim.id.kind && overlap(winner.hostnames, claim.hostnames));
            match rival {
                Some(rival) => {
                    let places = lost.entry(claim.id.clone()).or_default();
                    places.insert((gateway.clone(), listener), rival.id.clone());
                }
                None => winners.push(claim),
            }
        }
    }
    lost
}

fn place_of(attachment: &AttachmentNode) -> Place<'_> {
    (&attachment.gateway, attachment.listener)
}

/// Says of TCPRoutes and UDPRoutes which listeners an older one has.
pub(super) fn report_idle(
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    routes: &Routes,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let first = ObjectId { kind: Kind::TcpRoute, key: Key::new("", "") };
    let streams =
        routes.range(first..).take_while(|(id, _)| matches!(id.kind, Kind::TcpRoute | Kind::UdpRoute));
    let mut nodes: Vec<_> = streams.filter_map(|(_, route)| route.node.as_ref()).collect();
    nodes.sort_by(|a, b| (age(a.created), &a.id.key).cmp(&(age(b.created), &b.id.key)));
    let mut owners: BTreeMap<Place<'_>, &ObjectId> = BTreeMap::new();
    for node in nodes {
        for attachment in &node.attachments {
            let owner = *owners.entry(place_of(attachment)).or_insert(&node.id);
            let (gateway, listener) = place_of(attachment);
            let listener = gateways.get(gateway).and_then(|node| node.listeners.get(listener));
            if let (Some(object), Some(listener)) = (cluster.route(&node.id), listener)
                && *owner != node.id
            {
                let place = object.at("spec.rules");
                diagnostics.push(reasons::idle_on_listener(&place, gateway, listener.name.as_str(), owner));
            }
        }
    }
}

/// Unknown age counts as youngest.
fn age(created: i64) -> i64 {
    if created == 0 { i64::MAX } else { created }
}

/// Whether a host belongs to both; no hostnames are all.
fn overlap(a: &[Hostname], b: &[Hostname]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|one| b.iter().any(|other| one.intersect(other).is_some()))
}

/// A route without listeners that others have.
fn take_listeners(
    cluster: &Cluster,
    gateways: &BTreeMap<Key, GatewayNode>,
    id: &ObjectId,
    route: &BuiltRoute,
    lost: &BTreeMap<(Key, usize), ObjectId>,
) -> BuiltRoute {
    let mut route = route.clone();
    let is_lost = |gateway: &Key, listener: usize| lost.get(&(gateway.clone(), listener));
    // By their places in the spec.
    let places = |gateway: &Key, wanted: &dyn Fn(usize) -> bool| -> BTreeSet<usize> {
        let Some(node) = gateways.get(gateway) else { return BTreeSet::new() };
        let named = node.listeners.iter().enumerate().filter(|(index, _)| wanted(*index));
        let shapes = node.shapes.iter().enumerate();
        named
            .filter_map(|(_, listener)| {
                shapes
                    .clone()
                    .find(|(_, shape)| shape.as_ref() == Some(&listener.shape))
                    .map(|(index, _)| index)
            })
            .collect()
    };
    let object = cluster.route(id);
    for parent in &mut route.parents {
        let gone = places(&parent.gateway, &|index| is_lost(&parent.gateway, index).is_some());
        let Some(first) = parent.listeners.iter().find(|listener| gone.contains(listener)).copied() else {
            continue;
        };
        parent.listeners.retain(|listener| !gone.contains(listener));
        let served = places(&parent.gateway, &|index| is_lost(&parent.gateway, index).is_none());
        if parent.refusal.is_some() || parent.listeners.iter().any(|listener| served.contains(listener)) {
            continue;
        }
        let rival = lost.iter().find(|((gateway, listener), _)| {
            *gateway == parent.gateway && places(gateway, &|index| index == *listener).contains(&first)
        });
        // Of a route that is not accepted anyway its own errors say more.
        let acts = route.node.as_ref().is_none_or(|node| node.acts);
        if let (Some((_, rival)), Some(object), true) = (rival, object, acts) {
            let place = object.at(&format!("spec.parentRefs[{}].name", parent.index));
            let refusal = reasons::host_taken(&place, &parent.gateway, &rival.to_string());
            route.trace.diagnostics.push(refusal.clone());
            parent.refusal = Some(refusal.into());
        }
    }
    if let Some(node) = &mut route.node {
        node.attachments.retain(|attachment| is_lost(&attachment.gateway, attachment.listener).is_none());
    }
    if route.node.as_ref().is_some_and(|node| node.attachments.is_empty()) {
        route.node = None;
    }
    route
}
