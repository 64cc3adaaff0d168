//! The control groups of a cluster's pods: one below the root of each hierarchy that the machine has.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

const ROOT: &str = "/sys/fs/cgroup";

/// Makes the groups, under which the kubelet makes those of the pods.
pub(crate) fn make(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        fs::create_dir_all(&group)?;
        // In version 1 a group has no processors until it is given some.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.ends_with("cpuset")
                && let Ok(all) = fs::read(hierarchy.join(file))
            {
                fs::write(group.join(file), all)?;
            }
        }
    }
    Ok(())
}

/// Removes the groups, and those that the kubelet made below them, once nothing runs in them.
pub(crate) fn remove(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(name);
        if group.is_dir() {
            remove_tree(&group)?;
        }
    }
    Ok(())
}

/// Version 2 has one hierarchy at the root, version 1 one for each kind of limit.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_path_buf()]);
    }
    let entries = fs::read_dir(root)?.filter_map(|entry| Some(entry.ok()?.path()));
    Ok(entries.filter(|path| !path.is_symlink() && path.join("cgroup.procs").exists()).collect())
}

/// The files in a group are not files that could be removed: only folders are.
fn remove_tree(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    Ok(fs::remove_dir(folder)?)
}
