//! Second stage: the cluster's state, as plain maps of typed objects with their origins.
//!
//! Inputs: what the watch stage found. Outputs: a [`Cluster`], in which every object stands once, in an order
//! that does not depend on the order of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use gateway_api::apis::experimental::gatewayclasses::GatewayClass;
use gateway_api::apis::experimental::gateways::Gateway;
use gateway_api::apis::experimental::httproutes::HttpRoute;
use gateway_api::apis::experimental::referencegrants::ReferenceGrant;
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node as ClusterNode, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use understudy_crds::{Backend, BackendTrafficPolicy};

use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::watch::{KnownObject, Node, ObjectId, Remains};

/// Namespace and name; the namespace is empty for kinds without one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// Where an object came from.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) file: Arc<str>,
    line: u32,
    tree: Arc<Node>,
}

impl Origin {
    pub(crate) fn new(file: Arc<str>, line: u32, tree: Arc<Node>) -> Self {
        Self { file, line, tree }
    }

    pub(crate) fn tree(&self) -> &Node {
        &self.tree
    }

    /// The line of a field, or of the nearest field above it that exists.
    pub(crate) fn line_of(&self, field: &str) -> u32 {
        if field.is_empty() { self.line } else { self.tree.line_of(field) }
    }
}

/// A typed object.
#[derive(Debug, Clone)]
pub(crate) struct Object<T> {
    pub(crate) key: Key,
    /// `HTTPRoute default/shop`.
    pub(crate) label: Arc<str>,
    /// Seconds since 1970; 0 if unknown.
    pub(crate) created: i64,
    pub(crate) labels: BTreeMap<String, String>,
    /// Whether it breaks no rule of its kind.
    pub(crate) is_valid: bool,
    pub(crate) value: Arc<T>,
    origin: Origin,
}

impl<T> Object<T> {
    pub(crate) fn new(id: &ObjectId, value: T, origin: Origin) -> Self {
        let metadata = origin.tree().child("metadata");
        let created = metadata
            .and_then(|metadata| metadata.text("creationTimestamp"))
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .map_or(0, jiff::Timestamp::as_second);
        let labels = metadata.and_then(|metadata| metadata.child("labels")).map(texts).unwrap_or_default();
        Self {
            key: id.key.clone(),
            label: id.to_string().into(),
            created,
            labels,
            is_valid: true,
            value: Arc::new(value),
            origin,
        }
    }

    /// A field of the object, as a place for diagnostics.
    pub(crate) fn at(&self, field: &str) -> Place {
        Place::field(&self.origin, &self.label, field)
    }

    /// `FILE:LINE`.
    pub(crate) fn location(&self) -> String {
        format!("{}:{}", self.origin.file, self.origin.line)
    }

    /// What decides between objects that want the same: the older wins, then the name.
    pub(crate) fn seniority(&self) -> (i64, &Key) {
        // Unknown age counts as youngest, so that what has an age keeps what it has.
        (if self.created == 0 { i64::MAX } else { self.created }, &self.key)
    }
}

fn texts(node: &Node) -> BTreeMap<String, String> {
    match &node.value {
        crate::watch::NodeValue::Map(entries) => entries
            .iter()
            .filter_map(|entry| Some((entry.key.clone(), node.text(&entry.key)?.to_owned())))
            .collect(),
        _ => BTreeMap::new(),
    }
}

/// An object that could not be read.
#[derive(Debug, Clone)]
pub(crate) struct Refused {
    /// `FILE:LINE`.
    pub(crate) location: String,
    /// A fallback must not become a primary by a mistake elsewhere, nor what TLS was asked for be served in clear text.
    pub(crate) remains: Remains,
}

/// Every object that counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) namespaces: BTreeMap<Key, Object<Namespace>>,
    pub(crate) gateway_classes: BTreeMap<Key, Object<GatewayClass>>,
    pub(crate) gateways: BTreeMap<Key, Object<Gateway>>,
    pub(crate) http_routes: BTreeMap<Key, Object<HttpRoute>>,
    pub(crate) reference_grants: BTreeMap<Key, Object<ReferenceGrant>>,
    pub(crate) backend_tls_policies: BTreeMap<Key, Object<BackendTlsPolicy>>,
    pub(crate) backends: BTreeMap<Key, Object<Backend>>,
    pub(crate) policies: BTreeMap<Key, Object<BackendTrafficPolicy>>,
    pub(crate) services: BTreeMap<Key, Object<Service>>,
    pub(crate) endpoint_slices: BTreeMap<Key, Object<EndpointSlice>>,
    /// The slices of each Service, in the order of their names.
    slices_by_service: BTreeMap<Key, BTreeSet<Key>>,
    pub(crate) secrets: BTreeMap<Key, Object<Secret>>,
    pub(crate) config_maps: BTreeMap<Key, Object<ConfigMap>>,
    pub(crate) nodes: BTreeMap<Key, Object<ClusterNode>>,
    /// Objects that stand in a manifest and could not be read.
    pub(crate) refused: BTreeMap<ObjectId, Refused>,
}

/// The label by which an EndpointSlice belongs to a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

impl Cluster {
    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices_of(&self, service: &Key) -> Vec<&Object<EndpointSlice>> {
        let keys = self.slices_by_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.endpoint_slices.get(key)).collect()
    }

    /// Adds an object, unless one with its name is there already.
    pub(crate) fn add(&mut self, object: KnownObject, diagnostics: &mut Vec<Diagnostic>) {
        match object {
            KnownObject::Namespace(object) => insert(&mut self.namespaces, object, diagnostics),
            KnownObject::GatewayClass(object) => insert(&mut self.gateway_classes, object, diagnostics),
            KnownObject::Gateway(object) => insert(&mut self.gateways, object, diagnostics),
            KnownObject::HttpRoute(object) => insert(&mut self.http_routes, object, diagnostics),
            KnownObject::ReferenceGrant(object) => insert(&mut self.reference_grants, object, diagnostics),
            KnownObject::BackendTlsPolicy(object) => {
                insert(&mut self.backend_tls_policies, object, diagnostics)
            }
            KnownObject::Backend(object) => insert(&mut self.backends, object, diagnostics),
            KnownObject::BackendTrafficPolicy(object) => insert(&mut self.policies, object, diagnostics),
            KnownObject::Service(object) => insert(&mut self.services, object, diagnostics),
            KnownObject::EndpointSlice(object) => {
                if let Some(service) = object.labels.get(SERVICE_NAME) {
                    let service = Key::new(&object.key.namespace, service);
                    self.slices_by_service.entry(service).or_default().insert(object.key.clone());
                }
                insert(&mut self.endpoint_slices, object, diagnostics);
            }
            KnownObject::Secret(object) => insert(&mut self.secrets, object, diagnostics),
            KnownObject::ConfigMap(object) => insert(&mut self.config_maps, object, diagnostics),
            KnownObject::Node(object) => insert(&mut self.nodes, object, diagnostics),
        }
    }
}

fn insert<T>(map: &mut BTreeMap<Key, Object<T>>, object: Object<T>, diagnostics: &mut Vec<Diagnostic>) {
    match map.get(&object.key) {
        Some(first) => diagnostics.push(reasons::duplicate_object(&object.at(""), &first.location())),
        None => {
            map.insert(object.key.clone(), object);
        }
    }
}
