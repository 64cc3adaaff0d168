//! What a fresh machine lacks: installed where that is possible, named with its one-line install where not.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::stages::Done;
use crate::{paths, run};

const INSTALL_LIMIT: Duration = Duration::from_secs(20 * 60);
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Checks that cargo has the components that the stages call.
pub(crate) fn check_components() -> Result<Done> {
    for component in ["fmt", "clippy"] {
        let (there, _) = run::attempted(paths::cargo().args([component, "--version"]), INSTALL_LIMIT)?;
        if !there {
            bail!("cargo has no {component}; install it with: rustup component add rustfmt clippy");
        }
    }
    Ok(Done::Passed)
}

/// A cargo-deny that can be run: the one on the PATH, or one that is built once into the tools' folder.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    if run::exists("cargo-deny") {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let folder = paths::tools()?.join(format!("cargo-deny-{CARGO_DENY_VERSION}"));
    let program = folder.join("bin").join("cargo-deny");
    if program.is_file() {
        return Ok(program);
    }
    println!("    cargo-deny is missing; building {CARGO_DENY_VERSION} once (a few minutes)");
    let mut install = paths::cargo();
    install
        .args(["install", "--locked", "cargo-deny", "--version", CARGO_DENY_VERSION, "--root"])
        .arg(&folder);
    if let Err(error) = run::logged(&mut install, INSTALL_LIMIT) {
        bail!(
            "{error:#}\ncargo-deny is missing and cannot be built; install it with: cargo install --locked cargo-deny"
        );
    }
    Ok(program)
}

/// Makes sure that wrk is there: root on a machine with apt-get gets it installed. `Err` names what to do.
pub(crate) fn require_wrk() -> Result<()> {
    require(&[Program { name: "wrk", package: "wrk" }])
}

/// A program of the system, and the Debian package that brings it.
#[derive(Clone, Copy)]
pub(crate) struct Program {
    /// The program's name, or its path where it is on no PATH.
    pub(crate) name: &'static str,
    /// The package's name.
    pub(crate) package: &'static str,
}

impl Program {
    fn is_there(&self) -> bool {
        run::exists(self.name)
    }
}

/// Makes sure that these programs are there: root on a machine with apt-get gets them installed. `Err` names
/// what to do.
pub(crate) fn require(programs: &[Program]) -> Result<()> {
    let missing = || programs.iter().filter(|program| !program.is_there());
    let packages: Vec<&str> = missing().map(|program| program.package).collect();
    if packages.is_empty() {
        return Ok(());
    }
    if is_root() && run::exists("apt-get") {
        println!("    installing with apt-get: {}", packages.join(" "));
        let install = [&["install", "-y", "--no-install-recommends"][..], &packages].concat();
        // A fresh machine has no package list yet; an old list is as good as a new one here.
        for args in [&install[..], &["update"], &install] {
            let mut command = Command::new("apt-get");
            let (done, _) =
                run::attempted(command.args(args).env("DEBIAN_FRONTEND", "noninteractive"), INSTALL_LIMIT)?;
            if done && missing().next().is_none() {
                return Ok(());
            }
        }
    }
    let names: Vec<&str> = missing().map(|program| program.name).collect();
    bail!("missing: {}; install with: sudo apt-get install -y {}", names.join(", "), packages.join(" "))
}

/// Whether root runs this.
pub(crate) fn is_root() -> bool {
    run::output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0")
}
