//! The benchmark, the soak test and the drill: builds the release, then calls `understudy-loadtest`.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::stages::Done;
use crate::{paths, release, run, tools};

const SETUP_LIMIT: Duration = Duration::from_secs(15 * 60);
const SMOKE_LIMIT: Duration = Duration::from_secs(180);
const SOAK_LIMIT: Duration = Duration::from_secs(120);
const DRILL_LIMIT: Duration = Duration::from_secs(300);

/// Where a result for everybody to read goes, from the root of the repository.
const PUBLISHED: [&str; 6] = [
    "--out",
    "loadtest/results/cpu-per-request.md",
    "--out",
    "loadtest/results/cpu-per-request.json",
    "--svg",
    "docs/cpu-per-request.svg",
];

/// The cases of the drill that a stage has time for: one for each kind of fault.
const DRILL_CASES: [&str; 8] = ["2", "9", "10", "11", "15", "empty-primary", "active-check", "overflow"];

/// Measures, with the output going to the terminal. What is published replaces the result in the repository.
pub(crate) fn run(args: &[String], publish: bool) -> Result<()> {
    tools::require_wrk()?;
    release::build()?;
    let mut command = release::program("understudy-loadtest")?;
    command.current_dir(paths::root()).arg("bench").args(args);
    if publish {
        command.args(PUBLISHED);
    }
    let status = command.status()?;
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
    let left_out = last_line_of_failed_setup(&["bench", "--setup"])?;
    let mut command = release::program("understudy-loadtest")?;
    run::logged(command.args(["bench", "--rounds", "2", "--seconds", "1"]), SMOKE_LIMIT)?;
    Ok(left_out.map_or(Done::Passed, |why| Done::Note(format!("some peers were left out: {why}"))))
}

/// A short soak at a rate that any machine gives.
pub(crate) fn soak() -> Result<Done> {
    let mut command = release::program("understudy-loadtest")?;
    command.args(["soak", "--seconds", "10", "--rate", "2000", "--failovers", "4", "--any-rate"]);
    run::logged(&mut command, SOAK_LIMIT)?;
    Ok(Done::Passed)
}

/// The cases of the drill that there is time for, beside Envoy where that can be installed.
pub(crate) fn drill() -> Result<Done> {
    let missing = last_line_of_failed_setup(&["drill", "--setup"])?;
    let proxies = if missing.is_some() { "understudy" } else { "both" };
    let mut command = release::program("understudy-loadtest")?;
    command.args(["drill", "--short", "--proxy", proxies]).args(DRILL_CASES);
    run::logged(&mut command, DRILL_LIMIT)?;
    Ok(missing.map_or(Done::Passed, |why| Done::Note(format!("without Envoy: {why}"))))
}

/// Installs what a test compares with; gives the last thing said where that cannot be done.
fn last_line_of_failed_setup(args: &[&str]) -> Result<Option<String>> {
    let (done, text) = run::attempted(release::program("understudy-loadtest")?.args(args), SETUP_LIMIT)?;
    let last = || text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason").to_owned();
    Ok((!done).then(last))
}
