//! What is said about manifests: one [`Diagnostic`] per finding, with file, line, object, field and a way out.
//!
//! Inputs: findings of every stage. Outputs: a list in a stable order. Each reason has one constructor, in
//! `reasons`, so that a reason always reads the same.

mod place;
mod reason;
pub(crate) mod reasons;

use std::fmt;
use std::sync::Arc;

pub(crate) use place::Place;
pub use reason::Reason;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Something that was asked for is refused or cannot act.
    Error,
    /// Everything acts, but probably not as it was meant.
    Warning,
    /// Good to know; shown on request only.
    Info,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// One finding.
///
/// It is displayed as `FILE:LINE: error: OBJECT: FIELD: MESSAGE (REASON). REMEDY`; what is not known is left
/// out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file that it is about, as it was named or found; `None` where it is about no file.
    pub file: Option<Arc<str>>,
    /// The line in that file, from 1.
    pub line: Option<u32>,
    /// The object: `HTTPRoute default/shop`.
    pub object: Option<String>,
    /// The field's path: `spec.rules[0].backendRefs[1].name`.
    pub field: Option<String>,
    /// The reason, with Gateway API's name where it has one.
    pub reason: Reason,
    /// What was found, without a full stop.
    pub message: String,
    /// What to do about it: a sentence, or nothing.
    pub remedy: String,
}

impl Diagnostic {
    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{file}:")?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        write!(f, "{}: ", self.severity)?;
        for part in [&self.object, &self.field].into_iter().flatten().filter(|part| !part.is_empty()) {
            write!(f, "{part}: ")?;
        }
        write!(f, "{} ({}).", self.message, self.reason)?;
        if self.remedy.is_empty() { Ok(()) } else { write!(f, " {}", self.remedy) }
    }
}

/// Sorts by file, line, object and field, and drops repetitions.
pub(crate) fn sort(diagnostics: &mut Vec<Diagnostic>) {
    fn key(d: &Diagnostic) -> impl Ord + '_ {
        (&d.file, d.line, &d.object, &d.field, d.severity, d.reason, &d.message)
    }
    diagnostics.sort_by(|a, b| key(a).cmp(&key(b)));
    diagnostics.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_reads_as_file_line_severity_object_field_message_reason_remedy() {
        let mut diagnostic = Diagnostic {
            severity: Severity::Error,
            file: Some("a.yaml".into()),
            line: Some(7),
            object: Some("HTTPRoute default/shop".into()),
            field: Some("spec.rules[0].backendRefs[1].name".into()),
            reason: Reason::BackendNotFound,
            message: "there is no Backend default/blue".into(),
            remedy: "Add it.".into(),
        };
        assert_eq!(
            diagnostic.to_string(),
            "a.yaml:7: error: HTTPRoute default/shop: spec.rules[0].backendRefs[1].name: \
             there is no Backend default/blue (BackendNotFound). Add it."
        );
        diagnostic.file = None;
        diagnostic.field = None;
        diagnostic.remedy.clear();
        assert_eq!(
            diagnostic.to_string(),
            "error: HTTPRoute default/shop: there is no Backend default/blue (BackendNotFound)."
        );
    }
}
