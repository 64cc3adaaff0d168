//! The benchmark: builds the release, then calls `understudy-loadtest bench`.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::stages::Done;
use crate::{release, run, tools};

const SMOKE_LIMIT: Duration = Duration::from_secs(120);

/// Measures, with the output going to the terminal.
pub(crate) fn run(args: &[String]) -> Result<()> {
    tools::require_wrk()?;
    release::build()?;
    let status = release::program("understudy-loadtest")?.arg("bench").args(args).status()?;
    if !status.success() {
        bail!("the benchmark ended with {status}");
    }
    Ok(())
}

/// Shows that the benchmark works; what two rounds of a second measure is not looked at.
pub(crate) fn smoke() -> Result<Done> {
    if let Err(missing) = tools::require_wrk() {
        return Ok(Done::Skipped(missing.to_string()));
    }
    let mut command = release::program("understudy-loadtest")?;
    run::logged(command.args(["bench", "--rounds", "2", "--seconds", "1"]), SMOKE_LIMIT)?;
    Ok(Done::Passed)
}
