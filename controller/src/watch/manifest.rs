//! One manifest's text to typed objects.

use std::sync::Arc;

use gateway_api::apis::experimental::{gatewayclasses, gateways, httproutes, referencegrants};
use gateway_api::apis::standard::backendtlspolicies;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node as ClusterNode, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use understudy_crds::{Backend, BackendTrafficPolicy};

use crate::cluster::{Key, Object, Origin};
use crate::diagnostics::{Diagnostic, Place, reasons};
use crate::graph::validate_object;
use crate::watch::de::{TypeError, UnknownField, from_node};
use crate::watch::kinds::{Kind, Recognized, recognize};
use crate::watch::listener_sets::{self, ListenerSet};
use crate::watch::node::{Entry, Node, Value};
use crate::watch::{routes, yaml};

/// More findings than this are not listed for one manifest.
const MAX_FINDINGS: usize = 1000;

/// An object's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ObjectId {
    pub(crate) kind: Kind,
    pub(crate) key: Key,
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.key)
    }
}

/// An object that was named in a manifest.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: ObjectId,
    pub(crate) line: u32,
    /// What counts even where nothing else can be read.
    pub(crate) remains: Remains,
    /// `None` if it has not its kind's form.
    pub(crate) object: Option<KnownObject>,
}

/// What is known of an object that may not be readable.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Remains {
    /// Whether `spec.fallback` is true.
    pub(crate) fallback: bool,
    /// The kinds and names in `spec.targetRefs`; `None` where even they cannot be read.
    pub(crate) targets: Option<Vec<(String, String)>>,
}

impl Remains {
    fn of(node: &Node) -> Self {
        let Some(spec) = node.child("spec") else { return Self::default() };
        let fallback = spec.child("fallback").is_some_and(|node| node.value == Value::Bool(true));
        let targets = match spec.child("targetRefs").map(|refs| &refs.value) {
            Some(Value::List(refs)) => refs
                .iter()
                .map(|target| Some((target.text("kind")?.to_owned(), target.text("name")?.to_owned())))
                .collect(),
            _ => None,
        };
        Self { fallback, targets }
    }

    /// Whether it may have been meant for this object.
    pub(crate) fn may_target(&self, kind: &str, name: &str) -> bool {
        let named = |targets: &Vec<(String, String)>| targets.iter().any(|(k, n)| k == kind && n == name);
        self.targets.as_ref().is_none_or(named)
    }
}

/// What one manifest holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(crate) found: Vec<Found>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Whether it is no YAML at all, so that nothing is known of its objects.
    pub(crate) garbled: bool,
}

macro_rules! read_value {
    ($type:ty) => {
        from_node::<$type>
    };
    ($type:ty, $read:path) => {
        $read
    };
}

macro_rules! known_objects {
    ($($kind:ident: $type:ty $(, by $read:path)?;)+) => {
        /// A typed object of a kind that is read.
        #[derive(Debug, Clone)]
        pub(crate) enum KnownObject {
            $($kind(Object<$type>),)+
        }

        impl KnownObject {
            /// Whether it breaks no rule of its kind.
            pub(crate) fn is_valid(&self) -> bool {
                match self { $(Self::$kind(object) => object.is_valid,)+ }
            }

            /// Marks it as breaking a rule of its kind.
            pub(crate) fn set_invalid(&mut self) {
                match self { $(Self::$kind(object) => object.is_valid = false,)+ }
            }

            /// Replaces what it was read from.
            pub(crate) fn set_tree(&mut self, tree: Arc<Node>) {
                match self { $(Self::$kind(object) => object.set_tree(tree),)+ }
            }
        }

        fn read_typed(
            id: &ObjectId,
            tree: Node,
            origin: impl FnOnce(Node) -> Origin,
        ) -> (Result<KnownObject, TypeError>, Vec<UnknownField>) {
            match id.kind {
                $(Kind::$kind => {
                    let (result, unknown) = read_value!($type $(, $read)?)(&tree);
                    let known = result.map(|value| KnownObject::$kind(Object::new(id, value, origin(tree))));
                    (known, unknown)
                })+
            }
        }
    };
}

known_objects! {
    Namespace: Namespace;
    GatewayClass: gatewayclasses::GatewayClass;
    Gateway: gateways::Gateway;
    ListenerSet: ListenerSet, by listener_sets::read_listener_set;
    HttpRoute: httproutes::HttpRoute;
    GrpcRoute: httproutes::HttpRoute, by routes::read_grpc_route;
    TlsRoute: httproutes::HttpRoute, by routes::read_tls_route;
    TcpRoute: httproutes::HttpRoute, by routes::read_tcp_route;
    UdpRoute: httproutes::HttpRoute, by routes::read_udp_route;
    ReferenceGrant: referencegrants::ReferenceGrant;
    BackendTlsPolicy: backendtlspolicies::BackendTlsPolicy;
    Backend: Backend;
    BackendTrafficPolicy: BackendTrafficPolicy;
    Service: Service;
    EndpointSlice: EndpointSlice;
    Secret: Secret;
    ConfigMap: ConfigMap;
    Node: ClusterNode;
    ServiceCidr: ServiceCIDR;
}

/// Reads all objects of a manifest.
pub(crate) fn read_manifest(file: &Arc<str>, text: &str) -> Batch {
    let mut batch = Batch::default();
    match yaml::parse(text) {
        Err(error) => {
            let place = Place::line(file, error.line);
            batch.diagnostics.push(reasons::syntax(&place, error.message, error.remedy));
            batch.garbled = true;
        }
        Ok(documents) => {
            for document in documents {
                Reader { file, batch: &mut batch, duplicates: &document.duplicates }.read(&document.root);
            }
        }
    }
    batch
}

struct Reader<'a> {
    file: &'a Arc<str>,
    batch: &'a mut Batch,
    duplicates: &'a [yaml::DuplicateKey],
}

impl Reader<'_> {
    fn read(&mut self, root: &Node) {
        let items = match &root.value {
            // Every `…List` of the API has this form; the plain `List` is what `kubectl get -o yaml` writes.
            Value::Map(_) if root.text("kind").is_some_and(|kind| kind.ends_with("List")) => match root
                .child("items")
            {
                Some(Node { value: Value::List(items), .. }) => items,
                _ => {
                    let place = Place::line(self.file, root.line_of("items")).named(Some("List"), "items");
                    return self.report(reasons::malformed(
                        &place,
                        "it is no list",
                        "Give the objects as a list.",
                    ));
                }
            },
            _ => std::slice::from_ref(root),
        };
        let whole = items.len() == 1;
        for (index, item) in items.iter().enumerate() {
            let end = if whole { u32::MAX } else { items.get(index + 1).map_or(u32::MAX, |next| next.line) };
            self.read_object(item, end);
        }
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        match self.batch.diagnostics.len() {
            0..MAX_FINDINGS => self.batch.diagnostics.push(diagnostic),
            MAX_FINDINGS => {
                let more = reasons::more_findings(&Place::file(self.file), MAX_FINDINGS);
                self.batch.diagnostics.push(more);
            }
            _ => {}
        }
    }

    /// Reads one object, which ends before line `end`.
    fn read_object(&mut self, node: &Node, end: u32) {
        let here = Place::line(self.file, node.line);
        if !matches!(node.value, Value::Map(_)) {
            return self.report(reasons::malformed(
                &here,
                "the document is no Kubernetes object",
                "An object is a mapping with apiVersion, kind and metadata.",
            ));
        }
        let (Some(api_version), Some(kind)) = (node.text("apiVersion"), node.text("kind")) else {
            let missing = if node.text("kind").is_none() { "kind" } else { "apiVersion" };
            let place = here.named(node.text("kind").or(Some("object")), missing);
            return self.report(reasons::malformed(
                &place,
                format!("it has no {missing}"),
                "Begin it with apiVersion, kind and metadata.name.",
            ));
        };
        let name = node.child("metadata").and_then(|metadata| metadata.text("name")).unwrap_or("");
        let named = here.clone().named(Some(format!("{kind} {name}").trim_end()), "");
        let kind = match recognize(api_version, kind) {
            Recognized::Known(kind) => kind,
            Recognized::Other => return,
            Recognized::WrongVersion(right) => {
                let place = Place::line(self.file, node.line_of("apiVersion"))
                    .named(Some(format!("{kind} {name}").trim_end()), "apiVersion");
                return self.report(reasons::unsupported_version(&place, kind, api_version, &right));
            }
            Recognized::Misspelt(near) => {
                let place = Place::line(self.file, node.line_of("kind"))
                    .named(Some(format!("{kind} {name}").trim_end()), "kind");
                return self.report(reasons::misspelt_kind(&place, kind, near));
            }
            Recognized::NotActing => return self.report(reasons::kind_not_acting(&named, kind)),
        };
        if let Some(key) = self.read_key(node, kind) {
            self.read_known(ObjectId { kind, key }, node, end);
        }
    }

    fn read_key(&mut self, node: &Node, kind: Kind) -> Option<Key> {
        let metadata = node.child("metadata");
        let name = metadata.and_then(|metadata| metadata.text("name")).unwrap_or("");
        let object = format!("{kind} {name}");
        let place =
            |field: &str| Place::line(self.file, node.line_of(field)).named(Some(object.trim_end()), field);
        if name.is_empty() {
            let diagnostic = reasons::malformed(
                &place("metadata.name"),
                "it has no name",
                "Add metadata.name; quote it if it looks like a number.",
            );
            self.report(diagnostic);
            return None;
        }
        if !is_object_name(name) {
            let diagnostic = reasons::invalid(
                &place("metadata.name"),
                format!("{name:?} is not a name"),
                "Use lower-case letters, digits, '-' and '.', at most 253 characters.",
            );
            self.report(diagnostic);
            return None;
        }
        let namespace = metadata.and_then(|metadata| metadata.text("namespace"));
        if let Some(namespace) = namespace
            && (namespace.contains('.') || !is_object_name(namespace) || namespace.len() > 63)
        {
            let diagnostic = reasons::invalid(
                &place("metadata.namespace"),
                format!("{namespace:?} is not a namespace"),
                "Use lower-case letters, digits and '-', at most 63 characters.",
            );
            self.report(diagnostic);
            return None;
        }
        let namespace = if kind.info().namespaced { namespace.unwrap_or("default") } else { "" };
        Some(Key::new(namespace, name))
    }

    fn read_known(&mut self, id: ObjectId, node: &Node, end: u32) {
        let duplicates: Vec<_> =
            self.duplicates.iter().filter(|d| d.line >= node.line && d.line < end).collect();
        let source = ObjectSource { file: Some(self.file), duplicates: &duplicates };
        let (found, diagnostics) = read_object(id, node.clone(), &source);
        diagnostics.into_iter().for_each(|diagnostic| self.report(diagnostic));
        self.batch.found.push(found);
    }
}

/// Where an object comes from.
#[derive(Default)]
pub(crate) struct ObjectSource<'a> {
    /// `None` for objects of an API server.
    pub(crate) file: Option<&'a Arc<str>>,
    duplicates: &'a [&'a yaml::DuplicateKey],
}

/// Reads one object, with all that is wrong with it.
pub(crate) fn read_object(
    id: ObjectId,
    mut tree: Node,
    source: &ObjectSource<'_>,
) -> (Found, Vec<Diagnostic>) {
    let ObjectSource { file, duplicates } = *source;
    let mut diagnostics = Vec::new();
    let (line, label, remains) = (tree.line, id.to_string(), Remains::of(&tree));
    let place = |line: u32, field: &str| Place::somewhere(file, line).named(Some(&label), field);
    let status = normalize(&mut tree, id.kind);
    let (result, unknown) = read_typed(&id, tree, |mut tree| {
        // Who writes statuses compares with the one that stands there.
        if let (Some(status), Value::Map(entries)) = (status, &mut tree.value) {
            entries.push(status);
        }
        Origin::new(file.cloned(), line, Arc::new(tree))
    });
    for field in unknown.iter().filter(|field| !matches!(field.path.as_str(), "apiVersion" | "kind")) {
        let place = place(field.line, &field.path);
        diagnostics.push(reasons::unknown_field(&place, &field.key, field.nearest, field.known));
    }
    for duplicate in duplicates {
        let place = place(duplicate.line, &duplicate.key);
        diagnostics.push(reasons::duplicate_key(&place, &duplicate.key, duplicate.first));
    }
    let object = match result {
        Ok(mut object) => {
            let problems = validate_object(&object);
            if problems.iter().any(Diagnostic::is_error) || !duplicates.is_empty() {
                object.set_invalid();
            }
            diagnostics.extend(problems);
            Some(object)
        }
        Err(error) => {
            let path = error.path();
            let place = place(error.line().unwrap_or(line), &path);
            let message = error.message.trim_end_matches('.').to_owned();
            diagnostics.push(if path.ends_with("Timestamp") {
                reasons::malformed(&place, "it is not a time", "Write it as in \"2026-01-31T12:00:00Z\".")
            } else if error.remedy.is_empty() {
                reasons::malformed(&place, message, "Correct the value.")
            } else {
                reasons::malformed(&place, message, error.remedy)
            });
            None
        }
    };
    (Found { id, line, remains, object }, diagnostics)
}

/// Leaves out what only an API server writes, and older versions' names of the same thing; gives the status.
fn normalize(node: &mut Node, kind: Kind) -> Option<Entry> {
    let Value::Map(entries) = &mut node.value else { return None };
    // A Node has nothing else to say.
    let is_status = |entry: &Entry| entry.key == "status" && kind != Kind::Node;
    let status = entries.iter().position(is_status).map(|place| entries.remove(place));
    let info = kind.info();
    for entry in entries {
        if entry.key == "apiVersion" {
            let prefix = if info.group.is_empty() { String::new() } else { format!("{}/", info.group) };
            let text = format!("{prefix}{}", info.versions[0]);
            entry.node.value = Value::Text { text, plain: false };
        }
        if entry.key == "metadata"
            && let Value::Map(metadata) = &mut entry.node.value
        {
            metadata.retain(|entry| entry.key != "managedFields");
        }
    }
    status
}

/// Whether it is a DNS subdomain, which names of objects are.
fn is_object_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}
