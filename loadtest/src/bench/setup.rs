//! What to compare with: Envoy in a Python virtual environment, nginx and HAProxy as Debian packages.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::envoy::install;
use crate::program::on_path;
use crate::subject::find_peer;

const LIMIT: Duration = Duration::from_secs(900);
/// Each program with the package that it is in.
const PACKAGES: [(&str, &str); 2] = [("nginx", "nginx-light"), ("haproxy", "haproxy")];

/// Installs what is missing and can be installed.
///
/// # Errors
/// When something is missing at the end, with the command that installs it.
pub(crate) async fn install() -> Result<()> {
    let envoy = install::install().await;
    match &envoy {
        Ok(path) => println!("{} is ready: {}", install::version(path).await?, path.display()),
        Err(error) => println!("Envoy is left out: {error:#}"),
    }
    let missing = || -> Vec<&str> {
        let missing = PACKAGES.iter().filter(|(program, _)| find_peer(program).is_err());
        missing.map(|(_, package)| *package).collect()
    };
    let wanted = missing();
    if !wanted.is_empty() && on_path("apt-get") && is_root()? {
        let install = [&["install", "-y", "--no-install-recommends"][..], &wanted].concat();
        // A fresh machine has no package list yet; an old list is as good as a new one here.
        if apt_get(&install).await.is_err() {
            apt_get(&["update"]).await?;
            apt_get(&install).await?;
        }
    }
    for (program, _) in PACKAGES {
        if let Ok(path) = find_peer(program) {
            println!("{program} is ready: {}", path.display());
        }
    }
    let missing = missing();
    if !missing.is_empty() {
        bail!("not installed: {0}; get them with: sudo apt-get install -y {0}", missing.join(" "));
    }
    envoy.map(drop)
}

/// Whether root runs this, by the owner of its own entry in /proc.
fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(std::fs::metadata("/proc/self").context("reading /proc/self")?.uid() == 0)
}

async fn apt_get(arguments: &[&str]) -> Result<()> {
    println!("apt-get {}", arguments.join(" "));
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await.context("apt-get takes too long")??;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("apt-get {} ended with {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(())
}
