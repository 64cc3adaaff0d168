//! The project's chores: `cargo xtask test` decides whether the tree is good, `cargo xtask bench` measures it.
//!
//! Inputs: the working tree and the tools of a Rust developer. Outputs: a report on stdout, and an exit code.

#![allow(clippy::print_stdout, reason = "a chore reports to the terminal")]

mod bench;
mod cluster;
mod commands;
mod conformance;
mod counts;
mod deny;
mod direction;
mod docs;
mod files;
mod fuzz;
mod image;
mod manifests;
mod paths;
mod release;
mod run;
mod semantics;
mod stages;
mod test;
mod tools;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stages::Done;

/// The project's chores.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Checks everything that continuous integration checks.
    Test {
        /// Only what takes less than two minutes: formatting, lints, unit tests, documents.
        #[arg(long)]
        fast: bool,
        /// Only these stages, by the names in the closing table.
        #[arg(long, value_name = "STAGE", value_delimiter = ',', conflicts_with = "fast")]
        only: Vec<String>,
    },
    /// Builds the release and measures CPU per request beside bare Pingora, Envoy, nginx and HAProxy.
    Bench {
        /// Replaces the result and the picture in the repository; for a machine that does nothing else.
        #[arg(long)]
        publish: bool,
        /// Passed on to `understudy-loadtest bench`, after `--`.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Renders k8s/install.yaml from its parts.
    Manifests,
    /// Builds the fuzz targets with coverage and runs them for a bounded time each.
    Fuzz {
        /// Only these targets.
        targets: Vec<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Passed on to libFuzzer, after `--`: a file that is to be tried again, for example.
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// A real Kubernetes cluster of one node, for machines without Docker.
    Cluster {
        #[command(subcommand)]
        action: cluster::Action,
    },
    /// Runs the Gateway API's official conformance suite in a cluster of its own.
    Conformance(conformance::Options),
    /// Writes Understudy's image for containers into an archive, without Docker.
    Image {
        /// The archive; `understudy-image.tar` in cargo's target folder, if not given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// The program to put into it, instead of building the release.
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Test { fast, only } => test::run_all(fast, only),
        Chore::Bench { publish, args } => bench::run(&args, publish).map(|()| true),
        Chore::Manifests => manifests::write().map(|()| true),
        Chore::Fuzz { targets, seconds, args } => fuzz::run(&targets, seconds, &args).map(|done| {
            if let Done::Note(note) = done {
                println!("{note}");
            }
            true
        }),
        Chore::Conformance(options) => conformance::run(&options),
        Chore::Cluster { action } => cluster::run(action).map(|()| true),
        Chore::Image { out, binary } => image::build(out, binary).map(|file| {
            println!("{}", file.display());
            true
        }),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
