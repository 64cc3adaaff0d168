//! CPU time per request of Understudy and of a bare Pingora proxy, measured in turns in one run.
//!
//! Rounds alternate their order, so that what else happens on the machine hits both sides alike; the figure that
//! counts is the median of the rounds' ratios.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::procfs;
use crate::program::Processors;
use crate::report::{Report, Round, Sample, Setting};
use crate::subject::{Backends, Subject};
use crate::wrk;

/// Seconds of load before each measurement, which are not measured.
const WARM_UP: u32 = 1;

/// Arguments of the benchmark.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each side is measured.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Connections of the load.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Writes the result to this file: JSON where its name ends so, else Markdown.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures bare Pingora against itself, which shows how far the machine's noise goes.
    #[arg(long)]
    noise: bool,
}

/// Measures and prints.
pub(crate) async fn run(args: Args) -> Result<()> {
    if args.rounds == 0 || args.seconds == 0 || args.connections == 0 {
        bail!("--rounds, --seconds and --connections must be at least 1");
    }
    wrk::require()?;
    let folder = tempfile::tempdir()?;
    let processors = Processors::detect();
    let backends = Backends::start(folder.path(), processors).await.context("starting the backend")?;
    let bare = Subject::bare("bare Pingora", &backends, folder.path(), processors)
        .await
        .context("starting bare Pingora")?;
    let measured = if args.noise {
        Subject::bare("bare Pingora again", &backends, folder.path(), processors).await
    } else {
        Subject::understudy(&backends, folder.path(), processors).await
    }
    .context("starting what is measured")?;

    let setting = Setting {
        measured: measured.name,
        bare: bare.name,
        machine: procfs::machine(),
        connections: args.connections,
        seconds: args.seconds,
    };
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        let round = if number % 2 == 0 {
            let measured = measure(&measured, &args, processors).await?;
            Round { measured, bare: measure(&bare, &args, processors).await? }
        } else {
            let bare = measure(&bare, &args, processors).await?;
            Round { measured: measure(&measured, &args, processors).await?, bare }
        };
        println!("{}", round.line(number + 1));
        rounds.push(round);
    }
    let report = Report::new(setting, rounds)?;
    println!("\n{}", report.markdown());
    if let Some(out) = &args.out {
        report.write(out)?;
        println!("written to {}", out.display());
    }
    Ok(())
}

async fn measure(subject: &Subject, args: &Args, processors: Processors) -> Result<Sample> {
    let pid = subject.pid()?;
    wrk::run(subject.address, args.connections, WARM_UP, processors.others).await?;
    let before = procfs::cpu_time(pid)?;
    let load = wrk::run(subject.address, args.connections, args.seconds, processors.others).await?;
    let cpu: Duration = procfs::cpu_time(pid)? - before;
    if load.requests == 0 {
        bail!("{} answered no request", subject.name);
    }
    let cpu_us = cpu.as_secs_f64() * 1e6 / load.requests as f64;
    Ok(Sample { cpu_us, resident: procfs::resident(pid)?, load })
}
