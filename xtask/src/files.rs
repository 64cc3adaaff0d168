//! The files of the tree.

use std::process::Command;

use anyhow::Result;

use crate::{paths, run};

/// All files that git knows or would add, relative to the root, that exist.
pub(crate) fn tracked() -> Result<Vec<String>> {
    let mut command = Command::new("git");
    command.current_dir(paths::root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listing = run::output(&mut command)?;
    let root = paths::root();
    Ok(listing
        .split('\0')
        .filter(|name| !name.is_empty() && root.join(name).is_file())
        .map(str::to_owned)
        .collect())
}

/// The text of a file; `None` where it is not text.
pub(crate) fn text(name: &str) -> Result<Option<String>> {
    Ok(String::from_utf8(std::fs::read(paths::root().join(name))?).ok())
}
