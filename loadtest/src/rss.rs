//! Resident memory of `understudy proxy` with one thread, after many requests.

use anyhow::{Context, Result, bail};
use understudy_testbed::Client;

use crate::procfs;
use crate::program::Processors;
use crate::subject::{Backends, Place, Subject};
use crate::wrk::HOST;

/// Connections that are used in turn.
const CONNECTIONS: usize = 32;

/// Arguments of the measurement.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Requests before memory is measured.
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
}

/// Measures and prints.
pub(crate) async fn run(args: Args) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let processors = Processors::detect();
    let backends = Backends::start(folder.path(), processors).await.context("starting the backend")?;
    let place = Place { backends: &backends, folder: folder.path(), processors };
    let subject = Subject::understudy(place).await.context("starting Understudy")?;
    let idle = procfs::resident(subject.pid()?)?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(Client::connect(subject.address).await?);
    }
    for number in 0..args.requests {
        let response = clients[number % CONNECTIONS].get(HOST, "/test").await?;
        if response.status != 200 {
            bail!("request {number} was answered with {}", response.status);
        }
    }
    let loaded = procfs::resident(subject.pid()?)?;
    println!(
        "RSS of understudy proxy, one thread: {:.1} MB when ready, {:.1} MB after {} requests on {CONNECTIONS} connections",
        idle as f64 / 1e6,
        loaded as f64 / 1e6,
        args.requests
    );
    Ok(())
}
