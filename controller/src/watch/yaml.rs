//! YAML (and so JSON) text to trees with lines.
//!
//! Bounded: what aliases may add, how deep values may nest, and how long a text may be; so that no file can
//! grow in memory beyond a fixed multiple of its size.

use std::collections::{BTreeMap, HashMap};

use granit_parser::{Event, Parser, ScalarStyle, options};

use crate::watch::node::{Entry, Node, Value};
use crate::watch::scalar::resolve_plain;

/// Longest text that is read, in bytes.
pub(crate) const MAX_BYTES: usize = 64 << 20;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;
/// Nodes that aliases may add to one file.
const MAX_ALIASED: usize = 100_000;

/// More duplicate keys than this are not collected for one document.
const MAX_DUPLICATES: usize = 1000;

/// Why a text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct YamlError {
    pub(crate) line: u32,
    pub(crate) message: String,
    pub(crate) remedy: &'static str,
}

/// A key that stands twice in one mapping. The first one counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DuplicateKey {
    pub(crate) line: u32,
    pub(crate) key: String,
    pub(crate) first: u32,
}

/// One document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Document {
    pub(crate) root: Node,
    pub(crate) duplicates: Vec<DuplicateKey>,
}

/// Reads all documents of a text; empty ones are left out.
pub(crate) fn parse(text: &str) -> Result<Vec<Document>, YamlError> {
    if text.len() > MAX_BYTES {
        return Err(YamlError {
            line: 1,
            message: format!("the file has {} bytes, more than the {MAX_BYTES} that are read", text.len()),
            remedy: "Split it into several files.",
        });
    }
    let mut builder = Builder::default();
    for next in Parser::new_from_str_with_options(text, options! { emit_comments: false }) {
        let (event, span) = next.map_err(|error| YamlError {
            line: line_number(error.marker().line()),
            message: error.info().replace('\n', ", "),
            remedy: "Check the indentation, quotes and brackets around there.",
        })?;
        builder.take(event, line_number(span.start.line()))?;
    }
    Ok(builder.documents)
}

fn line_number(line: usize) -> u32 {
    u32::try_from(line.max(1)).unwrap_or(u32::MAX)
}

#[derive(Default)]
struct Builder {
    documents: Vec<Document>,
    duplicates: Vec<DuplicateKey>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    aliased: usize,
}

/// A collection that has not ended yet.
struct Open {
    line: u32,
    anchor: usize,
    nodes: usize,
    kind: OpenKind,
}

enum OpenKind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, lines: BTreeMap<String, u32>, key: Option<(String, u32)>, merges: Vec<Node> },
}

impl Builder {
    fn take(&mut self, event: Event<'_>, line: u32) -> Result<(), YamlError> {
        match event {
            Event::DocumentStart(..) => {
                self.anchors.clear();
                self.duplicates.clear();
            }
            Event::Scalar(text, style, anchor, tag) => {
                let quoted = style != ScalarStyle::Plain;
                let forced = tag.as_ref().is_some_and(|tag| tag.core_suffix() == Some("str"));
                let value = if quoted || forced {
                    Value::Text { text: text.into_owned(), plain: false }
                } else {
                    resolve_plain(&text)
                };
                self.finish(Node { line, value }, anchor, 1)?;
            }
            Event::SequenceStart(_, anchor, _) => self.start(line, anchor, OpenKind::List(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => {
                let kind = OpenKind::Map {
                    entries: Vec::new(),
                    lines: BTreeMap::new(),
                    key: None,
                    merges: Vec::new(),
                };
                self.start(line, anchor, kind)?;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.open.pop() {
                    let value = match open.kind {
                        OpenKind::List(items) => Value::List(items),
                        OpenKind::Map { entries, merges, .. } => Value::Map(merged(entries, merges)),
                    };
                    self.finish(Node { line: open.line, value }, open.anchor, open.nodes)?;
                }
            }
            Event::Alias(id) => {
                let Some((node, nodes)) = self.anchors.get(&id).cloned() else {
                    return Err(YamlError {
                        line,
                        message: "an alias stands inside the value that it names".into(),
                        remedy: "Write the value out.",
                    });
                };
                self.aliased = self.aliased.saturating_add(nodes);
                if self.aliased > MAX_ALIASED {
                    return Err(YamlError {
                        line,
                        message: format!("aliases add more than {MAX_ALIASED} values"),
                        remedy: "Write the values out, or use fewer aliases.",
                    });
                }
                self.finish(node, 0, nodes)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn start(&mut self, line: u32, anchor: usize, kind: OpenKind) -> Result<(), YamlError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(YamlError {
                line,
                message: format!("values are nested deeper than {MAX_DEPTH} levels"),
                remedy: "No object that is read here needs that: check the indentation.",
            });
        }
        self.open.push(Open { line, anchor, nodes: 1, kind });
        Ok(())
    }

    fn finish(&mut self, node: Node, anchor: usize, nodes: usize) -> Result<(), YamlError> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), nodes));
            // Each anchor keeps a copy, so anchors count as aliases do.
            self.aliased = self.aliased.saturating_add(nodes);
            if self.aliased > MAX_ALIASED {
                return Err(YamlError {
                    line: node.line,
                    message: format!("anchors hold more than {MAX_ALIASED} values"),
                    remedy: "Use fewer anchors.",
                });
            }
        }
        let Some(open) = self.open.last_mut() else {
            if !node.is_null() {
                let duplicates = std::mem::take(&mut self.duplicates);
                self.documents.push(Document { root: node, duplicates });
            }
            return Ok(());
        };
        open.nodes += nodes;
        match &mut open.kind {
            OpenKind::List(items) => items.push(node),
            OpenKind::Map { entries, lines, key, merges } => match key.take() {
                None => *key = Some((key_text(&node)?, node.line)),
                Some((name, _)) if name == "<<" && !matches!(node.value, Value::Text { .. }) => {
                    merges.push(node)
                }
                Some((name, line)) => match lines.get(&name) {
                    Some(first) if self.duplicates.len() < MAX_DUPLICATES => {
                        self.duplicates.push(DuplicateKey { line, key: name, first: *first });
                    }
                    Some(_) => {}
                    None => {
                        lines.insert(name.clone(), line);
                        entries.push(Entry { key: name, line, node });
                    }
                },
            },
        }
        Ok(())
    }
}

fn key_text(node: &Node) -> Result<String, YamlError> {
    Ok(match &node.value {
        Value::Text { text, .. } => text.clone(),
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::UInt(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::List(_) | Value::Map(_) => {
            return Err(YamlError {
                line: node.line,
                message: "a key is a list or a mapping".into(),
                remedy: "Keys of Kubernetes objects are words.",
            });
        }
    })
}

/// YAML's merge key: entries that are not there yet come from the merged mappings.
fn merged(mut entries: Vec<Entry>, merges: Vec<Node>) -> Vec<Entry> {
    let mappings = merges.into_iter().flat_map(|node| match node.value {
        Value::List(items) => items,
        value => vec![Node { line: node.line, value }],
    });
    for mapping in mappings {
        if let Value::Map(more) = mapping.value {
            for entry in more {
                if !entries.iter().any(|known| known.key == entry.key) {
                    entries.push(entry);
                }
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_lines_and_empty_ones_are_left_out() {
        let documents =
            parse("---\n---\na: 1\nb:\n  - c: x\n---\n# nothing\n---\n{\"a\": [true]}\n").unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].root.line_of("b[0].c"), 5);
        assert_eq!(documents[0].root.line_of("b[7].c"), 4);
        assert_eq!(documents[1].root.line_of("a[0]"), 9);
    }

    #[test]
    fn a_duplicate_key_is_found_with_both_lines() {
        let documents = parse("a: 1\nb: 2\na: 3\n").unwrap();
        assert_eq!(documents[0].duplicates, [DuplicateKey { line: 3, key: "a".into(), first: 1 }]);
    }

    #[test]
    fn aliases_and_merge_keys_are_written_out() {
        let documents = parse("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\n").unwrap();
        let used = documents[0].root.child("use").unwrap();
        assert_eq!(used.child("x").unwrap().value, Value::Int(1));
        assert_eq!(used.child("y").unwrap().value, Value::Int(3));
    }

    #[test]
    fn a_billion_laughs_are_cut_short() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let previous = format!("*a{}", level - 1);
            text += &format!("a{level}: &a{level} [{}]\n", [previous.as_str(); 10].join(", "));
        }
        assert!(parse(&text).unwrap_err().message.contains("more than 100000 values"));
    }

    #[test]
    fn nesting_is_bounded() {
        let text = format!("{}1{}", "[".repeat(100), "]".repeat(100));
        assert!(parse(&text).unwrap_err().message.contains("nested deeper"), "{:?}", parse(&text));
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = parse("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.line >= 2, "{error:?}");
        assert!(!error.message.is_empty());
    }
}
