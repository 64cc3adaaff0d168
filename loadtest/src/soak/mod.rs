//! Many requests through many failovers, each answer checked byte by byte.
//!
//! Purpose: show that under load no answer ever goes to the wrong request, that every switch comes, and that memory
//! does not grow. Inputs: the release build. Outputs: figures, and a failure when a promise is broken. Generator and
//! backends have a thread each and are lean, because they share the machine with the proxy.

mod backend;
mod content;
mod faults;
mod generator;
mod report;
mod tally;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::{Instant, sleep_until};

use crate::manifests::{self, Setup};
use crate::procfs;
use crate::program::Processors;
use crate::subject::{Subject, free_address};
use backend::Backend;
use content::Pool;
use report::{Report, Resident};
use tally::Tally;

/// The most that `--rate` and `--seconds` may ask for together.
const MOST_REQUESTS: u64 = 100_000_000;
/// When memory is first measured, in a run that is long enough.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// Shorter runs end before memory has settled, and say nothing about it.
const SETTLED: Duration = Duration::from_secs(30);

/// Arguments of the soak test.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Length of the load.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Requests a second, whatever becomes of them.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// How often the primary backend breaks and heals.
    #[arg(long, default_value_t = 20)]
    failovers: u32,
    /// Takes the rate that the machine gives; without, a rate that is missed is a failure.
    #[arg(long)]
    any_rate: bool,
    /// Writes the result to this file as Markdown.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// Runs the load and judges it.
///
/// # Errors
/// When something cannot be started, or a promise is broken.
pub(crate) async fn run(args: Args) -> Result<()> {
    if args.seconds == 0 || args.rate == 0 || args.failovers == 0 {
        bail!("--seconds, --rate and --failovers must be at least 1");
    }
    if args.rate.saturating_mul(args.seconds) > MOST_REQUESTS {
        bail!("--rate times --seconds must not be above {MOST_REQUESTS}");
    }
    let folder = tempfile::tempdir()?;
    let primary = Backend::start(Pool::Primary)?;
    let fallback = Backend::start(Pool::Fallback)?;
    let listen = free_address()?;
    let policy = manifests::passive("1s", "200ms", 100) + manifests::RETRY_RESET;
    let objects =
        manifests::render(&Setup::task(policy), listen.port(), &[primary.address()], fallback.address());
    let subject = Subject::understudy_on(folder.path(), Processors::detect(), listen, &objects)
        .await
        .context("starting Understudy")?;

    let length = Duration::from_secs(args.seconds);
    let load = Load::start(listen, args.rate, length)?;
    let start = Instant::now();
    let faults = faults::run(&primary, &subject, args.failovers, length);
    let watched = async {
        let first = FIRST_LOOK.min(length / 6);
        sleep_until(start + first).await;
        let at_first = procfs::resident(subject.pid()?)?;
        sleep_until(start + length).await;
        anyhow::Ok(Resident { first, at_first, at_end: procfs::resident(subject.pid()?)? })
    };
    let (broken, resident) = tokio::try_join!(faults, watched)?;
    let tally = load.finish().await?;
    let switches = faults::Switches::read(&subject).await?;
    let report = Report {
        args: &args,
        machine: procfs::machine(),
        tally,
        broken,
        switches,
        resident,
        judge_memory: length >= SETTLED,
    };
    println!("{}", report.markdown());
    if let Some(out) = &args.out {
        std::fs::write(out, report.markdown()).with_context(|| format!("writing {}", out.display()))?;
        println!("written to {}", out.display());
    }
    let promises = report.broken_promises();
    if !promises.is_empty() {
        bail!("{}", promises.join("\n       "));
    }
    Ok(())
}

/// The generator on its thread. It ends with its time, or when this is dropped.
struct Load {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<Tally>>>,
}

impl Load {
    fn start(gateway: std::net::SocketAddr, rate: u64, length: Duration) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("generator".to_owned())
            .spawn(move || generator::run(gateway, rate, length, &stopped))?;
        Ok(Self { stop, thread: Some(thread) })
    }

    async fn finish(mut self) -> Result<Tally> {
        let Some(thread) = self.thread.take() else { bail!("the generator was taken before") };
        match tokio::task::spawn_blocking(move || thread.join()).await? {
            Ok(tally) => tally,
            Err(_) => bail!("the generator panicked"),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
