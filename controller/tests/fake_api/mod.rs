//! An API server in this process, on loopback: discovery, lists in pages and as streams, watches, single objects.
//!
//! It keeps objects and their history as a real one does, and fails on request.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests end there")]

mod http;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A collection: `api/v1/services` or `apis/GROUP/VERSION/httproutes`.
pub(crate) type Collection = &'static str;

/// Every collection that there may be, with its kind.
pub(crate) const COLLECTIONS: [(Collection, &str); 22] = [
    ("api/v1/namespaces", "Namespace"),
    ("api/v1/services", "Service"),
    ("api/v1/secrets", "Secret"),
    ("api/v1/configmaps", "ConfigMap"),
    ("api/v1/nodes", "Node"),
    ("apis/networking.k8s.io/v1/servicecidrs", "ServiceCIDR"),
    ("apis/discovery.k8s.io/v1/endpointslices", "EndpointSlice"),
    ("apis/gateway.networking.k8s.io/v1/gatewayclasses", "GatewayClass"),
    ("apis/gateway.networking.k8s.io/v1/gateways", "Gateway"),
    ("apis/gateway.networking.k8s.io/v1/listenersets", "ListenerSet"),
    ("apis/gateway.networking.k8s.io/v1/httproutes", "HTTPRoute"),
    ("apis/gateway.networking.k8s.io/v1/grpcroutes", "GRPCRoute"),
    ("apis/gateway.networking.k8s.io/v1/tlsroutes", "TLSRoute"),
    ("apis/gateway.networking.k8s.io/v1/tcproutes", "TCPRoute"),
    ("apis/gateway.networking.k8s.io/v1alpha2/tcproutes", "TCPRoute"),
    ("apis/gateway.networking.k8s.io/v1/udproutes", "UDPRoute"),
    ("apis/gateway.networking.k8s.io/v1beta1/referencegrants", "ReferenceGrant"),
    ("apis/gateway.networking.k8s.io/v1beta1/httproutes", "HTTPRoute"),
    ("apis/gateway.networking.k8s.io/v1/backendtlspolicies", "BackendTLSPolicy"),
    ("apis/gateway.networking.k8s.io/v1alpha3/backendtlspolicies", "BackendTLSPolicy"),
    ("apis/gateway.envoyproxy.io/v1alpha1/backends", "Backend"),
    ("apis/gateway.envoyproxy.io/v1alpha1/backendtrafficpolicies", "BackendTrafficPolicy"),
];

/// A change that was made.
struct Change {
    version: u64,
    kind: &'static str,
    collection: Collection,
    object: Value,
}

#[derive(Default)]
struct World {
    version: u64,
    objects: BTreeMap<(Collection, String, String), Value>,
    history: Vec<Change>,
    /// Changes up to this version are forgotten.
    forgotten: u64,
    absent: BTreeSet<Collection>,
    /// Collections that may not be listed.
    forbidden: BTreeSet<Collection>,
    /// Collections whose lists wait.
    held: BTreeSet<Collection>,
    /// Whether lists are sent as streams.
    streams: bool,
    is_down: bool,
    /// Rises when all connections must end.
    epoch: u64,
    /// What is written on the next watch of a collection, as it is.
    garbage: Option<(Collection, String)>,
    /// Method, target and media type of each request.
    requests: Vec<String>,
}

/// The server. It ends with this.
pub(crate) struct FakeApi {
    pub(crate) address: SocketAddr,
    world: Arc<Mutex<World>>,
    /// Told of every change.
    changed: watch::Sender<()>,
    task: JoinHandle<()>,
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl FakeApi {
    /// A server with every collection but the older versions.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let older = [
            "apis/gateway.networking.k8s.io/v1beta1/httproutes",
            "apis/gateway.networking.k8s.io/v1alpha3/backendtlspolicies",
        ];
        let world = World { version: 1, streams: true, absent: older.into(), ..World::default() };
        let world = Arc::new(Mutex::new(world));
        let changed = watch::Sender::new(());
        let task = tokio::spawn(http::serve(listener, world.clone(), changed.clone()));
        Self { address, world, changed, task }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        kube::Client::try_from(config).unwrap()
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn tell(&self) {
        self.changed.send_replace(());
    }

    /// Creates or replaces objects, given as YAML documents.
    pub(crate) fn apply(&self, yaml: &str) {
        for document in yaml.split("\n---").filter(|document| !document.trim().is_empty()) {
            self.apply_object(serde_yaml::from_str(document).unwrap());
        }
    }

    pub(crate) fn apply_object(&self, mut object: Value) {
        let collection = collection_of(&object);
        let mut world = self.world();
        world.version += 1;
        let version = world.version;
        let (namespace, name) = key_of(&object);
        if collection_is_namespaced(collection) {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        object["metadata"]["managedFields"] = json!([{"manager": "somebody", "fieldsV1": {"f:spec": {}}}]);
        let known = world.objects.insert((collection, namespace, name), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        world.history.push(Change { version, kind, collection, object });
        drop(world);
        self.tell();
    }

    pub(crate) fn delete(&self, collection: Collection, namespace: &str, name: &str) {
        let mut world = self.world();
        world.version += 1;
        let version = world.version;
        let key = (collection, namespace.to_owned(), name.to_owned());
        let mut object = world.objects.remove(&key).expect("an object to delete");
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        world.history.push(Change { version, kind: "DELETED", collection, object });
        drop(world);
        self.tell();
    }

    /// Takes collections away, as if their CRDs were not installed, or brings them back.
    pub(crate) fn set_absent(&self, collections: &[Collection], absent: bool) {
        for collection in collections {
            if absent {
                self.world().absent.insert(collection);
            } else {
                self.world().absent.remove(collection);
            }
        }
        self.tell();
    }

    /// Takes the right to list collections, or gives it back.
    pub(crate) fn set_forbidden(&self, collections: &[Collection], forbidden: bool) {
        for collection in collections {
            if forbidden {
                self.world().forbidden.insert(collection);
            } else {
                self.world().forbidden.remove(collection);
            }
        }
        self.tell();
    }

    /// Lets the lists of a collection wait, or go on.
    pub(crate) fn set_held(&self, collection: Collection, held: bool) {
        if held {
            self.world().held.insert(collection);
        } else {
            self.world().held.remove(collection);
        }
        self.tell();
    }

    pub(crate) fn set_streams(&self, streams: bool) {
        self.world().streams = streams;
    }

    /// Ends every connection.
    pub(crate) fn disconnect(&self) {
        self.world().epoch += 1;
        self.tell();
    }

    /// Refuses connections from now on, or takes them again.
    pub(crate) fn set_down(&self, down: bool) {
        self.world().is_down = down;
        self.disconnect();
    }

    /// Forgets the history.
    pub(crate) fn forget_history(&self) {
        let mut world = self.world();
        world.forgotten = world.version;
        world.history.clear();
    }

    /// Writes a line on the next watch of a collection that has something to do.
    pub(crate) fn send_garbage(&self, collection: Collection, line: &str) {
        self.world().garbage = Some((collection, line.to_owned()));
        self.tell();
    }

    /// What was asked for, with the media type that was wanted.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.world().requests.clone()
    }

    /// Told of every change and every request.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Waits until a request was made that fits.
    pub(crate) async fn requested(&self, fits: impl Fn(&str) -> bool) {
        let mut changed = self.changed.subscribe();
        while !self.requests().iter().any(|request| fits(request)) {
            changed.changed().await.unwrap();
        }
    }
}

fn collection_of(object: &Value) -> Collection {
    let (api_version, kind) = (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap());
    let prefix = if api_version.contains('/') {
        format!("apis/{api_version}/")
    } else {
        format!("api/{api_version}/")
    };
    let found =
        COLLECTIONS.iter().find(|(collection, known)| *known == kind && collection.starts_with(&prefix));
    found.unwrap_or_else(|| panic!("{api_version} {kind} is unknown")).0
}

fn collection_is_namespaced(collection: Collection) -> bool {
    !["namespaces", "nodes", "gatewayclasses"].iter().any(|plural| collection.ends_with(plural))
}

fn key_of(object: &Value) -> (String, String) {
    let metadata = &object["metadata"];
    let namespace = if collection_is_namespaced(collection_of(object)) {
        metadata["namespace"].as_str().unwrap_or("default")
    } else {
        ""
    };
    (namespace.to_owned(), metadata["name"].as_str().unwrap().to_owned())
}
