//! What can go wrong with the state on disk. Every message names the file and the way out.

use std::io;
use std::path::{Path, PathBuf};

use crate::DanglingReference;

/// Why a state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Nothing has been written yet. An empty state is something else: it has a root.
    #[error("{file} does not exist: no controller has written a state yet; start one on this folder")]
    Missing {
        /// The root.
        file: PathBuf,
    },
    /// The root is of a format that this version does not know.
    #[error(
        "{file} is of format {found}, and this version knows none above {known}: \
         upgrade the proxy, or let a controller of this version write the state again"
    )]
    NewerFormat {
        /// The root.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that is known.
        known: u32,
    },
    /// A file ends too early.
    #[error("{file} is cut off ({reason}): restart the controller, which writes it again")]
    Truncated {
        /// The file.
        file: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// A file does not hold what was written to it.
    #[error("{file} is garbled ({reason}): restart the controller, which writes it again")]
    Garbled {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that the root refers to is not there, and no newer root has come.
    #[error(
        "{file} is missing, though the state refers to it: restart the controller, which writes it again"
    )]
    Vanished {
        /// The file.
        file: PathBuf,
    },
    /// A file is larger than any that the store writes.
    #[error("{file} is larger than {limit} bytes, the most that is read: split the object that it holds")]
    TooLarge {
        /// The file.
        file: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// The operating system refused.
    #[error(
        "cannot {action} {file}: {source}; check that the folder is there, has space, and belongs to this user"
    )]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// An object refers to one that is not in the state.
    #[error("the state of {file} is inconsistent: {reference}; the controller must not publish it")]
    Dangling {
        /// The root.
        file: PathBuf,
        /// Who refers to what.
        reference: DanglingReference,
    },
    /// Another controller writes to the folder.
    #[error(
        "{file} is locked: another controller writes to this folder; stop it, or give this one a folder of its own"
    )]
    Locked {
        /// The lock file.
        file: PathBuf,
    },
    /// The lock file was removed or replaced, so that a second controller might have started.
    #[error("{file} is no longer the file that this controller locked: restart the controller")]
    LockLost {
        /// The lock file.
        file: PathBuf,
    },
    /// An object cannot be written so that it reads back the same.
    #[error("{object} cannot be written ({reason}): change that object")]
    Unwritable {
        /// The object's name.
        object: String,
        /// Why not.
        reason: String,
    },
}

impl StoreError {
    /// A short word for the kind of error, for metrics: the same for all errors of a variant.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::NewerFormat { .. } => "newer_format",
            Self::Truncated { .. } => "truncated",
            Self::Garbled { .. } => "garbled",
            Self::Vanished { .. } => "vanished",
            Self::TooLarge { .. } => "too_large",
            Self::Io { .. } => "io",
            Self::Dangling { .. } => "dangling",
            Self::Locked { .. } => "locked",
            Self::LockLost { .. } => "lock_lost",
            Self::Unwritable { .. } => "unwritable",
        }
    }

    pub(crate) fn io(action: &'static str, file: &Path, source: io::Error) -> Self {
        Self::Io { action, file: file.to_owned(), source }
    }

    pub(crate) fn garbled(file: &Path, reason: impl Into<String>) -> Self {
        Self::Garbled { file: file.to_owned(), reason: reason.into() }
    }

    pub(crate) fn truncated(file: &Path, reason: impl Into<String>) -> Self {
        Self::Truncated { file: file.to_owned(), reason: reason.into() }
    }
}
