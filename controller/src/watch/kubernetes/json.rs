//! Objects as the API server writes them, as trees without lines.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::cluster::Key;
use crate::watch::{Kind, Node, NodeEntry, NodeValue};

/// Keys whose values are never kept: who wrote which field, what `kubectl apply` sent the last time, and when a slice
/// changed.
const SKIPPED: [&str; 3] = [
    "managedFields",
    "kubectl.kubernetes.io/last-applied-configuration",
    "endpoints.kubernetes.io/last-change-trigger-time",
];

/// An object, or a part of one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RawObject(pub(crate) Node);

/// What objects are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// Of all but the status and the version.
    meaning: u64,
    status: u64,
}

impl Fingerprint {
    /// Whether the two differ in nothing but their status.
    pub(crate) fn means_the_same(self, other: Self) -> bool {
        self.meaning == other.meaning
    }
}

impl RawObject {
    fn metadata(&self, key: &str) -> Option<&str> {
        self.0.child("metadata")?.text(key)
    }

    /// Its name, if it has one.
    pub(crate) fn key(&self, kind: Kind) -> Option<Key> {
        let name = self.metadata("name").filter(|name| !name.is_empty())?;
        let namespace = if kind.info().namespaced { self.metadata("namespace")? } else { "" };
        Some(Key::new(namespace, name))
    }

    /// Its `resourceVersion`; empty if it has none.
    pub(crate) fn version(&self) -> &str {
        self.metadata("resourceVersion").unwrap_or_default()
    }

    /// Items of lists do not always say what they are.
    pub(crate) fn name_kind(&mut self, kind: Kind) {
        let info = kind.info();
        let version = info.versions[0];
        let api_version =
            if info.group.is_empty() { version.to_owned() } else { format!("{}/{version}", info.group) };
        let NodeValue::Map(entries) = &mut self.0.value else { return };
        for (place, (key, text)) in
            [("apiVersion", api_version), ("kind", info.name.to_owned())].into_iter().enumerate()
        {
            entries.retain(|entry| entry.key != key);
            let value = NodeValue::Text { text, plain: false };
            entries.insert(place, NodeEntry { key: key.to_owned(), line: 0, node: Node { line: 0, value } });
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let (mut meaning, mut status) = (DefaultHasher::new(), DefaultHasher::new());
        if let NodeValue::Map(entries) = &self.0.value {
            for NodeEntry { key, node, .. } in entries {
                match key.as_str() {
                    "status" => hash(node, &mut status),
                    "metadata" => hash_metadata(node, &mut meaning),
                    _ => {
                        key.hash(&mut meaning);
                        hash(node, &mut meaning);
                    }
                }
            }
        }
        Fingerprint { meaning: meaning.finish(), status: status.finish() }
    }
}

fn hash_metadata(node: &Node, hasher: &mut impl Hasher) {
    let NodeValue::Map(entries) = &node.value else { return hash(node, hasher) };
    // The generation stays: a status that says which one it is about must be looked at again with every new one.
    for NodeEntry { key, node, .. } in entries.iter().filter(|entry| entry.key != "resourceVersion") {
        key.hash(hasher);
        hash(node, hasher);
    }
}

fn hash(node: &Node, hasher: &mut impl Hasher) {
    std::mem::discriminant(&node.value).hash(hasher);
    match &node.value {
        NodeValue::Null => {}
        NodeValue::Bool(value) => value.hash(hasher),
        NodeValue::Int(number) => number.hash(hasher),
        NodeValue::UInt(number) => number.hash(hasher),
        NodeValue::Float(number) => number.to_bits().hash(hasher),
        NodeValue::Text { text, .. } => text.hash(hasher),
        NodeValue::List(items) => {
            items.len().hash(hasher);
            items.iter().for_each(|item| hash(item, hasher));
        }
        NodeValue::Map(entries) => {
            entries.len().hash(hasher);
            for NodeEntry { key, node, .. } in entries {
                key.hash(hasher);
                hash(node, hasher);
            }
        }
    }
}

impl<'de> Deserialize<'de> for RawObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue).map(|value| Self(Node { line: 0, value }))
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = NodeValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<NodeValue, E> {
        Ok(NodeValue::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<NodeValue, E> {
        Ok(NodeValue::Bool(value))
    }

    fn visit_i64<E>(self, number: i64) -> Result<NodeValue, E> {
        Ok(NodeValue::Int(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<NodeValue, E> {
        Ok(i64::try_from(number).map_or(NodeValue::UInt(number), NodeValue::Int))
    }

    fn visit_f64<E>(self, number: f64) -> Result<NodeValue, E> {
        Ok(NodeValue::Float(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<NodeValue, E> {
        Ok(NodeValue::Text { text: text.to_owned(), plain: false })
    }

    fn visit_string<E>(self, text: String) -> Result<NodeValue, E> {
        Ok(NodeValue::Text { text, plain: false })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<NodeValue, A::Error> {
        let mut nodes = Vec::new();
        while let Some(RawObject(node)) = items.next_element()? {
            nodes.push(node);
        }
        nodes.shrink_to_fit();
        Ok(NodeValue::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NodeValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if SKIPPED.contains(&key.as_str()) {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let RawObject(node) = map.next_value()?;
            entries.push(NodeEntry { key, line: 0, node });
        }
        entries.shrink_to_fit();
        Ok(NodeValue::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> RawObject {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_nobody_reads_is_not_kept() {
        let object = parse(
            r#"{"metadata": {"name": "a", "managedFields": [{"f:spec": {}}],
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}", "b": "c"}}}"#,
        );
        assert_eq!(object, parse(r#"{"metadata": {"name": "a", "annotations": {"b": "c"}}}"#));
    }

    #[test]
    fn a_change_of_the_status_alone_and_one_of_the_version_alone_are_told_from_others() {
        let base = parse(
            r#"{"metadata": {"name": "a", "resourceVersion": "1"}, "spec": {"a": 1}, "status": {"b": 1}}"#,
        );
        let newer = parse(
            r#"{"metadata": {"name": "a", "resourceVersion": "2"}, "spec": {"a": 1}, "status": {"b": 1}}"#,
        );
        let status = parse(
            r#"{"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"a": 1}, "status": {"b": 2}}"#,
        );
        let meaning = parse(
            r#"{"metadata": {"name": "a", "resourceVersion": "4"}, "spec": {"a": 2}, "status": {"b": 1}}"#,
        );
        assert_eq!(base.fingerprint(), newer.fingerprint());
        assert_ne!(base.fingerprint(), status.fingerprint());
        assert!(base.fingerprint().means_the_same(status.fingerprint()));
        assert!(!base.fingerprint().means_the_same(meaning.fingerprint()));
    }

    #[test]
    fn an_item_of_a_list_is_given_its_kind() {
        let mut object = parse(r#"{"metadata": {"name": "a"}}"#);
        object.name_kind(Kind::HttpRoute);
        assert_eq!(object.0.text("apiVersion"), Some("gateway.networking.k8s.io/v1"));
        assert_eq!(object.0.text("kind"), Some("HTTPRoute"));
        assert_eq!(object.key(Kind::HttpRoute), None);
        assert_eq!(object.key(Kind::Namespace), Some(Key::new("", "a")));
    }
}
