//! `cargo xtask image`: Understudy's image without Docker, from the release binary and the libraries that it needs.

pub(crate) mod archive;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, release, run};
use archive::{Image, Node};

/// The image's name in the manifests under `k8s/`.
pub(crate) const NAME: &str = concat!("understudy:", env!("CARGO_PKG_VERSION"));

/// Neither root nor anybody else.
pub(crate) const NOBODY: &str = "65532:65532";

/// Where systems keep the certificates that they trust.
const AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Writes the image of a program, or of the release that it builds first; gives where it stands.
pub(crate) fn build(out: Option<PathBuf>, binary: Option<PathBuf>) -> Result<PathBuf> {
    let binary = match binary {
        Some(binary) => binary,
        None => {
            release::build()?;
            paths::target()?.join("release").join("understudy")
        }
    };
    let out = match out {
        Some(out) => out,
        None => paths::target()?.join("understudy-image.tar"),
    };
    let mut files = accounts();
    files.extend(libraries(&binary)?);
    files.insert("understudy".to_owned(), Node::program(read(&binary)?).binding_low_ports());
    match AUTHORITIES.iter().find(|path| Path::new(path).is_file()) {
        Some(path) => {
            files.insert("etc/ssl/certs/ca-certificates.crt".to_owned(), Node::text(read(Path::new(path))?));
        }
        None => println!(
            "this machine has no certificates of authorities (package ca-certificates): backends whose TLS policy \
             asks for the system's will fail in this image"
        ),
    }
    let image = Image {
        names: vec![NAME.to_owned()],
        entrypoint: "/understudy".to_owned(),
        user: NOBODY.to_owned(),
        files,
    };
    image.write(&out)?;
    Ok(out)
}

/// The users that programs look up.
pub(crate) fn accounts() -> BTreeMap<String, Node> {
    BTreeMap::from([
        ("etc/passwd".to_owned(), Node::text("root:x:0:0:::\nnobody:x:65532:65532::/:\n")),
        ("etc/group".to_owned(), Node::text("root:x:0:\nnobody:x:65532:\n")),
    ])
}

/// The shared libraries of a program, and the loader, each at the path where the loader looks for it.
fn libraries(binary: &Path) -> Result<BTreeMap<String, Node>> {
    let listing = run::output(Command::new("ldd").arg(binary))
        .with_context(|| format!("which libraries {} needs", binary.display()))?;
    if let Some(missing) = listing.lines().find(|line| line.contains("not found")) {
        bail!("{} lacks a library: {}", binary.display(), missing.trim());
    }
    let mut found = BTreeMap::new();
    for path in paths_of_libraries(&listing) {
        found.insert(path.trim_start_matches('/').to_owned(), Node::program(read(Path::new(path))?));
    }
    Ok(found)
}

/// The absolute paths in what `ldd` prints: `NAME => PATH (ADDRESS)` or, for the loader, `PATH (ADDRESS)`.
fn paths_of_libraries(listing: &str) -> Vec<&str> {
    listing
        .lines()
        .filter_map(|line| line.split_once("=>").map_or(line, |(_, path)| path).split_whitespace().next())
        .filter(|path| path.starts_with('/'))
        .collect()
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found_in_what_ldd_prints() {
        let listing =
            "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld-linux.so.2 (0x3)\n";
        assert_eq!(paths_of_libraries(listing), ["/lib/x/libc.so.6", "/lib64/ld-linux.so.2"]);
        assert!(paths_of_libraries("\tstatically linked\n").is_empty());
    }
}
