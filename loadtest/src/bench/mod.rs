//! CPU time per request of Understudy, of a bare Pingora proxy, and of other proxies with the same work, measured
//! in turns in one run.
//!
//! Inputs: the release build, `wrk`, and the other proxies that are installed. Outputs: a table, and on demand
//! Markdown, JSON and a picture. The order rotates from round to round, so that what else happens on the machine
//! hits all alike; the figures that count are the medians of the rounds' ratios.

mod columns;
mod report;
mod setup;
mod svg;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::envoy::install;
use crate::procfs;
use crate::program::Processors;
use crate::subject::{Backends, Evidence, Place, Subject, find_peer};
use crate::wrk;
use columns::{BARE, Sample, UNDERSTUDY};
use report::{Report, Setting};

/// Seconds of load before each measurement, which are not measured.
const WARM_UP: u32 = 1;

/// Arguments of the benchmark.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// How often each proxy is measured.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Connections of the load.
    #[arg(long, default_value_t = 32)]
    connections: u32,
    /// Who is measured beside Understudy and bare Pingora; one that is not installed is left out, and said.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Peer::Envoy, Peer::Nginx, Peer::Haproxy])]
    peers: Vec<Peer>,
    /// Writes the result to this file, JSON where its name ends so, else Markdown; may be given several times.
    #[arg(long, value_name = "FILE")]
    out: Vec<PathBuf>,
    /// Draws the result into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Measures bare Pingora against itself, which shows how far the machine's noise goes.
    #[arg(long)]
    noise: bool,
    /// Installs Envoy outside the repository, and nginx and HAProxy as Debian packages when root runs it, and
    /// ends. Where an init system runs, the packages start their services.
    #[arg(long)]
    setup: bool,
}

/// Who can be compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Peer {
    Envoy,
    Nginx,
    Haproxy,
}

/// Measures and prints, or installs what to compare with.
///
/// # Errors
/// When something cannot be started, or no round is valid.
pub(crate) async fn run(args: Args) -> Result<()> {
    if args.setup {
        return setup::install().await;
    }
    if args.rounds == 0 || args.seconds == 0 || args.connections == 0 {
        bail!("--rounds, --seconds and --connections must be at least 1");
    }
    wrk::require()?;
    let folder = tempfile::tempdir()?;
    let processors = Processors::detect();
    let backends = Backends::start(folder.path(), processors).await.context("starting the backend")?;
    let place = Place { backends: &backends, folder: folder.path(), processors };
    let (subjects, left_out) = subjects(&args, place).await?;
    for reason in &left_out {
        println!("left out: {reason}");
    }
    let (machine, overload) = (procfs::machine(), procfs::overload());
    let mut rounds = Vec::new();
    for number in 0..args.rounds {
        let samples = round(&subjects, number as usize, &args, processors).await?;
        println!("round {}: {}", number + 1, line(&subjects, &samples));
        rounds.push(samples);
    }
    let evidence = evidence(&subjects, &rounds).await?;
    let setting = Setting {
        command: command(&args),
        machine,
        overload,
        connections: args.connections,
        seconds: args.seconds,
        pinned: processors.proxy.is_some(),
        left_out,
    };
    let described = subjects.iter().zip(evidence).map(|(subject, evidence)| columns::Described {
        name: subject.name.clone(),
        features: subject.features,
        evidence,
    });
    let report = Report::new(setting, described.collect(), rounds)?;
    println!("\n{}", report.markdown());
    for out in &args.out {
        report.write(out)?;
        println!("written to {}", out.display());
    }
    if let Some(picture) = &args.svg {
        std::fs::write(picture, svg::picture(&report))
            .with_context(|| format!("writing {}", picture.display()))?;
        println!("drawn in {}", picture.display());
    }
    Ok(())
}

/// Starts all that can be measured, and says what cannot.
async fn subjects(args: &Args, place: Place<'_>) -> Result<(Vec<Subject>, Vec<String>)> {
    let bare = Subject::bare(BARE, place).await.context("starting bare Pingora")?;
    if args.noise {
        let again = Subject::bare(UNDERSTUDY, place).await.context("starting bare Pingora again")?;
        let reason = "everything else: bare Pingora is measured against itself, under Understudy's name";
        return Ok((vec![again, bare], vec![reason.to_owned()]));
    }
    let understudy = Subject::understudy(place).await.context("starting Understudy")?;
    let (mut subjects, mut left_out) = (vec![understudy, bare], Vec::new());
    for peer in [Peer::Envoy, Peer::Nginx, Peer::Haproxy] {
        if !args.peers.contains(&peer) {
            left_out.push(format!("{peer:?}: not asked for"));
            continue;
        }
        let found = match peer {
            Peer::Envoy => install::find(),
            Peer::Nginx => find_peer("nginx"),
            Peer::Haproxy => find_peer("haproxy"),
        };
        let binary = match found {
            Ok(binary) => binary,
            Err(missing) => {
                left_out.push(format!("{peer:?}: {missing:#}"));
                continue;
            }
        };
        let started = match peer {
            Peer::Envoy => Subject::envoy(&binary, place).await,
            Peer::Nginx => Subject::nginx(&binary, place).await,
            Peer::Haproxy => Subject::haproxy(&binary, place).await,
        };
        subjects.push(started.with_context(|| format!("starting {}", binary.display()))?);
    }
    Ok((subjects, left_out))
}

/// Measures all once, beginning with another one each time.
async fn round(
    subjects: &[Subject],
    number: usize,
    args: &Args,
    processors: Processors,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    for turn in 0..subjects.len() {
        let index = (number + turn) % subjects.len();
        samples.push((index, measure(&subjects[index], args, processors).await?));
    }
    samples.sort_by_key(|(index, _)| *index);
    Ok(samples.into_iter().map(|(_, sample)| sample).collect())
}

async fn measure(subject: &Subject, args: &Args, processors: Processors) -> Result<Sample> {
    let pid = subject.pid()?;
    subject.empty_log()?;
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

/// Asks each proxy for proof that it logged and counted what it served.
async fn evidence(subjects: &[Subject], rounds: &[Vec<Sample>]) -> Result<Vec<Evidence>> {
    let mut all = Vec::new();
    for (index, subject) in subjects.iter().enumerate() {
        let last = rounds.last().map_or(0, |samples| samples[index].load.requests);
        all.push(subject.evidence(last).await?);
    }
    Ok(all)
}

fn line(subjects: &[Subject], samples: &[Sample]) -> String {
    let figures = subjects.iter().zip(samples).map(|(subject, sample)| {
        let bad = sample.load.bad;
        let invalid = if bad > 0 { format!(" (INVALID: {bad} bad answers)") } else { String::new() };
        format!("{} {:.2} µs{invalid}", subject.name, sample.cpu_us)
    });
    figures.collect::<Vec<_>>().join(", ")
}

/// The command line that gives these results, without the files that it writes.
fn command(args: &Args) -> String {
    let mut command = "cargo xtask bench".to_owned();
    let mut options = Vec::new();
    for (name, value, default) in
        [("rounds", args.rounds, 9), ("seconds", args.seconds, 5), ("connections", args.connections, 32)]
    {
        if value != default {
            options.push(format!("--{name} {value}"));
        }
    }
    if args.noise {
        options.push("--noise".to_owned());
    }
    if !options.is_empty() {
        command.push_str(" -- ");
        command.push_str(&options.join(" "));
    }
    command
}
