//! Benchmarks and drills, on loopback and bounded in time.
//!
//! Inputs: the release build of `understudy`, and `wrk`. Outputs: tables on stdout and files in
//! `loadtest/results/`. The peers to compare with are started by the benchmark itself, from this same binary.

#![allow(clippy::print_stdout, reason = "a benchmark reports to the terminal")]

mod backend;
mod bare;
mod bench;
mod drill;
mod envoy;
mod manifests;
mod procfs;
mod program;
mod rss;
mod scale;
mod soak;
mod subject;
mod wrk;

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Both sides of the comparison have the same allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Benchmarks and drills for Understudy, on loopback only.
#[derive(Parser)]
#[command(name = "understudy-loadtest")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves as the bare Pingora proxy that Understudy is measured against.
    BarePingora(bare::Args),
    /// Serves as a very cheap HTTP/1.1 backend.
    Backend(backend::Args),
    /// Measures CPU time per request of Understudy, bare Pingora, Envoy, nginx and HAProxy, in turns.
    Bench(bench::Args),
    /// Breaks backends behind Understudy and a real Envoy, and counts what each of them loses.
    Drill(drill::Args),
    /// Measures the resident memory of `understudy proxy` after many requests.
    Rss(rss::Args),
    /// Measures controller and proxy with thousands of routes, on the API server that KUBECONFIG names.
    Scale(scale::Args),
    /// Sends many requests through many failovers, and checks every byte of every answer.
    Soak(soak::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        // These two own their threads.
        Command::BarePingora(args) => bare::run(&args),
        Command::Backend(args) => backend::run(&args),
        Command::Bench(args) => measure(bench::run(args)),
        Command::Drill(args) => measure(drill::run(args)),
        Command::Rss(args) => measure(rss::run(args)),
        Command::Scale(args) => measure(scale::run(args)),
        Command::Soak(args) => measure(soak::run(args)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a measurement until its end, or until a signal stops it. Either way the programs that it started are
/// gone then: they are killed when the future is dropped.
fn measure(measurement: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = measurement => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
            _ = terminate.recv() => bail!("terminated"),
        }
    })
}
