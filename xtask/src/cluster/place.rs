//! Where a cluster's files are.

use std::path::{Path, PathBuf};

use anyhow::Result;
use sha2::{Digest, Sha256};

use crate::paths;

/// The run folder's name inside the cluster's namespaces; `k8s/testcluster/` knows it as well.
pub(crate) const INSIDE: &str = "/run/understudy-testcluster";

/// The folders of one checkout's cluster.
pub(crate) struct Place {
    /// What tells this checkout's cluster from others: short, of hexadecimal digits.
    pub(crate) name: String,
    /// What the running cluster writes.
    pub(crate) run: PathBuf,
    /// The project's folder with configuration and sources.
    pub(crate) sources: PathBuf,
}

impl Place {
    /// The place of this checkout's cluster, or of another of its clusters.
    pub(crate) fn of_checkout(which: &str) -> Result<Self> {
        let root = paths::root();
        let name = digest([root.to_string_lossy().as_bytes(), which.as_bytes()])[..8].to_owned();
        let run = paths::cache()?.join(format!("testcluster-run-{name}"));
        Ok(Self { name, run, sources: root.join("k8s").join("testcluster") })
    }

    /// A file of the run folder, by its name outside the namespaces.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.run.join(name)
    }

    /// The control group under which all pods run.
    pub(crate) fn group(&self) -> String {
        format!("understudy-{}", self.name)
    }
}

/// A file of the run folder, by its name inside the namespaces.
pub(crate) fn inside(name: &str) -> String {
    format!("{INSIDE}/{name}")
}

/// The digest of some texts, in hexadecimal digits; where one ends and the next begins counts.
pub(crate) fn digest<'a>(texts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for text in texts {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// All files below a folder, sorted.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_where_texts_end() {
        assert_ne!(digest([&b"ab"[..], b"c"]), digest([&b"a"[..], b"bc"]));
        assert_eq!(digest([&b"a"[..]]).len(), 64);
    }
}
