//! `cargo xtask conformance`: the Gateway API's official suite, against Understudy in a cluster of its own.
//!
//! Inputs: `conformance/` (a Go module that depends on the suite), the manifests under `k8s/`. Outputs: which tests passed,
//! failed or were left out, compared with the suite's own list; and the report that the Gateway API project takes.
//!
//! The features that are tested are those that the GatewayClass claims in its status; no flag adds or removes one, and no
//! timeout is raised.

mod disturbance;
mod events;
mod suite;
mod verdict;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cluster::lab::Lab;
use crate::counts::Counts;
use crate::stages::Done;
use crate::{image, paths, run};
use disturbance::Disturbance;
use suite::Suite;

const SHORT: Duration = Duration::from_secs(120);

/// Where the published report stands.
const REPORTS: &str = "conformance/reports";

/// How the suite is run.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Only this test, by its short name.
    #[arg(long, value_name = "TEST")]
    run: Option<String>,
    /// Only tests of this profile: GATEWAY-HTTP, GATEWAY-GRPC, GATEWAY-TLS, GATEWAY-TCP or GATEWAY-UDP. May be given
    /// several times.
    #[arg(long, value_name = "PROFILE")]
    profile: Vec<String>,
    /// The program to install, instead of the release.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// In the cluster of `cargo xtask cluster up`, with what is installed there.
    #[arg(long)]
    running: bool,
    /// So many times one after the other in the same cluster.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Stops the API server for part of every second, and kills the controller that leads several times.
    #[arg(long)]
    disturbed: bool,
    /// Replaces the report in the repository.
    #[arg(long)]
    publish: bool,
}

/// Runs the suite, with what it comes to going to the terminal.
pub(crate) fn run(options: &Options) -> Result<bool> {
    let suite = Suite::build()?;
    if options.running {
        let lab = Lab::running()?;
        return run_in(&lab, &suite, options);
    }
    let lab = Lab::brought_up("conformance")?;
    let outcome = install(&lab, options.binary.as_deref()).and_then(|()| run_in(&lab, &suite, options));
    let down = lab.take_down();
    let passed = outcome?;
    down?;
    Ok(passed)
}

/// The stage of `cargo xtask test`.
pub(crate) fn stage(counts: &mut Counts) -> Result<Done> {
    if let Some(reason) = Lab::unavailable() {
        return Ok(Done::Skipped(reason));
    }
    let suite = Suite::build()?;
    let lab = Lab::brought_up("conformance")?;
    let outcome = install(&lab, None).and_then(|()| suite.run(&lab, &Options::default(), 1));
    let down = lab.take_down();
    let verdict = outcome?;
    down?;
    *counts += verdict.counts();
    if !verdict.is_good() {
        bail!("{verdict}");
    }
    Ok(Done::Note(verdict.to_string().trim().replace('\n', "\n    ")))
}

fn run_in(lab: &Lab, suite: &Suite, options: &Options) -> Result<bool> {
    let mut good = true;
    for round in 1..=options.times.max(1) {
        wait_for_leftovers(lab)?;
        let began = SystemTime::now();
        let disturbance = options.disturbed.then(|| Disturbance::begin(lab)).transpose()?;
        let verdict = suite.run(lab, options, round);
        // In any case: the API server may stand still just now.
        if let Some(disturbance) = disturbance {
            println!("{}", disturbance.end()?);
        }
        let verdict = verdict?;
        let took = began.elapsed().unwrap_or_default().as_secs();
        println!("{verdict}");
        println!("round {round} took {}:{:02}", took / 60, took % 60);
        good &= verdict.is_good();
    }
    if options.run.is_none() && options.profile.is_empty() {
        println!("{}", suite.run_unclaimed(lab)?);
    }
    if options.publish {
        if !good {
            bail!("a report with failures is not published; it stands in {}", suite.report().display());
        }
        publish(suite)?;
    }
    Ok(good)
}

/// Waits for the end of what the last round deleted, which the suite does not do.
fn wait_for_leftovers(lab: &Lab) -> Result<()> {
    lab.wait_until("the suite's namespaces are gone", || {
        let namespaces = run::output(lab.kubectl().args(["get", "namespaces", "-o", "name"]))?;
        Ok(!namespaces.lines().any(|name| name.starts_with("namespace/gateway-conformance-")))
    })
}

/// Puts the report where readers look for it.
fn publish(suite: &Suite) -> Result<()> {
    let folder = paths::root().join(REPORTS);
    std::fs::create_dir_all(&folder)?;
    // As the Gateway API project names reports; `default` is the mode of the implementation.
    let name = format!("{}-{}-default-report.yaml", suite.channel()?, suite::version());
    std::fs::copy(suite.report(), folder.join(&name))?;
    println!("{REPORTS}/{name}");
    Ok(())
}

/// Installs Understudy as the README says, but with the kinds of the experimental channel, which have fields that the
/// standard one lacks; and waits until its class is accepted.
fn install(lab: &Lab, binary: Option<&Path>) -> Result<()> {
    let archive = image::build(None, binary.map(Path::to_path_buf))?;
    lab.load_image(&archive)?;
    for (image, name) in suite::images()? {
        lab.name_image(image, &name)?;
    }
    let mut manifests = suite::kinds()?;
    manifests.extend(["install.yaml", "quickstart.yaml"].map(|file| paths::root().join("k8s").join(file)));
    for file in manifests {
        // A kind takes a moment until the API server knows it.
        lab.wait_until(&format!("{} is applied", file.display()), || {
            let mut apply = lab.kubectl();
            Ok(run::attempted(apply.args(["apply", "--server-side", "-f"]).arg(&file), SHORT)?.0)
        })?;
    }
    let mut rollout = lab.kubectl();
    rollout.args(["-n", "understudy-system", "rollout", "status", "daemonset/understudy", "--timeout=90s"]);
    run::logged(&mut rollout, SHORT).context("installing Understudy")?;
    lab.wait_until("the GatewayClass is accepted", || Ok(!suite::claimed(lab)?.is_empty()))
}
