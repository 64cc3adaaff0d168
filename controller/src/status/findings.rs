//! Diagnostics by the object that they are about, and as the message of a condition.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;

use crate::diagnostics::{Diagnostic, Reason, Severity};

/// More findings than this are counted, not written out.
const MAX_WRITTEN: usize = 4;

/// Diagnostics by the object that they are about.
pub(super) struct Findings<'a> {
    by_object: HashMap<&'a str, Vec<&'a Diagnostic>>,
    /// What is said of routes, by the policy whose fault it is.
    by_culprit: HashMap<&'a str, Vec<&'a Diagnostic>>,
}

impl<'a> Findings<'a> {
    pub(super) fn new(diagnostics: &'a [Diagnostic]) -> Self {
        let mut by_object: HashMap<&str, Vec<&Diagnostic>> = HashMap::new();
        let mut by_culprit: HashMap<&str, Vec<&Diagnostic>> = HashMap::new();
        for diagnostic in diagnostics {
            if let Some(object) = diagnostic.object.as_deref() {
                by_object.entry(object).or_default().push(diagnostic);
            }
            if let Some(culprit) = culprit(diagnostic) {
                by_culprit.entry(culprit).or_default().push(diagnostic);
            }
        }
        Self { by_object, by_culprit }
    }

    /// The objects of which others say something else.
    pub(super) fn differing(&self, others: &Self) -> BTreeSet<String> {
        let objects = self.by_object.keys().chain(others.by_object.keys());
        objects
            .filter(|object| self.of(object) != others.of(object))
            .map(|object| (*object).to_owned())
            .collect()
    }

    /// What a policy keeps from failing over, said of the routes that it governs.
    pub(super) fn caused_by(&self, policy: &str) -> &[&'a Diagnostic] {
        self.by_culprit.get(policy).map_or(&[], Vec::as_slice)
    }

    /// What was found about an object, things that are merely good to know included.
    pub(super) fn of(&self, object: &str) -> &[&'a Diagnostic] {
        self.by_object.get(object).map_or(&[], Vec::as_slice)
    }

    /// What was found about an object that refuses something.
    pub(super) fn errors(&self, object: &str) -> impl Iterator<Item = &'a Diagnostic> {
        self.of(object).iter().copied().filter(|diagnostic| diagnostic.is_error())
    }

    /// What was found about an object that acts otherwise than it was probably meant.
    pub(super) fn warnings(&self, object: &str) -> impl Iterator<Item = &'a Diagnostic> {
        self.of(object).iter().copied().filter(|diagnostic| diagnostic.severity == Severity::Warning)
    }
}

/// The policy that a finding about a route begins with.
fn culprit(diagnostic: &Diagnostic) -> Option<&str> {
    let message = &diagnostic.message;
    if diagnostic.reason != Reason::FailoverImpossible || !message.starts_with("BackendTrafficPolicy ") {
        return None;
    }
    let end = message.match_indices(' ').nth(1)?.0;
    message.get(..end)
}

/// The field of a finding; empty if it is about the whole object.
pub(super) fn field(diagnostic: &Diagnostic) -> &str {
    diagnostic.field.as_deref().unwrap_or("")
}

/// Whether a finding is about a field or something below it.
pub(super) fn is_below(diagnostic: &Diagnostic, prefix: &str) -> bool {
    field(diagnostic).strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Findings about one object as a message: field, sentence and remedy of each.
pub(super) fn sentences(diagnostics: &[&Diagnostic]) -> String {
    let object = diagnostics.first().and_then(|first| first.object.clone()).unwrap_or_default();
    sentences_for(&object, diagnostics)
}

/// Findings as the message of an object's condition; those about other objects name them.
pub(super) fn sentences_for(object: &str, diagnostics: &[&Diagnostic]) -> String {
    let mut text = String::new();
    for diagnostic in diagnostics.iter().take(MAX_WRITTEN) {
        if !text.is_empty() {
            text.push(' ');
        }
        if let Some(other) = diagnostic.object.as_deref().filter(|other| *other != object) {
            let _ = write!(text, "{other}: ");
        }
        if !field(diagnostic).is_empty() {
            let _ = write!(text, "{}: ", field(diagnostic));
        }
        let _ = write!(text, "{}.", diagnostic.message);
        if !diagnostic.remedy.is_empty() {
            let _ = write!(text, " {}", diagnostic.remedy);
        }
    }
    if diagnostics.len() > MAX_WRITTEN {
        let _ = write!(text, " And {} more.", diagnostics.len() - MAX_WRITTEN);
    }
    text
}
