//! The pods that serve, and the addresses of their nodes.
//!
//! Inputs: the pods of this installation and the cluster's nodes, watched. Outputs: [`Peers`], as soon as both lists are
//! complete and with every change that matters. They are no part of a pass: no pod of ours changes what is served.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt, reflector::Lookup};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::Sidecar;

/// What the pods of the DaemonSet have in common.
const SELECTOR: &str = "app.kubernetes.io/name=understudy";
/// The container that clients reach.
const PROXY: &str = "proxy";

/// The pods that serve, by name, and the nodes by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Peers {
    pub(crate) pods: BTreeMap<String, Peer>,
    pub(crate) nodes: BTreeMap<String, NodeAddresses>,
}

/// A pod of the DaemonSet that has an address.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Peer {
    pub(crate) namespace: String,
    pub(crate) uid: String,
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// It takes clients.
    pub(crate) ready: bool,
    /// It would still take clients that no other pod takes.
    pub(crate) serving: bool,
    pub(crate) terminating: bool,
    /// The ports that its containers declare: for people and probes, never for clients.
    pub(crate) declared: Vec<u16>,
}

impl Peers {
    /// The sockets that the pods declare, sorted.
    pub(crate) fn declared_sockets(&self) -> Vec<SocketAddr> {
        let of = |pod: &Peer| -> Vec<SocketAddr> {
            let ports = pod.declared.iter();
            ports.flat_map(|port| pod.addresses.iter().map(|ip| SocketAddr::new(*ip, *port))).collect()
        };
        let mut sockets: Vec<_> = self.pods.values().flat_map(of).collect();
        sockets.sort_unstable();
        sockets
    }
}

/// The addresses of a node.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NodeAddresses {
    pub(crate) external: Vec<IpAddr>,
    pub(crate) internal: Vec<IpAddr>,
}

/// Follows pods and nodes until nobody reads `peers`.
pub(crate) async fn follow_peers(
    client: Client,
    sidecar: Arc<Sidecar>,
    peers: watch::Sender<Option<Arc<Peers>>>,
) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &sidecar.namespace);
    let pods = watcher(pods, watcher::Config::default().labels(SELECTOR)).default_backoff();
    let nodes = watcher(Api::<Node>::all(client), watcher::Config::default()).default_backoff();
    let mut events = pin!(stream::select(
        pods.map(|event| Change::Pod(event.into())),
        nodes.map(|event| Change::Node(event.into()))
    ));
    let (mut known_pods, mut known_nodes) = (Known::default(), Known::default());
    loop {
        tokio::select! {
            change = events.next() => match change {
                Some(Change::Pod(event)) => known_pods.take(*event, "pods", read_pod),
                Some(Change::Node(event)) => known_nodes.take(*event, "nodes", |node| Some(read_node(node))),
                None => return,
            },
            () = peers.closed() => return,
        }
        if !known_pods.complete || !known_nodes.complete {
            continue;
        }
        let now = Peers { pods: known_pods.objects.clone(), nodes: known_nodes.objects.clone() };
        peers.send_if_modified(|before| {
            let changed = before.as_deref() != Some(&now);
            if changed {
                *before = Some(Arc::new(now));
            }
            changed
        });
    }
}

enum Change {
    Pod(Box<watcher::Result<Event<Pod>>>),
    Node(Box<watcher::Result<Event<Node>>>),
}

/// What a watch has told so far.
struct Known<T> {
    objects: BTreeMap<String, T>,
    /// What a list that is not at its end has told.
    listed: BTreeMap<String, T>,
    complete: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: BTreeMap::new(), complete: false }
    }
}

impl<T> Known<T> {
    fn take<K: Lookup>(
        &mut self,
        event: watcher::Result<Event<K>>,
        what: &str,
        read: impl Fn(&K) -> Option<T>,
    ) {
        let name = |object: &K| object.name().unwrap_or_default().into_owned();
        match event {
            Ok(Event::Init) => self.listed.clear(),
            Ok(Event::InitApply(object)) => {
                self.listed.extend(read(&object).map(|read| (name(&object), read)));
            }
            Ok(Event::InitDone) => {
                self.objects = std::mem::take(&mut self.listed);
                self.complete = true;
            }
            Ok(Event::Apply(object)) => match read(&object) {
                Some(read) => drop(self.objects.insert(name(&object), read)),
                None => drop(self.objects.remove(&name(&object))),
            },
            Ok(Event::Delete(object)) => drop(self.objects.remove(&name(&object))),
            // It is tried again, later and later.
            Err(error) => log::warn!("{what} cannot be watched: {error}"),
        }
    }
}

impl Peer {
    /// It is told to end: its own controller knows it before the API server says so.
    pub(super) fn leave(&mut self) {
        self.terminating = true;
        self.ready = false;
    }
}

/// What matters of a pod; `None` for one that has no address or has ended.
///
/// The proxy's container alone decides whether the pod takes clients. A controller that cannot reach the API server is
/// not ready, and its pod neither, but what the proxy serves is as good as before.
fn read_pod(pod: &Pod) -> Option<Peer> {
    let status = pod.status.as_ref()?;
    if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let addresses: Vec<IpAddr> =
        status.pod_ips.iter().flatten().filter_map(|address| address.ip.parse().ok()).collect();
    let spec = pod.spec.as_ref()?;
    let node = spec.node_name.clone()?;
    let declared = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let proxy = status.container_statuses.iter().flatten().find(|status| status.name == PROXY);
    let is_ready = proxy.is_some_and(|proxy| proxy.ready);
    let running = proxy.is_some_and(|proxy| proxy.state.as_ref().is_some_and(|s| s.running.is_some()));
    let condition =
        |kind: &str| status.conditions.iter().flatten().find(|c| c.type_ == kind).map(|c| c.status.as_str());
    // A node that is lost says nothing more of its containers; its pods' condition is then set by others.
    let lost = condition("Ready") == Some("False") && condition("ContainersReady") == Some("True");
    let terminating = pod.metadata.deletion_timestamp.is_some();
    let peer = Peer {
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        node,
        addresses,
        ready: is_ready && !lost && !terminating,
        // While it drains, its readiness fails and it still accepts.
        serving: (is_ready || terminating && running) && !lost,
        terminating,
        declared: declared.filter_map(|port| u16::try_from(port.container_port).ok()).collect(),
    };
    (!peer.addresses.is_empty()).then_some(peer)
}

fn read_node(node: &Node) -> NodeAddresses {
    let mut found = NodeAddresses::default();
    for address in node.status.iter().flat_map(|status| status.addresses.iter().flatten()) {
        let Ok(ip) = address.address.parse() else { continue };
        match address.type_.as_str() {
            "ExternalIP" => found.external.push(ip),
            "InternalIP" => found.internal.push(ip),
            _ => {}
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    /// A pod that serves on a node of its own.
    pub(crate) fn peer(number: u8) -> Peer {
        Peer {
            namespace: "understudy-system".to_owned(),
            uid: format!("uid-{number}"),
            node: format!("node-{number}"),
            addresses: vec![IpAddr::from([10, 0, 0, number])],
            ready: true,
            serving: true,
            terminating: false,
            declared: vec![19000],
        }
    }

    pub(crate) fn peers(pods: &[Peer]) -> Peers {
        let node = |pod: &Peer| {
            let number = pod.node.trim_start_matches("node-").parse().unwrap();
            let addresses =
                NodeAddresses { external: Vec::new(), internal: vec![IpAddr::from([192, 0, 2, number])] };
            (pod.node.clone(), addresses)
        };
        Peers {
            pods: pods.iter().map(|pod| (format!("understudy-{}", pod.uid), pod.clone())).collect(),
            nodes: pods.iter().map(node).collect(),
        }
    }

    fn pod(change: impl FnOnce(&mut serde_json::Value)) -> Option<Peer> {
        let mut pod = json!({
            "metadata": {"name": "understudy-x", "namespace": "understudy-system", "uid": "u"},
            "spec": {"nodeName": "node-1", "containers": []},
            "status": {
                "phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "ContainersReady", "status": "True"}],
                "containerStatuses": [
                    {"name": "proxy", "ready": true, "restartCount": 0, "image": "", "imageID": "",
                     "state": {"running": {}}},
                    {"name": "controller", "ready": true, "restartCount": 0, "image": "", "imageID": ""}
                ]
            }
        });
        change(&mut pod);
        read_pod(&serde_json::from_value(pod).unwrap())
    }

    fn takes(peer: Option<Peer>) -> (bool, bool, bool) {
        let peer = peer.unwrap();
        (peer.ready, peer.serving, peer.terminating)
    }

    #[test]
    fn a_pod_takes_clients_while_its_proxy_is_ready_whatever_its_controller_is() {
        assert_eq!(takes(pod(|_| {})), (true, true, false));
        let controller_lost = pod(|pod| {
            pod["status"]["conditions"][0]["status"] = "False".into();
            pod["status"]["conditions"][1]["status"] = "False".into();
            pod["status"]["containerStatuses"][1]["ready"] = false.into();
        });
        assert_eq!(takes(controller_lost), (true, true, false));
        let not_yet = pod(|pod| pod["status"]["containerStatuses"][0]["ready"] = false.into());
        assert_eq!(takes(not_yet), (false, false, false));
        assert_eq!(takes(pod(|pod| pod["status"]["containerStatuses"] = json!([]))), (false, false, false));
    }

    #[test]
    fn a_pod_that_terminates_serves_only_clients_that_have_nobody_else() {
        let terminating = pod(|pod| {
            pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            pod["status"]["containerStatuses"][0]["ready"] = false.into();
        });
        assert_eq!(takes(terminating), (false, true, true));
    }

    #[test]
    fn the_ports_that_containers_declare_are_known_at_each_address_of_a_pod() {
        let pod = pod(|pod| {
            pod["spec"]["containers"] = json!([
                {"name": "proxy", "ports": [{"name": "admin", "containerPort": 19000}]},
                {"name": "controller", "ports": [{"name": "health", "containerPort": 19001}]},
                {"name": "other"}
            ]);
        });
        let peers = Peers { pods: BTreeMap::from([("p".to_owned(), pod.unwrap())]), ..Peers::default() };
        let sockets: Vec<String> = peers.declared_sockets().iter().map(ToString::to_string).collect();
        assert_eq!(sockets, ["10.0.0.1:19000", "10.0.0.1:19001", "[fd00::1]:19000", "[fd00::1]:19001"]);
    }

    #[test]
    fn a_pod_of_a_lost_node_takes_nobody() {
        let lost = pod(|pod| pod["status"]["conditions"][0]["status"] = "False".into());
        assert_eq!(takes(lost), (false, false, false));
    }

    #[test]
    fn pods_without_address_and_pods_that_ended_are_none() {
        assert_eq!(pod(|pod| pod["status"]["podIPs"] = json!([])), None);
        assert_eq!(pod(|pod| pod["status"]["phase"] = "Failed".into()), None);
    }

    #[test]
    fn a_watch_that_begins_again_keeps_what_is_known_until_its_list_is_complete() {
        let named = |name: &str| Node {
            metadata: kube::api::ObjectMeta { name: Some(name.to_owned()), ..Default::default() },
            ..Node::default()
        };
        let mut known = Known::default();
        let mut take = |event| {
            known.take(Ok(event), "nodes", |node: &Node| Some(read_node(node)));
            (known.complete, known.objects.keys().cloned().collect::<Vec<_>>().join(" "))
        };
        take(Event::Init);
        assert_eq!(take(Event::InitApply(named("a"))), (false, String::new()));
        assert_eq!(take(Event::InitDone), (true, "a".to_owned()));
        assert_eq!(take(Event::Apply(named("b"))), (true, "a b".to_owned()));
        take(Event::Init);
        assert_eq!(take(Event::InitApply(named("c"))), (true, "a b".to_owned()));
        assert_eq!(take(Event::InitDone), (true, "c".to_owned()));
        assert_eq!(take(Event::Delete(named("c"))), (true, String::new()));
    }
}
