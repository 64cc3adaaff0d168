//! Whether a run left the tree as it found it: what is generated must be committed as generated.

use std::process::Command;

use anyhow::{Result, bail};

use crate::stages::Done;
use crate::{paths, run};

/// What git says about the tree: its changed and unknown files, and the changes.
pub(crate) struct Snapshot {
    status: String,
    diff: String,
}

/// Looks at the tree.
pub(crate) fn snapshot() -> Result<Snapshot> {
    let git = |args: &[&str]| run::output(Command::new("git").current_dir(paths::root()).args(args));
    Ok(Snapshot { status: git(&["status", "--porcelain"])?, diff: git(&["diff", "HEAD"])? })
}

/// Fails when the tree is not as it was. In continuous integration (`CI` is set) it must have no change at all.
pub(crate) fn unchanged_since(before: &Snapshot) -> Result<Done> {
    let now = snapshot()?;
    if now.status != before.status || now.diff != before.diff {
        bail!("this run changed the tree; commit what it generates:\n{}", now.status);
    }
    if std::env::var_os("CI").is_some() && !now.status.is_empty() {
        bail!("the tree is not clean:\n{}", now.status);
    }
    Ok(Done::Passed)
}
