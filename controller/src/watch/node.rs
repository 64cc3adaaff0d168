//! A tree of values with the lines that they stand in.

/// A value with its line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    /// From 1.
    pub(crate) line: u32,
    pub(crate) value: Value,
}

/// A value of YAML's core schema.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f64),
    /// A text; `plain` if it stood without quotes.
    Text {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key with its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The key's line.
    pub(crate) line: u32,
    pub(crate) node: Node,
}

impl Node {
    /// The entry of a mapping.
    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The value of a mapping's entry.
    pub(crate) fn child(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    /// The text of a mapping's entry.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.child(key)?.value {
            Value::Text { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The number of a mapping's entry.
    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        match self.child(key)?.value {
            Value::Int(number) => Some(number),
            _ => None,
        }
    }

    /// The same value without its lines.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(number) => (*number).into(),
            Value::UInt(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Text { text, .. } => text.clone().into(),
            Value::List(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect())
            }
        }
    }

    /// Whether nothing stands here.
    pub(crate) fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// The line of a field, or of the nearest field above it that exists.
    pub(crate) fn line_of(&self, path: &str) -> u32 {
        let mut node = self;
        let mut line = self.line;
        for segment in segments(path) {
            match segment {
                Segment::Key(key) => match node.entry(key) {
                    Some(entry) => {
                        line = entry.line;
                        node = &entry.node;
                    }
                    None => break,
                },
                Segment::Index(index) => match &node.value {
                    Value::List(items) if index < items.len() => {
                        node = &items[index];
                        line = node.line;
                    }
                    _ => break,
                },
            }
        }
        line
    }
}

enum Segment<'a> {
    Key(&'a str),
    Index(usize),
}

fn segments(path: &str) -> impl Iterator<Item = Segment<'_>> {
    path.split(['.', '[']).filter(|part| !part.is_empty()).map(|part| match part.strip_suffix(']') {
        Some(index) => index.parse().map_or(Segment::Key(part), Segment::Index),
        None => Segment::Key(part),
    })
}
