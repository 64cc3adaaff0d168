//! What differs between two versions of the cluster's state, by what objects mean: statuses are no difference.
//!
//! Inputs: two [`Cluster`]s. Outputs: [`Changes`], found by walking both, so that nobody has to say what he changed. A map
//! that both share is not walked.

use std::collections::BTreeSet;
use std::sync::Arc;

use understudy_conf::differences;

use crate::cluster::{Cluster, Key, Object, Objects, service_of};
use crate::watch::{Kind, ObjectId};

/// What differs.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Gateways or ListenerSets.
    pub(crate) gateways: bool,
    pub(crate) tls_policies: bool,
    pub(crate) policies: bool,
    /// Secrets or ConfigMaps.
    pub(crate) contents: bool,
    pub(crate) refused: bool,
    pub(crate) namespaces: BTreeSet<Arc<str>>,
    /// The namespaces of ReferenceGrants.
    pub(crate) grants: BTreeSet<Arc<str>>,
    pub(crate) routes: BTreeSet<ObjectId>,
    pub(crate) backends: BTreeSet<Key>,
    pub(crate) services: BTreeSet<Key>,
    /// Services of which the object or a slice differs.
    pub(crate) endpoints: BTreeSet<Key>,
}

impl Changes {
    pub(crate) fn between(old: &Cluster, new: &Cluster) -> Self {
        let services = differing(&old.services, &new.services);
        let mut endpoints = services.clone();
        for slice in differing(&old.endpoint_slices, &new.endpoint_slices) {
            let versions = [old.endpoint_slices.get(&slice), new.endpoint_slices.get(&slice)];
            endpoints.extend(versions.into_iter().flatten().filter_map(|slice| service_of(slice)));
        }
        let namespaces_of = |keys: BTreeSet<Key>| keys.into_iter().map(|key| key.namespace).collect();
        Self {
            gateways: !differing(&old.gateways, &new.gateways).is_empty()
                || !differing(&old.listener_sets, &new.listener_sets).is_empty(),
            tls_policies: !differing(&old.backend_tls_policies, &new.backend_tls_policies).is_empty(),
            policies: !differing(&old.policies, &new.policies).is_empty(),
            contents: !differing(&old.secrets, &new.secrets).is_empty()
                || !differing(&old.config_maps, &new.config_maps).is_empty(),
            refused: !Arc::ptr_eq(&old.refused, &new.refused) && old.refused != new.refused,
            namespaces: differing(&old.namespaces, &new.namespaces).into_iter().map(|key| key.name).collect(),
            grants: namespaces_of(differing(&old.reference_grants, &new.reference_grants)),
            routes: differing_routes(old, new),
            backends: differing(&old.backends, &new.backends),
            services,
            endpoints,
        }
    }
}

impl Changes {
    /// Whether no route differs for it but those that differ themselves.
    pub(crate) fn are_for_no_other_route(&self) -> bool {
        self.services.is_empty()
            && self.backends.is_empty()
            && self.grants.is_empty()
            && self.namespaces.is_empty()
            && !self.contents
    }
}

fn differing_routes(old: &Cluster, new: &Cluster) -> BTreeSet<ObjectId> {
    let mut routes = BTreeSet::new();
    for kind in Kind::ROUTES {
        if let (Some(old), Some(new)) = (old.routes_of(kind), new.routes_of(kind)) {
            routes.extend(differing(old, new).into_iter().map(|key| ObjectId { kind, key }));
        }
    }
    routes
}

/// The objects that are in one version only, or mean something else in the other.
fn differing<T>(old: &Objects<T>, new: &Objects<T>) -> BTreeSet<Key> {
    if Arc::ptr_eq(old, new) {
        return BTreeSet::new();
    }
    let same = |old: &Arc<Object<T>>, new: &Arc<Object<T>>| Arc::ptr_eq(old, new) || old.means_the_same(new);
    differences(old, new, same).map(|(key, ..)| key.clone()).collect()
}
