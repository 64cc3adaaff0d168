//! `k8s/install.yaml`: one file for those who have no kustomize, made of the files that the base names.
//!
//! Inputs: `k8s/base/kustomization.yaml` and what it names. Outputs: the file, or whether it is up to date.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::paths;

const INSTALL: &str = "k8s/install.yaml";
const BASE: &str = "k8s/base";

const HEAD: &str = "\
# Everything that runs Understudy in a cluster, except the kinds of Gateway API (gateway-api.yaml):
# `kubectl apply --server-side -f k8s/gateway-api.yaml -f k8s/install.yaml`.
# Made of crds/ and k8s/base/ by `cargo xtask manifests`; change it there.
";

/// Writes the file.
pub(crate) fn write() -> Result<()> {
    std::fs::write(paths::root().join(INSTALL), render()?).context(INSTALL)
}

/// The file as its parts give it.
fn render() -> Result<String> {
    let mut text = HEAD.to_owned();
    for part in parts(&paths::root().join(BASE))? {
        text.push_str("---\n");
        text.push_str(part.trim_start_matches("---\n"));
    }
    Ok(text)
}

/// What a kustomization names, file by file.
fn parts(folder: &Path) -> Result<Vec<String>> {
    let file = folder.join("kustomization.yaml");
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| path.display().to_string());
    let text = read(&file)?;
    let names = text.lines().filter_map(|line| line.strip_prefix("  - "));
    let mut parts = Vec::new();
    for name in names {
        let path = folder.join(name);
        if path.is_dir() { parts.extend(self::parts(&path)?) } else { parts.push(read(&path)?) }
    }
    ensure!(!parts.is_empty(), "{} names nothing", file.display());
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_to_install_is_what_its_parts_give() {
        let found = std::fs::read_to_string(paths::root().join(INSTALL)).unwrap_or_default();
        assert!(found == render().unwrap(), "{INSTALL} is out of date: `cargo xtask manifests` writes it");
    }
}
