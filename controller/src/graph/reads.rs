//! What a route was built of beside itself, so that it is built again only where some of that differs.
//!
//! Not noted is what each route may have read and seldom changes: with the Gateways, the BackendTLSPolicies and what could
//! not be read, all routes are built again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::changes::Changes;
use crate::cluster::Key;

/// What a route read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Reads {
    services: Vec<Key>,
    backends: Vec<Key>,
    /// The Backends to which a Gateway's certificate is shown, so that the route is another one when that changes.
    shown_certificates: Vec<Key>,
    /// The namespaces of whose Services the names were compared.
    services_in: Vec<Arc<str>>,
    /// The same, of Backends.
    backends_in: Vec<Arc<str>>,
    /// The namespaces of which ReferenceGrants were looked for.
    grants: Vec<Arc<str>>,
    /// Whether Secrets or ConfigMaps were read.
    contents: bool,
}

impl Reads {
    /// The object of a Service was read, or missed.
    pub(super) fn service(&mut self, key: &Key) {
        note(&mut self.services, key);
    }

    /// What routes see of a Backend was read, or missed.
    pub(super) fn backend(&mut self, key: &Key) {
        note(&mut self.backends, key);
    }

    /// A Gateway's certificate is shown to a Backend.
    pub(super) fn shown_certificate(&mut self, key: &Key) {
        note(&mut self.shown_certificates, key);
    }

    pub(super) fn services_in(&mut self, namespace: &Arc<str>) {
        note(&mut self.services_in, namespace);
    }

    pub(super) fn backends_in(&mut self, namespace: &Arc<str>) {
        note(&mut self.backends_in, namespace);
    }

    pub(super) fn grants(&mut self, namespace: &Arc<str>) {
        note(&mut self.grants, namespace);
    }

    pub(super) fn contents(&mut self) {
        self.contents = true;
    }

    /// Whether anything of it differs. `faces` are the Backends of which routes see a difference.
    pub(super) fn differ(&self, changes: &Changes, faces: &BTreeSet<Key>) -> bool {
        let any =
            |keys: &[Key], of: &BTreeSet<Key>| !of.is_empty() && keys.iter().any(|key| of.contains(key));
        let any_in = |namespaces: &[Arc<str>], of: &BTreeSet<Key>| {
            namespaces.iter().any(|namespace| of.iter().any(|key| key.namespace == *namespace))
        };
        any(&self.services, &changes.services)
            || any(&self.backends, faces)
            || any_in(&self.services_in, &changes.services)
            || any_in(&self.backends_in, &changes.backends)
            || self.grants.iter().any(|namespace| changes.grants.contains(namespace))
            || self.contents && changes.contents
    }
}

fn note<T: PartialEq + Clone>(noted: &mut Vec<T>, one: &T) {
    if !noted.contains(one) {
        noted.push(one.clone());
    }
}
