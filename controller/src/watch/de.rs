//! Trees to typed objects, with every error in its place.
//!
//! A serde deserializer over [`Node`]. Errors name line, field and remedy, and fields that a type does not
//! know are collected: serde tells `deserialize_struct` which fields there are.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, IntoDeserializer, Visitor};

use crate::watch::nearest::nearest;
use crate::watch::node::{Entry, Node, Value};
use crate::watch::scalar::yaml_1_1_bool;

/// More unknown fields than this are not collected for one object.
const MAX_UNKNOWN: usize = 1000;

/// Why a value has not its type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TypeError {
    /// `None` until the innermost value around it is known.
    place: Option<(String, u32)>,
    /// A field that is missing in that place.
    missing: Option<String>,
    pub(crate) message: String,
    pub(crate) remedy: String,
}

/// A field that its type does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnknownField {
    pub(crate) path: String,
    pub(crate) line: u32,
    pub(crate) key: String,
    pub(crate) nearest: Option<&'static str>,
    pub(crate) known: &'static [&'static str],
}

/// Reads a typed value; what it does not know is named beside it.
pub(crate) fn from_node<'de, T: de::Deserialize<'de>>(
    node: &'de Node,
) -> (Result<T, TypeError>, Vec<UnknownField>) {
    let context = Context::default();
    let result = T::deserialize(NodeDeserializer { node, context: &context });
    (result, context.unknown.into_inner())
}

impl TypeError {
    /// Something about the value as a whole.
    pub(crate) fn whole(message: String) -> Self {
        Self { place: None, missing: None, message, remedy: String::new() }
    }

    /// Path of the field.
    pub(crate) fn path(&self) -> String {
        let base = self.place.as_ref().map_or("", |(path, _)| path.as_str());
        match &self.missing {
            Some(field) if base.is_empty() => field.clone(),
            Some(field) => format!("{base}.{field}"),
            None => base.to_owned(),
        }
    }

    /// Line of the field, if it is known.
    pub(crate) fn line(&self) -> Option<u32> {
        self.place.as_ref().map(|(_, line)| *line)
    }

    fn new(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: None, missing: None, message: message.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for TypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for TypeError {}

impl de::Error for TypeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string(), "")
    }

    fn invalid_type(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = describe_expected(&expected.to_string());
        let remedy = match (expected.as_str(), &found) {
            (
                "a string",
                de::Unexpected::Bool(_) | de::Unexpected::Signed(_) | de::Unexpected::Unsigned(_),
            )
            | ("a string", de::Unexpected::Float(_)) => "Put it in quotes.".to_owned(),
            ("a whole number", de::Unexpected::Str(text)) if text.parse::<i64>().is_ok() => {
                "Remove the quotes.".to_owned()
            }
            ("a list", de::Unexpected::Map) => "Begin each item with \"- \".".to_owned(),
            _ => format!("Give {expected}."),
        };
        Self::new(format!("expected {expected}, found {}", describe_found(&found)), remedy)
    }

    fn invalid_value(found: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = describe_expected(&expected.to_string());
        let remedy = format!("Give {expected}.");
        Self::new(format!("expected {expected}, found {}", describe_found(&found)), remedy)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let remedy = match nearest(variant, expected.iter().copied()) {
            Some(near) => format!("Did you mean {near}? Known are {}.", expected.join(", ")),
            None => format!("Use one of {}.", expected.join(", ")),
        };
        Self::new(format!("{variant:?} is unknown here"), remedy)
    }

    fn missing_field(field: &'static str) -> Self {
        let error = Self::new("it is missing and required", format!("Add {field}."));
        Self { missing: Some(field.to_owned()), ..error }
    }
}

fn describe_expected(expected: &str) -> String {
    match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" | "isize" => {
            "a whole number".into()
        }
        "f32" | "f64" => "a number".into(),
        "a boolean" => "true or false".into(),
        "a sequence" | "a list" => "a list".into(),
        "Time" | "Timestamp" => "a time such as 2026-01-31T12:00:00Z".into(),
        "IntOrString" => "a number or a string".into(),
        "a map" | "unit" => "a mapping".into(),
        other if other.starts_with("struct ") => "a mapping".into(),
        other if other.starts_with("a ") || other.starts_with("an ") || other.contains(' ') => other.into(),
        other if other.starts_with(char::is_uppercase) => "a mapping".into(),
        other => other.into(),
    }
}

fn describe_found(found: &de::Unexpected<'_>) -> String {
    match found {
        de::Unexpected::Bool(value) => format!("{value}"),
        de::Unexpected::Signed(number) => format!("the number {number}"),
        de::Unexpected::Unsigned(number) => format!("the number {number}"),
        de::Unexpected::Float(number) => format!("the number {number}"),
        de::Unexpected::Str(text) => format!("{:?}", shortened(text)),
        de::Unexpected::Unit | de::Unexpected::Option => "nothing".into(),
        de::Unexpected::Seq => "a list".into(),
        de::Unexpected::Map => "a mapping".into(),
        other => other.to_string(),
    }
}

/// A text that fits into a message.
pub(crate) fn shortened(text: &str) -> String {
    if text.chars().count() <= 60 {
        text.to_owned()
    } else {
        text.chars().take(57).chain("...".chars()).collect()
    }
}

#[derive(Default)]
struct Context {
    path: RefCell<String>,
    unknown: RefCell<Vec<UnknownField>>,
}

impl Context {
    /// Runs `inside` with the path grown by a segment.
    fn within<T>(&self, segment: &str, inside: impl FnOnce() -> T) -> T {
        let length = {
            let mut path = self.path.borrow_mut();
            let length = path.len();
            if !path.is_empty() && !segment.starts_with('[') {
                path.push('.');
            }
            path.push_str(segment);
            length
        };
        let result = inside();
        self.path.borrow_mut().truncate(length);
        result
    }

    fn located<T>(&self, line: u32, result: Result<T, TypeError>) -> Result<T, TypeError> {
        result.map_err(|mut error| {
            if error.place.is_none() {
                error.place = Some((self.path.borrow().clone(), line));
            }
            error
        })
    }
}

struct NodeDeserializer<'de, 'c> {
    node: &'de Node,
    context: &'c Context,
}

impl<'de> NodeDeserializer<'de, '_> {
    fn visit<V: Visitor<'de>>(
        self,
        visitor: V,
        known: Option<&'static [&'static str]>,
    ) -> Result<V::Value, TypeError> {
        let Self { node, context } = self;
        let result = match &node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(number) => visitor.visit_i64(*number),
            Value::UInt(number) => visitor.visit_u64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Text { text, .. } => visitor.visit_borrowed_str(text),
            Value::List(items) => visitor.visit_seq(Items { items: items.iter().enumerate(), context }),
            Value::Map(entries) => {
                visitor.visit_map(Fields { entries: entries.iter(), current: None, known, context })
            }
        };
        context.located(node.line, result)
    }
}

impl<'de> de::Deserializer<'de> for NodeDeserializer<'de, '_> {
    type Error = TypeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        self.visit(visitor, None)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        self.visit(visitor, Some(fields))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        if self.node.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        match &self.node.value {
            Value::Text { text, plain: true } => match yaml_1_1_bool(text) {
                Some(value) => visitor.visit_bool(value),
                None => self.visit(visitor, None),
            },
            _ => self.visit(visitor, None),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        let (context, line) = (self.context, self.node.line);
        context.located(line, visitor.visit_newtype_struct(self))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TypeError> {
        let result = match &self.node.value {
            Value::Text { text, .. } => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => Err(TypeError::new(
                format!("expected one of {}", variants.join(", ")),
                "Write one of these words.",
            )),
        };
        self.context.located(self.node.line, result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TypeError> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map identifier
    }
}

struct Items<'de, 'c> {
    items: std::iter::Enumerate<std::slice::Iter<'de, Node>>,
    context: &'c Context,
}

impl<'de> de::SeqAccess<'de> for Items<'de, '_> {
    type Error = TypeError;

    fn next_element_seed<T: de::DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, TypeError> {
        let Some((index, node)) = self.items.next() else { return Ok(None) };
        let context = self.context;
        context.within(&format!("[{index}]"), || {
            let result = seed.deserialize(NodeDeserializer { node, context });
            context.located(node.line, result).map(Some)
        })
    }
}

struct Fields<'de, 'c> {
    entries: std::slice::Iter<'de, Entry>,
    current: Option<&'de Entry>,
    known: Option<&'static [&'static str]>,
    context: &'c Context,
}

impl<'de> de::MapAccess<'de> for Fields<'de, '_> {
    type Error = TypeError;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TypeError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.current = Some(entry);
        if let Some(known) = self.known
            && !known.contains(&entry.key.as_str())
            && self.context.unknown.borrow().len() < MAX_UNKNOWN
        {
            let path = self.context.within(&entry.key, || self.context.path.borrow().clone());
            self.context.unknown.borrow_mut().push(UnknownField {
                path,
                line: entry.line,
                key: entry.key.clone(),
                nearest: nearest(&entry.key, known.iter().copied()),
                known,
            });
        }
        let key: de::value::BorrowedStrDeserializer<'de, TypeError> =
            de::value::BorrowedStrDeserializer::new(&entry.key);
        self.context.located(entry.line, seed.deserialize(key)).map(Some)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TypeError> {
        let Some(entry) = self.current.take() else {
            return Err(TypeError::new("a value without a key", "Write it as \"key: value\"."));
        };
        let context = self.context;
        context.within(&entry.key, || {
            let result = seed.deserialize(NodeDeserializer { node: &entry.node, context });
            context.located(entry.line, result)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::yaml;
    use understudy_crds::Backend;

    fn read(text: &str) -> (Result<Backend, TypeError>, Vec<UnknownField>) {
        let documents = yaml::parse(text).unwrap();
        let (result, unknown) = from_node::<Backend>(&documents[0].root);
        (result, unknown)
    }

    #[test]
    fn a_value_of_a_wrong_type_names_line_field_and_remedy() {
        let (result, _) = read("spec:\n  endpoints:\n  - ip:\n      address: 10.0.0.1\n      port: \"80\"\n");
        let error = result.unwrap_err();
        assert_eq!((error.path().as_str(), error.line()), ("spec.endpoints[0].ip.port", Some(5)));
        assert_eq!(error.message, "expected a whole number, found \"80\"");
        assert_eq!(error.remedy, "Remove the quotes.");
    }

    #[test]
    fn a_missing_field_is_named_with_its_place() {
        let error = read("spec:\n  endpoints:\n  - ip:\n      port: 80\n").0.unwrap_err();
        assert_eq!((error.path().as_str(), error.line()), ("spec.endpoints[0].ip.address", Some(4)));
    }

    #[test]
    fn an_unknown_word_is_named_with_the_nearest_known_one() {
        let error = read("spec:\n  type: Endpoint\n").0.unwrap_err();
        assert_eq!(error.path(), "spec.type");
        assert!(error.remedy.starts_with("Did you mean Endpoints?"), "{error:?}");
    }

    #[test]
    fn unknown_fields_are_collected_with_the_nearest_known_one() {
        let (result, unknown) = read("spec:\n  falback: true\n  endpoints:\n  - ipp: {}\n    zone: a\n");
        assert!(result.is_ok());
        let found: Vec<_> = unknown.iter().map(|u| (u.path.as_str(), u.line, u.nearest)).collect();
        assert_eq!(found, [("spec.falback", 2, Some("fallback")), ("spec.endpoints[0].ipp", 4, Some("ip"))]);
    }

    #[test]
    fn yaml_1_1_truths_count_where_a_boolean_is_expected() {
        assert_eq!(read("spec:\n  fallback: yes\n").0.unwrap().spec.fallback, Some(true));
        assert!(read("spec:\n  fallback: \"yes\"\n").0.is_err());
    }
}
