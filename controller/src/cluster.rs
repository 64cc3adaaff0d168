//! Second stage: the cluster's state, as plain maps of typed objects with their origins.
//!
//! Inputs: what the watch stage found. Outputs: a [`Cluster`], in which every object stands once, in an order
//! that does not depend on the order of files.

use std::borrow::Cow;
use std::cmp::Ordering;
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
use k8s_openapi::api::networking::v1::ServiceCIDR;
use understudy_crds::{Backend, BackendTrafficPolicy};

use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::watch::kubernetes::unpacked;
use crate::watch::{Kind, KnownObject, ListenerSet, Node, ObjectId, Remains};

/// Namespace and name; the namespace is empty for kinds without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        // Where versions of a cluster are compared, most keys are the very same.
        if Arc::ptr_eq(&self.name, &other.name) && Arc::ptr_eq(&self.namespace, &other.namespace) {
            return Ordering::Equal;
        }
        (&*self.namespace, &*self.name).cmp(&(&*other.namespace, &*other.name))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
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
    /// `None` for objects of an API server.
    pub(crate) file: Option<Arc<str>>,
    line: u32,
    tree: Arc<Node>,
}

impl Origin {
    pub(crate) fn new(file: Option<Arc<str>>, line: u32, tree: Arc<Node>) -> Self {
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
    pub(crate) kind: Kind,
    pub(crate) key: Key,
    /// `HTTPRoute default/shop`.
    pub(crate) label: Arc<str>,
    /// Seconds since 1970; 0 if unknown.
    pub(crate) created: i64,
    pub(crate) labels: Arc<BTreeMap<String, String>>,
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
            kind: id.kind,
            key: id.key.clone(),
            label: id.to_string().into(),
            created,
            labels: Arc::new(labels),
            is_valid: true,
            value: Arc::new(value),
            origin,
        }
    }

    pub(crate) fn id(&self) -> ObjectId {
        ObjectId { kind: self.kind, key: self.key.clone() }
    }

    /// A field of the object, as a place for diagnostics.
    pub(crate) fn at(&self, field: &str) -> Place {
        Place::field(&self.origin, &self.label, field)
    }

    fn metadata(&self) -> Option<&Node> {
        self.origin.tree().child("metadata")
    }

    /// Counts the changes of what the object asks for; 0 if unknown.
    pub(crate) fn generation(&self) -> i64 {
        self.metadata().and_then(|metadata| metadata.integer("generation")).unwrap_or(0)
    }

    /// The version of the object, which every write changes; empty if unknown.
    pub(crate) fn resource_version(&self) -> &str {
        self.metadata().and_then(|metadata| metadata.text("resourceVersion")).unwrap_or("")
    }

    /// What controllers reported.
    pub(crate) fn status(&self) -> Option<Cow<'_, Node>> {
        self.origin.tree().child("status").map(unpacked)
    }

    /// `FILE:LINE`, or the object's name where it comes from no file.
    pub(crate) fn location(&self) -> String {
        match &self.origin.file {
            Some(file) => format!("{file}:{}", self.origin.line),
            None => self.label.to_string(),
        }
    }

    /// What the object was read from: metadata and status, and the rest where it may be needed.
    #[cfg(test)]
    pub(crate) fn tree(&self) -> &Node {
        self.origin.tree()
    }

    pub(crate) fn set_tree(&mut self, tree: Arc<Node>) {
        self.origin.tree = tree;
    }

    /// Whether another version of the object means the same, whatever its status is. Those of files never do: their
    /// lines count.
    pub(crate) fn means_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value)
            && self.is_valid == other.is_valid
            && self.origin.file.is_none()
            && other.origin.file.is_none()
    }

    /// Whether it is the same version of the object, read once.
    pub(crate) fn is_version_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value) && Arc::ptr_eq(&self.origin.tree, &other.origin.tree)
    }

    /// What decides between objects that want the same: the older wins, then the name.
    pub(crate) fn seniority(&self) -> (i64, &Key) {
        // Unknown age counts as youngest, so that what has an age keeps what it has.
        (if self.created == 0 { i64::MAX } else { self.created }, &self.key)
    }
}

impl Object<ListenerSet> {
    /// The same in the words of a Gateway.
    pub(crate) fn as_gateway(&self) -> Object<Gateway> {
        Object {
            kind: self.kind,
            key: self.key.clone(),
            label: self.label.clone(),
            created: self.created,
            labels: self.labels.clone(),
            is_valid: self.is_valid,
            value: self.value.as_gateway.clone(),
            origin: self.origin.clone(),
        }
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
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refused {
    /// `FILE:LINE`, or the object's name where it comes from no file.
    pub(crate) location: String,
    /// A fallback must not become a primary by a mistake elsewhere, nor what TLS was asked for be served in clear text.
    pub(crate) remains: Remains,
}

/// The objects of a kind. Shared, so that a pass over a live cluster can keep them while the next one changes.
pub(crate) type Objects<T> = Arc<BTreeMap<Key, Arc<Object<T>>>>;

/// Every object that counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cluster {
    pub(crate) namespaces: Objects<Namespace>,
    pub(crate) gateway_classes: Objects<GatewayClass>,
    pub(crate) gateways: Objects<Gateway>,
    pub(crate) listener_sets: Objects<ListenerSet>,
    pub(crate) http_routes: Objects<HttpRoute>,
    /// Routes of the other kinds are kept in the words of an HTTPRoute.
    pub(crate) grpc_routes: Objects<HttpRoute>,
    pub(crate) tls_routes: Objects<HttpRoute>,
    pub(crate) tcp_routes: Objects<HttpRoute>,
    pub(crate) udp_routes: Objects<HttpRoute>,
    pub(crate) reference_grants: Objects<ReferenceGrant>,
    pub(crate) backend_tls_policies: Objects<BackendTlsPolicy>,
    pub(crate) backends: Objects<Backend>,
    pub(crate) policies: Objects<BackendTrafficPolicy>,
    pub(crate) services: Objects<Service>,
    pub(crate) endpoint_slices: Objects<EndpointSlice>,
    /// The slices of each Service, in the order of their names.
    slices_by_service: Arc<BTreeMap<Key, BTreeSet<Key>>>,
    pub(crate) secrets: Objects<Secret>,
    pub(crate) config_maps: Objects<ConfigMap>,
    pub(crate) nodes: Objects<ClusterNode>,
    /// The ranges of the Services' own addresses; none where the cluster does not tell.
    pub(crate) service_cidrs: Objects<ServiceCIDR>,
    /// Objects that are there and could not be read.
    pub(crate) refused: Arc<BTreeMap<ObjectId, Refused>>,
}

/// The label by which an EndpointSlice belongs to a Service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

macro_rules! maps {
    ($($kind:ident: $map:ident,)+) => {
        impl Cluster {
            /// Adds an object, unless one with its name is there already.
            pub(crate) fn add(&mut self, object: KnownObject, diagnostics: &mut Vec<Diagnostic>) {
                match object {
                    $(KnownObject::$kind(object) => match self.$map.get(&object.key) {
                        Some(first) => {
                            diagnostics.push(reasons::duplicate_object(&object.at(""), &first.location()));
                        }
                        None => self.replace(KnownObject::$kind(object)),
                    },)+
                }
            }

            /// Adds an object in place of the one with its name, if there is one.
            pub(crate) fn replace(&mut self, object: KnownObject) {
                match object {
                    $(KnownObject::$kind(object) => {
                        let id = ObjectId { kind: Kind::$kind, key: object.key.clone() };
                        self.unlink(&id);
                        let service = (id.kind == Kind::EndpointSlice).then(|| service_of(&object)).flatten();
                        if let Some(service) = service {
                            let slices = Arc::make_mut(&mut self.slices_by_service);
                            slices.entry(service).or_default().insert(object.key.clone());
                        }
                        Arc::make_mut(&mut self.$map).insert(id.key, Arc::new(object));
                    })+
                }
            }

            /// Replaces what an object was read from, where that means the same.
            pub(crate) fn set_tree(&mut self, id: &ObjectId, tree: Arc<Node>) {
                match id.kind {
                    $(Kind::$kind => if let Some(object) = Arc::make_mut(&mut self.$map).get_mut(&id.key) {
                        Arc::make_mut(object).set_tree(tree);
                    },)+
                }
            }

            /// Removes an object, whether it could be read or not.
            pub(crate) fn remove(&mut self, id: &ObjectId) {
                self.unlink(id);
                if self.refused.contains_key(id) {
                    Arc::make_mut(&mut self.refused).remove(id);
                }
                match id.kind {
                    $(Kind::$kind => if self.$map.contains_key(&id.key) {
                        Arc::make_mut(&mut self.$map).remove(&id.key);
                    },)+
                }
            }
        }
    };
}

maps! {
    Namespace: namespaces,
    GatewayClass: gateway_classes,
    Gateway: gateways,
    ListenerSet: listener_sets,
    HttpRoute: http_routes,
    GrpcRoute: grpc_routes,
    TlsRoute: tls_routes,
    TcpRoute: tcp_routes,
    UdpRoute: udp_routes,
    ReferenceGrant: reference_grants,
    BackendTlsPolicy: backend_tls_policies,
    Backend: backends,
    BackendTrafficPolicy: policies,
    Service: services,
    EndpointSlice: endpoint_slices,
    Secret: secrets,
    ConfigMap: config_maps,
    Node: nodes,
    ServiceCidr: service_cidrs,
}

impl Cluster {
    /// The routes of a kind; `None` for kinds that are no routes.
    pub(crate) fn routes_of(&self, kind: Kind) -> Option<&Objects<HttpRoute>> {
        match kind {
            Kind::HttpRoute => Some(&self.http_routes),
            Kind::GrpcRoute => Some(&self.grpc_routes),
            Kind::TlsRoute => Some(&self.tls_routes),
            Kind::TcpRoute => Some(&self.tcp_routes),
            Kind::UdpRoute => Some(&self.udp_routes),
            _ => None,
        }
    }

    /// The routes of all kinds.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Object<HttpRoute>>> {
        Kind::ROUTES.into_iter().filter_map(|kind| self.routes_of(kind)).flat_map(|routes| routes.values())
    }

    /// A route.
    pub(crate) fn route(&self, id: &ObjectId) -> Option<&Object<HttpRoute>> {
        self.routes_of(id.kind)?.get(&id.key).map(AsRef::as_ref)
    }

    /// The slices of a Service, in the order of their names.
    pub(crate) fn slices_of(&self, service: &Key) -> Vec<&Object<EndpointSlice>> {
        let keys = self.slices_by_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.endpoint_slices.get(key)).map(AsRef::as_ref).collect()
    }

    /// Takes a slice from its Service.
    fn unlink(&mut self, id: &ObjectId) {
        if id.kind != Kind::EndpointSlice {
            return;
        }
        let Some(service) = self.endpoint_slices.get(&id.key).and_then(|slice| service_of(slice)) else {
            return;
        };
        let slices = Arc::make_mut(&mut self.slices_by_service);
        if let Some(of_service) = slices.get_mut(&service) {
            of_service.remove(&id.key);
            if of_service.is_empty() {
                slices.remove(&service);
            }
        }
    }
}

/// The Service that a slice belongs to.
pub(crate) fn service_of<T>(slice: &Object<T>) -> Option<Key> {
    slice.labels.get(SERVICE_NAME).map(|service| Key::new(&slice.key.namespace, service))
}
