//! Where things are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run;

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    // This crate's folder stands in the root.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// How the names of variables begin that cargo sets for the crate that it runs.
const OF_THIS_CRATE: &[&str] =
    &["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];

/// The cargo that runs this chore.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    // Set by `cargo run` for this crate. Build scripts of others watch some of them, and would run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if OF_THIS_CRATE.iter().any(|start| text.starts_with(start)) {
            command.env_remove(name);
        }
    }
    command
}

/// What `cargo metadata` says about the workspace's own packages.
pub(crate) fn metadata() -> Result<serde_json::Value> {
    let text = run::output(cargo().args(["metadata", "--no-deps", "--format-version", "1", "--locked"]))?;
    serde_json::from_str(&text).context("cargo metadata gave no JSON")
}

/// The folder that cargo builds into.
pub(crate) fn target() -> Result<PathBuf> {
    let metadata = metadata()?;
    let folder = metadata["target_directory"].as_str().context("cargo metadata names no target folder")?;
    Ok(PathBuf::from(folder))
}

/// The folder for what this project builds or installs for itself. It outlives clones of the repository.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(own) = folder("UNDERSTUDY_CACHE") {
        return std::path::absolute(own).context("UNDERSTUDY_CACHE");
    }
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    Ok(cache.context("none of UNDERSTUDY_CACHE, XDG_CACHE_HOME and HOME is set")?.join("understudy"))
}

/// The folder for tools of developers.
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(cache()?.join("tools"))
}
