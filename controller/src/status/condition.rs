//! Conditions: one constructor for each type and reason that is said in more than one place.

use std::borrow::Cow;

use crate::watch::{Node, NodeValue};

/// Longer messages are cut.
const MAX_MESSAGE: usize = 2048;

/// The condition of warnings, on objects whose kind has none of its own.
pub(super) const OWN_WARNING: &str = "understudy.dev/Warning";
/// The condition of a Backend that another manager accepts or refuses by itself.
pub(super) const OWN_ACCEPTED: &str = "understudy.dev/Accepted";

/// One aspect of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) kind: &'static str,
    /// Whether it holds.
    pub(crate) holds: bool,
    pub(crate) reason: Cow<'static, str>,
    pub(crate) message: String,
}

impl Condition {
    pub(crate) fn new(
        kind: &'static str,
        holds: bool,
        reason: impl Into<Cow<'static, str>>,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE {
            let end = (0..=MAX_MESSAGE - 4).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push_str(" …");
        }
        Self { kind, holds, reason: reason.into(), message }
    }
}

pub(super) fn accepted(message: &str) -> Condition {
    Condition::new("Accepted", true, "Accepted", message)
}

pub(super) fn not_accepted(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Condition {
    Condition::new("Accepted", false, reason, message)
}

pub(super) fn resolved_refs() -> Condition {
    Condition::new("ResolvedRefs", true, "ResolvedRefs", "Every reference resolves.")
}

pub(super) fn unresolved_refs(reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Condition {
    Condition::new("ResolvedRefs", false, reason, message)
}

pub(super) fn programmed() -> Condition {
    Condition::new("Programmed", true, "Programmed", "Every ready node serves it.")
}

pub(super) fn not_programmed(reason: &'static str, message: impl Into<String>) -> Condition {
    Condition::new("Programmed", false, reason, message)
}

/// Whether a condition of a status that stands in an object holds.
pub(super) fn is_true(status: &Node, kind: &str) -> bool {
    match status.child("conditions").map(|node| &node.value) {
        Some(NodeValue::List(conditions)) => conditions.iter().any(|condition| {
            condition.text("type") == Some(kind) && condition.text("status") == Some("True")
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_without_end_is_cut_between_characters() {
        let condition = not_accepted("Invalid", "ä".repeat(5000));
        assert!(condition.message.len() <= MAX_MESSAGE && condition.message.ends_with("ä …"));
    }
}
