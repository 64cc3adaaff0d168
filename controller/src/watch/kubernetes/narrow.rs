//! What is kept of an object, so that memory grows with what is served and with nothing else.

use std::borrow::Cow;

use crate::watch::kubernetes::json::RawObject;
use crate::watch::{Kind, Node, NodeEntry, NodeValue};

/// Takes from an object what nobody looks at: its change is no change then, either.
pub(crate) fn narrow(object: &mut RawObject, kind: Kind) {
    let NodeValue::Map(entries) = &mut object.0.value else { return };
    if !keeps_status(kind) {
        entries.retain(|entry| entry.key != "status");
    }
    if kind == Kind::Node {
        for entry in entries {
            match entry.key.as_str() {
                "spec" => retain(&mut entry.node, |key| matches!(key, "podCIDR" | "podCIDRs")),
                "status" => narrow_node_status(&mut entry.node),
                "metadata" => retain(&mut entry.node, |key| key != "annotations"),
                _ => {}
            }
        }
    }
}

/// What stays beside the typed value: the status, and of the metadata what changes with every write. The rest is in the
/// value.
pub(crate) fn kept_tree(object: &RawObject) -> Node {
    let mut tree = Node { line: 0, value: NodeValue::Null };
    let NodeValue::Map(entries) = &object.0.value else { return tree };
    let is_kept = |entry: &&NodeEntry| matches!(entry.key.as_str(), "metadata" | "status");
    let mut kept: Vec<_> = entries.iter().filter(is_kept).cloned().collect();
    for entry in &mut kept {
        match entry.key.as_str() {
            "metadata" => retain(&mut entry.node, |key| matches!(key, "generation" | "resourceVersion")),
            _ => entry.node.value = pack(&entry.node),
        }
    }
    kept.shrink_to_fit();
    tree.value = NodeValue::Map(kept);
    tree
}

/// A tree as text, which takes a quarter of the room. Of most objects nobody reads the status again.
fn pack(tree: &Node) -> NodeValue {
    NodeValue::Text { text: tree.to_json().to_string(), plain: false }
}

/// The status of an object as a tree, however it was kept.
pub(crate) fn unpacked(status: &Node) -> Cow<'_, Node> {
    match &status.value {
        NodeValue::Text { text, .. } => match serde_json::from_str::<RawObject>(text) {
            Ok(RawObject(tree)) => Cow::Owned(tree),
            // No object's status is a mere text.
            Err(_) => Cow::Borrowed(status),
        },
        _ => Cow::Borrowed(status),
    }
}

fn keeps_status(kind: Kind) -> bool {
    kind.is_route()
        || matches!(
            kind,
            Kind::GatewayClass
                | Kind::Gateway
                | Kind::ListenerSet
                | Kind::Backend
                | Kind::BackendTrafficPolicy
                | Kind::BackendTlsPolicy
                | Kind::Service
                | Kind::Node
        )
}

/// Of a node's status: its addresses, its kubelet's port, and whether it is ready. The rest changes all the time.
fn narrow_node_status(status: &mut Node) {
    retain(status, |key| matches!(key, "addresses" | "conditions" | "daemonEndpoints"));
    let NodeValue::Map(entries) = &mut status.value else { return };
    for entry in entries.iter_mut().filter(|entry| entry.key == "conditions") {
        let NodeValue::List(conditions) = &mut entry.node.value else { continue };
        conditions.retain(|condition| condition.text("type") == Some("Ready"));
        for condition in conditions {
            retain(condition, |key| matches!(key, "type" | "status"));
        }
    }
}

fn retain(node: &mut Node, keep: impl Fn(&str) -> bool) {
    if let NodeValue::Map(entries) = &mut node.value {
        entries.retain(|entry| keep(&entry.key));
        entries.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RawObject {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn of_a_node_only_readiness_addresses_the_network_of_its_pods_the_kubelets_port_and_labels_are_kept() {
        let mut node = parse(
            r#"{"metadata": {"name": "a", "labels": {"b": "c"}, "annotations": {"d": "e"}}, "spec": {"podCIDR": "f", "taints": []},
                "status": {"images": [], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 11250}},
                    "conditions": [{"type": "DiskPressure", "status": "False"},
                        {"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}}"#,
        );
        narrow(&mut node, Kind::Node);
        let kept = parse(
            r#"{"metadata": {"name": "a", "labels": {"b": "c"}}, "spec": {"podCIDR": "f"},
                "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": 11250}},
                    "conditions": [{"type": "Ready", "status": "True"}]}}"#,
        );
        assert_eq!(node, kept);
    }

    #[test]
    fn beside_a_typed_route_its_version_and_status_stay() {
        let text = r#"{"kind": "HTTPRoute", "metadata": {"name": "a", "resourceVersion": "1"},
            "spec": {"rules": []}, "status": {"parents": []}}"#;
        let mut route = parse(text);
        narrow(&mut route, Kind::HttpRoute);
        assert_eq!(route, parse(text));
        let kept = kept_tree(&route);
        assert_eq!(kept.child("metadata"), Some(&parse(r#"{"resourceVersion": "1"}"#).0));
        assert_eq!(*unpacked(kept.child("status").unwrap()), parse(r#"{"parents": []}"#).0);
        assert!(kept.child("spec").is_none());
        let mut slice = parse(r#"{"metadata": {"name": "a"}, "endpoints": [], "status": {}}"#);
        narrow(&mut slice, Kind::EndpointSlice);
        assert!(slice.0.child("status").is_none() && slice.0.child("endpoints").is_some());
    }
}
