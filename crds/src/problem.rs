//! What is wrong with an object, and the helpers that find it.

use understudy_conf::GatewayDuration;

use crate::{DurationText, Quantity};

/// Something that is wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}. {remedy}")]
pub struct Problem {
    /// Path of the field, from the object's root: `spec.endpoints[0].ip.port`.
    pub field: String,
    /// What is wrong, without a full stop.
    pub message: String,
    /// What to do about it: a sentence.
    pub remedy: String,
}

/// Collects problems below a field. Cloned paths are short: problems are the exception.
pub(crate) struct Checker<'a> {
    problems: &'a mut Vec<Problem>,
    prefix: String,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(problems: &'a mut Vec<Problem>, prefix: &str) -> Self {
        Self { problems, prefix: prefix.to_owned() }
    }

    /// The checker of a field below this one; `field` may be an index, `[0]`.
    pub(crate) fn at(&mut self, field: &str) -> Checker<'_> {
        let prefix = self.path(field);
        Checker { problems: self.problems, prefix }
    }

    pub(crate) fn item(&mut self, field: &str, index: usize) -> Checker<'_> {
        self.at(&format!("{field}[{index}]"))
    }

    fn path(&self, field: &str) -> String {
        match (self.prefix.is_empty(), field.is_empty() || field.starts_with('[')) {
            (true, _) => field.to_owned(),
            (_, true) => format!("{}{field}", self.prefix),
            _ => format!("{}.{field}", self.prefix),
        }
    }

    pub(crate) fn problem(&mut self, field: &str, message: impl Into<String>, remedy: impl Into<String>) {
        let field = self.path(field);
        self.problems.push(Problem { field, message: message.into(), remedy: remedy.into() });
    }

    pub(crate) fn range(&mut self, field: &str, value: Option<i64>, min: i64, max: i64) {
        if let Some(value) = value
            && !(min..=max).contains(&value)
        {
            self.problem(
                field,
                format!("{value} is out of range"),
                format!("Use a number from {min} to {max}."),
            );
        }
    }

    pub(crate) fn duration(&mut self, field: &str, text: Option<&DurationText>) -> Option<GatewayDuration> {
        match text?.parse() {
            Ok(duration) => Some(duration),
            Err(error) => {
                self.problem(field, error.to_string(), "Write it as in \"10s\", \"1m30s\" or \"500ms\".");
                None
            }
        }
    }

    /// A duration that must not be zero.
    pub(crate) fn positive_duration(
        &mut self,
        field: &str,
        text: Option<&DurationText>,
    ) -> Option<GatewayDuration> {
        let duration = self.duration(field, text)?;
        if duration.is_zero() {
            self.problem(
                field,
                "a length of 0s makes no sense here",
                "Use a longer duration, or leave it out.",
            );
            return None;
        }
        Some(duration)
    }

    pub(crate) fn quantity(&mut self, field: &str, text: Option<&Quantity>) -> Option<u64> {
        match text?.bytes() {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.problem(field, error.to_string(), "Write bytes with an optional unit, as in \"32Ki\".");
                None
            }
        }
    }

    pub(crate) fn length(&mut self, field: &str, text: &str, min: usize, max: usize) {
        if text.len() < min {
            self.problem(field, "it must not be empty", "Give it a value, or leave the field out.");
        } else if text.len() > max {
            self.problem(
                field,
                format!("it has {} bytes", text.len()),
                format!("At most {max} are allowed."),
            );
        }
    }

    pub(crate) fn items(&mut self, field: &str, count: usize, min: usize, max: usize) {
        if count < min {
            self.problem(field, "the list is empty", "Give at least one item, or leave the field out.");
        } else if count > max {
            self.problem(field, format!("it has {count} items"), format!("At most {max} are allowed."));
        }
    }

    /// A DNS name of RFC 1123, such as Gateway API's `PreciseHostname`.
    pub(crate) fn dns_name(&mut self, field: &str, name: &str) {
        if !is_dns_name(name) {
            self.problem(
                field,
                format!("{name:?} is not a DNS name"),
                "Use lower-case letters, digits, '-' and '.', at most 253 characters.",
            );
        }
    }
}

/// Whether `name` is a lower-case DNS name of RFC 1123 without a trailing dot.
pub(crate) fn is_dns_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}
