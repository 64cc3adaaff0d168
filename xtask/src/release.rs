//! The release build, and the demo on it.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::stages::Done;
use crate::{paths, run};

const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
const DEMO_LIMIT: Duration = Duration::from_secs(120);

/// Builds the binary and the load test.
pub(crate) fn build() -> Result<Done> {
    let packages = ["-p", "understudy", "-p", "understudy-loadtest"];
    run::logged(paths::cargo().args(["build", "--release", "--locked"]).args(packages), BUILD_LIMIT)?;
    Ok(Done::Passed)
}

/// Walks the failover task with `understudy demo --once`, which exits 0 only if the walk went as promised.
pub(crate) fn demo() -> Result<Done> {
    run::logged(program("understudy")?.args(["demo", "--once"]), DEMO_LIMIT)?;
    Ok(Done::Passed)
}

/// A program of the release build.
pub(crate) fn program(name: &str) -> Result<Command> {
    let mut command = Command::new(paths::target()?.join("release").join(name));
    command.current_dir(paths::root());
    Ok(command)
}
