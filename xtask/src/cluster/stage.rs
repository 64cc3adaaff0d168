//! The stages of `cargo xtask test` that need a cluster: building its programs, the tests on it, and a measurement.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::bring_up::bring_up;
use super::lab::Lab;
use super::place::Place;
use super::programs::Programs;
use super::{load_image, other, take_down};
use crate::counts::Counts;
use crate::stages::Done;
use crate::{image, paths, run};

const LIMIT: Duration = Duration::from_secs(40 * 60);

/// The tests' program, and its crate.
const TESTS: &str = "understudy-k8s-tests";

/// The measurements' program, and its crate.
const LOADTEST: &str = "understudy-loadtest";

/// So little is measured that it takes seconds.
const SMALL: [&str; 8] = ["--routes", "50", "--services", "10", "--namespaces", "5", "--seconds", "3"];

/// Builds the cluster's programs, so that the time for it is told from that of the tests.
pub(crate) fn build() -> Result<Done> {
    if let Some(reason) = Lab::unavailable() {
        return Ok(Done::Skipped(reason));
    }
    let place = Place::of_checkout("")?;
    if Programs::are_built(&place)? {
        return Ok(Done::Note("built before".to_owned()));
    }
    Programs::built(&place)?;
    Ok(Done::Passed)
}

/// Runs the tests on a cluster of their own, or on the one that the environment names.
pub(crate) fn test(counts: &mut Counts) -> Result<Done> {
    run::logged(paths::cargo().args(["build", "--locked", "-p", TESTS]), LIMIT)?;
    let tests = paths::target()?.join("debug").join(TESTS);
    if let Some(kubeconfig) = other() {
        let mut command = Command::new(&tests);
        command.current_dir(paths::root()).env("KUBECONFIG", kubeconfig);
        return finish(command, counts);
    }
    if let Some(reason) = Lab::unavailable() {
        return Ok(Done::Skipped(reason));
    }
    // A developer's cluster stays as it is.
    let place = Place::of_checkout("tests")?;
    let outcome = on_own_cluster(&place, &tests, counts);
    let down = take_down(&place);
    let done = outcome?;
    down?;
    Ok(done)
}

fn on_own_cluster(place: &Place, tests: &std::path::Path, counts: &mut Counts) -> Result<Done> {
    let archive = image::build(None, None)?;
    take_down(place)?;
    let space = bring_up(place, false)?;
    load_image(&space, &archive)?;
    let mut command = space.command(tests);
    command.arg("--manifests").arg(paths::root().join("k8s"));
    finish(command, counts)
}

/// Runs a small form of the scale measurement, on a control plane of its own.
pub(crate) fn scale() -> Result<Done> {
    if let Some(reason) = Lab::unavailable() {
        return Ok(Done::Skipped(reason));
    }
    run::logged(paths::cargo().args(["build", "--locked", "-p", "understudy", "-p", LOADTEST]), LIMIT)?;
    let place = Place::of_checkout("scale")?;
    let outcome = measure_scale(&place);
    let down = take_down(&place);
    let table = outcome?;
    down?;
    print!("{table}");
    Ok(Done::Passed)
}

fn measure_scale(place: &Place) -> Result<String> {
    take_down(place)?;
    let space = bring_up(place, true)?;
    for kinds in [["-f", "k8s/gateway-api.yaml"], ["-k", "crds"]] {
        let mut apply = space.kubectl();
        apply.args(["apply", "--server-side", kinds[0]]).arg(paths::root().join(kinds[1]));
        run::logged(&mut apply, LIMIT)?;
    }
    let mut scale = space.command(paths::target()?.join("debug").join(LOADTEST));
    run::logged(scale.arg("scale").args(SMALL), LIMIT)
}

fn finish(mut command: Command, counts: &mut Counts) -> Result<Done> {
    let (success, text) = run::attempted(&mut command, LIMIT)?;
    *counts += Counts::of(&text);
    // The figures of the cases are worth a look each time.
    print!("{text}");
    if success { Ok(Done::Passed) } else { anyhow::bail!("the tests on the cluster failed") }
}
