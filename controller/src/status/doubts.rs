//! Which objects may need another status than the last time.
//!
//! Inputs: two passes. Outputs: the routes and Backends, of which there are many, that differ between the two, or of which
//! something else was said. What their statuses are made of is all in there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::apis::experimental::httproutes::HttpRoute;
use understudy_conf::differences;

use crate::cluster::{Cluster, Key, Object, Objects};
use crate::pass::Pass;
use crate::status::findings::Findings;
use crate::status::{has_class, has_other_manager};
use crate::watch::{Kind, ObjectId};

/// The objects in doubt.
#[derive(Debug)]
pub(crate) enum Doubts {
    /// All of them.
    Everything,
    /// These routes and Backends, and every object of the other kinds.
    Some { routes: BTreeSet<ObjectId>, backends: BTreeSet<Key> },
}

impl Doubts {
    /// What is in doubt since another pass.
    pub(crate) fn between(last: &Pass, pass: &Pass) -> Self {
        let (before, now) = (&last.cluster, &pass.cluster);
        if has_class(before) != has_class(now) || has_other_manager(before) != has_other_manager(now) {
            return Self::Everything;
        }
        let mut routes = BTreeSet::new();
        for kind in Kind::ROUTES {
            routes.extend(written_routes(before, now, kind));
        }
        let mut backends = other_versions(&before.backends, &now.backends);
        routes.extend(others(&last.graph.routes, &pass.graph.routes));
        backends.extend(others(&last.graph.backends, &pass.graph.backends));
        if !Arc::ptr_eq(&last.diagnostics, &pass.diagnostics) {
            let labels = Findings::new(&last.diagnostics).differing(&Findings::new(&pass.diagnostics));
            for label in labels {
                if let Some(key) = key_of(&label, Kind::Backend) {
                    backends.insert(key);
                }
                let route = |kind| Some(ObjectId { kind, key: key_of(&label, kind)? });
                routes.extend(Kind::ROUTES.into_iter().find_map(route));
            }
        }
        Self::Some { routes, backends }
    }

    /// Whether an object is in doubt.
    pub(crate) fn include(&self, id: &ObjectId) -> bool {
        match (self, id.kind) {
            (Self::Some { routes, .. }, kind) if kind.is_route() => routes.contains(id),
            (Self::Some { backends, .. }, Kind::Backend) => backends.contains(&id.key),
            _ => true,
        }
    }

    /// The routes in doubt.
    pub(super) fn routes<'m>(&'m self, cluster: &'m Cluster) -> Vec<&'m Object<HttpRoute>> {
        match self {
            Self::Everything => cluster.routes().map(AsRef::as_ref).collect(),
            Self::Some { routes, .. } => routes.iter().filter_map(|id| cluster.route(id)).collect(),
        }
    }

    /// The Backends in doubt.
    pub(super) fn backends<'m, V>(&'m self, all: &'m BTreeMap<Key, V>) -> Vec<&'m V> {
        match self {
            Self::Everything => all.values().collect(),
            Self::Some { backends, .. } => backends.iter().filter_map(|key| all.get(key)).collect(),
        }
    }
}

/// The objects with statuses that were written since another pass, by whomever.
pub(super) fn written_since(last: &Pass, pass: &Pass) -> BTreeSet<ObjectId> {
    let (before, now) = (&last.cluster, &pass.cluster);
    let mut found = BTreeSet::new();
    let mut add = |kind: Kind, keys: BTreeSet<Key>| {
        found.extend(keys.into_iter().map(|key| ObjectId { kind, key }));
    };
    add(Kind::GatewayClass, other_versions(&before.gateway_classes, &now.gateway_classes));
    add(Kind::Gateway, other_versions(&before.gateways, &now.gateways));
    add(Kind::ListenerSet, other_versions(&before.listener_sets, &now.listener_sets));
    add(Kind::Backend, other_versions(&before.backends, &now.backends));
    add(Kind::BackendTrafficPolicy, other_versions(&before.policies, &now.policies));
    add(Kind::BackendTlsPolicy, other_versions(&before.backend_tls_policies, &now.backend_tls_policies));
    for kind in Kind::ROUTES {
        found.extend(written_routes(before, now, kind));
    }
    found
}

/// The routes of a kind that are other versions.
fn written_routes(before: &Cluster, now: &Cluster, kind: Kind) -> Vec<ObjectId> {
    match (before.routes_of(kind), now.routes_of(kind)) {
        (Some(before), Some(now)) => {
            other_versions(before, now).into_iter().map(|key| ObjectId { kind, key }).collect()
        }
        _ => Vec::new(),
    }
}

fn other_versions<T>(before: &Objects<T>, now: &Objects<T>) -> BTreeSet<Key> {
    if Arc::ptr_eq(before, now) {
        return BTreeSet::new();
    }
    let same =
        |before: &Arc<Object<T>>, now: &Arc<Object<T>>| Arc::ptr_eq(before, now) || before.is_version_of(now);
    differences(before, now, same).map(|(key, ..)| key.clone()).collect()
}

fn others<K: Ord + Clone, T>(before: &Arc<BTreeMap<K, Arc<T>>>, now: &Arc<BTreeMap<K, Arc<T>>>) -> Vec<K> {
    if Arc::ptr_eq(before, now) {
        return Vec::new();
    }
    differences(before, now, Arc::ptr_eq).map(|(key, ..)| key.clone()).collect()
}

/// The object that a label names.
fn key_of(label: &str, kind: Kind) -> Option<Key> {
    let (namespace, name) = label.strip_prefix(kind.info().name)?.strip_prefix(' ')?.split_once('/')?;
    Some(Key::new(namespace, name))
}
