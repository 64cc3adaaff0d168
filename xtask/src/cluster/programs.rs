//! The cluster's programs and images, built from Go modules once and kept in the cache.
//!
//! Inputs: the modules under `k8s/testcluster`. Output: a folder named by a digest of them, complete or not there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::lab::{DNS, ECHO};
use super::place::{Place, digest, files_below};
use crate::image::archive::{Image, Node};
use crate::image::{NOBODY, accounts};
use crate::tools::{self, Program};
use crate::{paths, run};

const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);

/// Changes when the same sources are built in another way.
const RECIPE: &[u8] = b"1";

/// What the cluster calls besides its own programs.
const SYSTEM: [Program; 10] = [
    Program { name: "containerd", package: "containerd" },
    Program { name: "runc", package: "runc" },
    Program { name: "/usr/lib/cni/bridge", package: "containernetworking-plugins" },
    Program { name: "iptables", package: "iptables" },
    Program { name: "nft", package: "nftables" },
    Program { name: "ip", package: "iproute2" },
    Program { name: "conntrack", package: "conntrack" },
    Program { name: "openssl", package: "openssl" },
    Program { name: "nsenter", package: "util-linux" },
    Program { name: "mount", package: "mount" },
];

/// The image that the failover task's manifests name.
const TASK_ECHO: &str = "gcr.io/k8s-staging-gateway-api/echo-basic:v20231214-v1.0.0-140-gf544a46e";

/// A program that is built, and the images that contain it.
struct Recipe {
    module: &'static str,
    /// What of the module is built; the module itself is `.`.
    package: &'static str,
    images: &'static [&'static str],
}

const RECIPES: [Recipe; 5] = [
    Recipe { module: "pause", package: ".", images: &["localhost/testcluster/pause:1"] },
    Recipe { module: "dns", package: ".", images: &[DNS] },
    Recipe {
        module: "echo",
        package: "sigs.k8s.io/gateway-api/conformance/echo-basic",
        images: &[TASK_ECHO, ECHO],
    },
    Recipe { module: "kubernetes", package: ".", images: &[] },
    Recipe { module: "helm", package: "helm.sh/helm/v4/cmd/helm", images: &[] },
];

/// The folder with the programs, named as their modules, and images, named `*.tar`.
pub(crate) struct Programs {
    folder: PathBuf,
}

impl Programs {
    /// The programs that belong to these sources; builds them if nobody has yet.
    pub(crate) fn built(place: &Place) -> Result<Self> {
        let folder = folder_of(place)?;
        if !folder.is_dir() {
            require_go()?;
            println!("    building the test cluster's programs once (minutes) into {}", folder.display());
            // Complete or not there: others may look at the same time.
            let unfinished = folder.with_extension(std::process::id().to_string());
            std::fs::create_dir_all(&unfinished)?;
            for recipe in &RECIPES {
                build(place, recipe, &unfinished)?;
            }
            if std::fs::rename(&unfinished, &folder).is_err() && !folder.is_dir() {
                bail!("{} cannot be renamed to {}", unfinished.display(), folder.display());
            }
            // Somebody else was first.
            if unfinished.is_dir() {
                std::fs::remove_dir_all(&unfinished)?;
            }
        }
        Ok(Self { folder })
    }

    /// Whether there is nothing to build.
    pub(crate) fn are_built(place: &Place) -> Result<bool> {
        Ok(folder_of(place)?.is_dir())
    }

    /// The program of a module.
    pub(crate) fn program(&self, module: &str) -> PathBuf {
        self.folder.join(module)
    }

    /// The images that every cluster has.
    pub(crate) fn images(&self) -> impl Iterator<Item = PathBuf> {
        let with_images = RECIPES.iter().filter(|recipe| !recipe.images.is_empty());
        with_images.map(|recipe| self.folder.join(recipe.module).with_extension("tar"))
    }
}

/// What a machine needs to run a cluster: root, and programs that are installed where they are missing.
pub(crate) fn require_system() -> Result<()> {
    if !tools::is_root() {
        bail!("the test cluster makes namespaces and control groups, which takes root");
    }
    tools::require(&SYSTEM)
}

fn folder_of(place: &Place) -> Result<PathBuf> {
    let mut texts: Vec<Vec<u8>> = vec![RECIPE.to_vec()];
    for recipe in &RECIPES {
        let folder = place.sources.join(recipe.module);
        for file in files_below(&folder)? {
            texts.push(file.strip_prefix(&place.sources)?.to_string_lossy().as_bytes().to_vec());
            texts.push(std::fs::read(&file)?);
        }
    }
    let name = &digest(texts.iter().map(Vec::as_slice))[..12];
    Ok(paths::cache()?.join(format!("testcluster-{name}")))
}

/// The programs are built from source.
pub(crate) fn require_go() -> Result<()> {
    if run::exists("go") { Ok(()) } else { bail!("go is missing: the test cluster is built from Go modules") }
}

/// Builds a program without debug information and without C, then the image of it.
fn build(place: &Place, recipe: &Recipe, into: &Path) -> Result<()> {
    let folder = place.sources.join(recipe.module);
    let program = into.join(recipe.module);
    let mut go = Command::new("go");
    go.current_dir(&folder).args(["build", "-trimpath", "-buildvcs=false", "-ldflags"]);
    go.arg(linker_flags(&std::fs::read_to_string(folder.join("go.mod"))?)).arg("-o").arg(&program);
    run::logged(go.arg(recipe.package).env("CGO_ENABLED", "0"), BUILD_LIMIT)?;
    if recipe.images.is_empty() {
        return Ok(());
    }
    let mut files: BTreeMap<String, Node> = accounts();
    files.insert(recipe.module.to_owned(), Node::program(std::fs::read(&program)?));
    let image = Image {
        names: recipe.images.iter().map(|name| (*name).to_owned()).collect(),
        entrypoint: format!("/{}", recipe.module),
        user: if recipe.module == "echo" { NOBODY.to_owned() } else { String::new() },
        files,
    };
    image.write(&program.with_extension("tar")).context("writing an image")
}

/// Kubernetes says the version that the linker tells it; clients choose their behaviour by it.
fn linker_flags(go_mod: &str) -> String {
    let mut flags = "-s -w".to_owned();
    let required = go_mod.lines().find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes v"));
    if let Some(version) = required.and_then(|rest| rest.split_whitespace().next()) {
        let mut parts = version.split('.');
        let (major, minor) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
            let set = |name: &str, value: &str| format!(" -X {package}.{name}={value}");
            flags += &set("gitVersion", &format!("v{version}"));
            flags += &set("gitMajor", major);
            flags += &set("gitMinor", minor);
            flags += &set("gitTreeState", "clean");
        }
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_tells_kubernetes_its_version() {
        let flags = linker_flags("require (\n\tk8s.io/kubernetes v1.36.3\n)\n");
        assert!(flags.contains("-X k8s.io/component-base/version.gitVersion=v1.36.3"), "{flags}");
        assert!(flags.contains("gitMinor=36"), "{flags}");
        assert_eq!(linker_flags("module x\n"), "-s -w");
    }
}
