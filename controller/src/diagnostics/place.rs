//! Where a finding is.

use std::sync::Arc;

use crate::cluster::Origin;
use crate::diagnostics::{Diagnostic, Reason, Severity};

/// An object's field in its file.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    file: Option<Arc<str>>,
    line: Option<u32>,
    object: Option<String>,
    field: Option<String>,
}

impl Place {
    /// A field of an object.
    pub(crate) fn field(origin: &Origin, object: &str, field: &str) -> Self {
        let line = origin.file.is_some().then(|| origin.line_of(field));
        let field = (!field.is_empty()).then(|| field.to_owned());
        Self { file: origin.file.clone(), line, object: Some(object.to_owned()), field }
    }

    /// A line of a file.
    pub(crate) fn line(file: &Arc<str>, line: u32) -> Self {
        Self { file: Some(file.clone()), line: Some(line), object: None, field: None }
    }

    /// A line of a file, or of an object that comes from no file.
    pub(crate) fn somewhere(file: Option<&Arc<str>>, line: u32) -> Self {
        Self { file: file.cloned(), line: file.map(|_| line), object: None, field: None }
    }

    /// A file.
    pub(crate) fn file(file: &Arc<str>) -> Self {
        Self { file: Some(file.clone()), line: None, object: None, field: None }
    }

    /// The same place, where object and field are known by name only.
    pub(crate) fn named(mut self, object: Option<&str>, field: &str) -> Self {
        self.object = object.map(str::to_owned);
        self.field = (!field.is_empty()).then(|| field.to_owned());
        self
    }

    pub(crate) fn error(
        &self,
        reason: Reason,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Diagnostic {
        self.diagnostic(Severity::Error, reason, message.into(), remedy.into())
    }

    pub(crate) fn warning(
        &self,
        reason: Reason,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Diagnostic {
        self.diagnostic(Severity::Warning, reason, message.into(), remedy.into())
    }

    pub(crate) fn info(
        &self,
        reason: Reason,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Diagnostic {
        self.diagnostic(Severity::Info, reason, message.into(), remedy.into())
    }

    fn diagnostic(&self, severity: Severity, reason: Reason, message: String, remedy: String) -> Diagnostic {
        Diagnostic {
            severity,
            file: self.file.clone(),
            line: self.line,
            object: self.object.clone(),
            field: self.field.clone(),
            reason,
            message,
            remedy,
        }
    }
}
