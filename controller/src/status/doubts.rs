//! Which objects may need another status than the last time.
//!
//! Inputs: two passes. Outputs: the routes and Backends, of which there are many, that differ between the two, or of which
//! something else was said. What their statuses are made of is all in there. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use understudy_conf::differences;

use crate::cluster::{Key, Object, Objects};
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
    Some { routes: BTreeSet<Key>, backends: BTreeSet<Key> },
}

impl Doubts {
    /// What is in doubt since another pass.
    pub(crate) fn between(last: &Pass, pass: &Pass) -> Self {
        let (before, now) = (&last.cluster, &pass.cluster);
        if has_class(before) != has_class(now) || has_other_manager(before) != has_other_manager(now) {
            return Self::Everything;
        }
        let mut routes = other_versions(&before.http_routes, &now.http_routes);
        let mut backends = other_versions(&before.backends, &now.backends);
        routes.extend(others(&last.graph.routes, &pass.graph.routes));
        backends.extend(others(&last.graph.backends, &pass.graph.backends));
        if !Arc::ptr_eq(&last.diagnostics, &pass.diagnostics) {
            let labels = Findings::new(&last.diagnostics).differing(&Findings::new(&pass.diagnostics));
            for label in labels {
                if let Some(key) = key_of(&label, Kind::HttpRoute) {
                    routes.insert(key);
                } else if let Some(key) = key_of(&label, Kind::Backend) {
                    backends.insert(key);
                }
            }
        }
        Self::Some { routes, backends }
    }

    /// Whether an object is in doubt.
    pub(crate) fn include(&self, id: &ObjectId) -> bool {
        match (self, id.kind) {
            (Self::Some { routes, .. }, Kind::HttpRoute) => routes.contains(&id.key),
            (Self::Some { backends, .. }, Kind::Backend) => backends.contains(&id.key),
            _ => true,
        }
    }

    /// The routes in doubt.
    pub(super) fn routes<'m, V>(&'m self, all: &'m BTreeMap<Key, V>) -> Vec<&'m V> {
        match self {
            Self::Everything => all.values().collect(),
            Self::Some { routes, .. } => routes.iter().filter_map(|key| all.get(key)).collect(),
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
    add(Kind::HttpRoute, other_versions(&before.http_routes, &now.http_routes));
    add(Kind::Backend, other_versions(&before.backends, &now.backends));
    add(Kind::BackendTrafficPolicy, other_versions(&before.policies, &now.policies));
    add(Kind::BackendTlsPolicy, other_versions(&before.backend_tls_policies, &now.backend_tls_policies));
    found
}

fn other_versions<T>(before: &Objects<T>, now: &Objects<T>) -> BTreeSet<Key> {
    if Arc::ptr_eq(before, now) {
        return BTreeSet::new();
    }
    let same =
        |before: &Arc<Object<T>>, now: &Arc<Object<T>>| Arc::ptr_eq(before, now) || before.is_version_of(now);
    differences(before, now, same).map(|(key, ..)| key.clone()).collect()
}

fn others<T>(before: &Arc<BTreeMap<Key, Arc<T>>>, now: &Arc<BTreeMap<Key, Arc<T>>>) -> Vec<Key> {
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
