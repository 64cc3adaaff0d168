//! Understudy on a real cluster: installs it from the manifests under `k8s/`, then walks through cases.
//!
//! Inputs: kubectl and its configuration, from the environment; manifests. Output: a line for each case and a closing line
//! like that of `cargo test`. Runs where the cluster's addresses can be reached: `cargo xtask cluster exec`.

#![allow(clippy::print_stdout, reason = "a test reports to the terminal")]

mod cases;
mod harness;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Parser;

use cases::{CASES, Case, Needs};
use harness::kubectl::Kubectl;
use harness::wait::since;
use harness::{Lab, components, install};

/// Tests of Understudy on a real cluster.
#[derive(Parser)]
#[command(name = "understudy-k8s-tests")]
struct Cli {
    /// The repository's folder `k8s`.
    #[arg(long, default_value = "k8s")]
    manifests: PathBuf,
    /// Takes the time that the cases are meant to take: minutes each.
    #[arg(long)]
    long: bool,
    /// Understudy is installed already.
    #[arg(long)]
    installed: bool,
    /// Only these cases; all, if none is named.
    cases: Vec<String>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(unknown) = cli.cases.iter().find(|name| !CASES.iter().any(|case| case.name == **name)) {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        println!("there is no case {unknown}; there are: {}", names.join(", "));
        return ExitCode::FAILURE;
    }
    let chosen = |case: &&Case| cli.cases.is_empty() || cli.cases.iter().any(|name| name == case.name);
    let lab = Lab { kubectl: Kubectl::of_environment(), manifests: cli.manifests, long: cli.long };
    let (mut passed, mut failed, mut ignored) = (0, 0, 0);
    let mut installed = cli.installed;
    for case in CASES.iter().filter(chosen) {
        if case.needs == Needs::OwnCluster && !components::are_ours() {
            println!("test {} ... ignored, it stops parts of the cluster", case.name);
            ignored += 1;
            continue;
        }
        let start = SystemTime::now();
        let outcome = (|| {
            if case.needs != Needs::Cluster && !installed {
                install::install(&lab)?;
                installed = true;
            }
            (case.run)(&lab)
        })();
        let took = since(start).as_secs_f64();
        match outcome {
            Ok(told) => {
                println!("test {} ... ok ({took:.1} s) {told}", case.name);
                passed += 1;
            }
            Err(error) => {
                println!("test {} ... FAILED ({took:.1} s)\n{error:#}", case.name);
                tell_state(&lab);
                failed += 1;
            }
        }
    }
    let end = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "test result: {end}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What somebody wants to see who was not there.
fn tell_state(lab: &Lab) {
    let in_namespace = ["-n", install::NAMESPACE];
    let questions: [&[&str]; 5] = [
        &["get", "pods", "-A", "-o", "wide"],
        &["get", "gateways,httproutes", "-A", "-o", "wide"],
        &["get", "events", "-A", "--sort-by=.lastTimestamp"],
        &["logs", in_namespace[0], in_namespace[1], install::DAEMON_SET, "-c", "controller", "--tail=30"],
        &["logs", in_namespace[0], in_namespace[1], install::DAEMON_SET, "-c", "proxy", "--tail=30"],
    ];
    for question in questions {
        let answer = lab.kubectl.run(question).unwrap_or_else(|error| format!("{error:#}"));
        println!("--- kubectl {}\n{answer}", question.join(" "));
    }
}
