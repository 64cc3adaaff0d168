//! Memory, reloads and CPU time of controller and proxy in a large cluster.
//!
//! Inputs: an API server that `KUBECONFIG` names, with Gateway API's kinds and this project's. Outputs: a table. It creates
//! namespaces, Services with EndpointSlices and HTTPRoutes, starts `understudy controller --kubernetes` and `understudy
//! proxy` on them, edits routes, lets pods churn, and removes what it made. Everything has a bound, in time and in number.

mod api;
mod objects;
mod report;
mod sidecar;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::procfs;
use crate::program::find_understudy;
use api::Api;
use objects::Size;
use report::{Churn, Report};
use sidecar::{Sidecar, Usage};

/// More would say nothing new, and take the API server's memory.
const MOST_ROUTES: usize = 20_000;
const MOST_SECONDS: u64 = 600;
/// For everything to be created.
const CREATED: Duration = Duration::from_secs(900);
/// For the first state, and for the count of routes.
const FIRST: Duration = Duration::from_secs(300);
/// For one change to be served.
const SERVED: Duration = Duration::from_secs(30);
/// Routes that are edited one after the other.
const EDITS: usize = 20;
/// Between two edits: long enough for the one before to be over.
const PAUSE: Duration = Duration::from_millis(300);
/// After a change, until freed memory is given back.
const SETTLED: Duration = Duration::from_secs(5);

/// Arguments of the measurement.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// HTTPRoutes.
    #[arg(long, default_value_t = 5000)]
    routes: usize,
    /// Services, each with an EndpointSlice.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Namespaces over which they are spread.
    #[arg(long, default_value_t = 50)]
    namespaces: usize,
    /// Pods of each Service.
    #[arg(long, default_value_t = 3)]
    pods: usize,
    /// For how long pods churn.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// EndpointSlices that change in each second of that.
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// The binary to measure, if not the one beside this program.
    #[arg(long)]
    understudy: Option<PathBuf>,
}

impl Args {
    fn validate(&self) -> Result<Size> {
        ensure!((1..=MOST_ROUTES).contains(&self.routes), "--routes must be from 1 to {MOST_ROUTES}");
        ensure!((1..=self.routes).contains(&self.services), "--services must be from 1 to --routes");
        ensure!((1..=self.services).contains(&self.namespaces), "--namespaces must be from 1 to --services");
        ensure!((1..=100).contains(&self.pods), "--pods must be from 1 to 100");
        ensure!((1..=MOST_SECONDS).contains(&self.seconds), "--seconds must be from 1 to {MOST_SECONDS}");
        ensure!((1..=500).contains(&self.rate), "--rate must be from 1 to 500");
        Ok(Size {
            routes: self.routes,
            services: self.services,
            namespaces: self.namespaces,
            pods: self.pods,
        })
    }
}

/// Measures and prints; an error if more memory is used than is promised.
pub(crate) async fn run(args: Args) -> Result<()> {
    let size = args.validate()?;
    let understudy = args.understudy.clone().map_or_else(find_understudy, Ok)?;
    let api = Api::connect().await?;
    api.require_kinds().await?;
    let machine = procfs::machine();
    // What a run that was interrupted left behind.
    api.remove_all().await?;
    let outcome = measure(&args, size, &api, &understudy).await;
    println!("removing what was made");
    let removed = api.remove_all().await;
    let report = outcome?;
    removed?;
    print!("{}", report.table(&machine));
    let missed = report.missed();
    if missed.is_empty() { Ok(()) } else { bail!("more than is promised: {}", missed.join(", ")) }
}

async fn measure(args: &Args, size: Size, api: &Api, understudy: &std::path::Path) -> Result<Report> {
    let folder = tempfile::tempdir()?;
    let port = crate::subject::free_address()?.port();
    println!("creating {} objects", objects::count(&size));
    let creating = Instant::now();
    let created = timeout(CREATED, api.create_all(objects::base(port), objects::all(size))).await;
    created.context("the objects were not created in time")??;
    println!("created in {:.1} s", creating.elapsed().as_secs_f64());
    let started = Instant::now();
    let sidecar = Sidecar::start(understudy, folder.path()).await?;
    let first = sidecar.until_served(FIRST, |state| state.routes.len() == size.routes).await?;
    let first = (first - started, sidecar.cpu()?);
    let attached = until_attached(api, size.routes).await?;
    let attached = attached - started;
    sleep(SETTLED).await;
    let settled = sidecar.usage()?;
    println!("first state after {:.2} s; editing routes", first.0.as_secs_f64());
    let edits = edit_routes(api, &sidecar, size).await?;
    println!("pods churn for {} s", args.seconds);
    let churn = churn(args, size, api, &sidecar).await?;
    sleep(SETTLED).await;
    let end = sidecar.usage()?;
    let served = sidecar.state()?;
    ensure!(served.routes.len() == size.routes, "the state has {} routes at the end", served.routes.len());
    Ok(Report { size, first, attached, settled, edits, churn, end })
}

async fn until_attached(api: &Api, routes: usize) -> Result<Instant> {
    let deadline = Instant::now() + FIRST;
    loop {
        let attached = api.attached_routes().await?;
        if attached == Some(routes as u64) {
            return Ok(Instant::now());
        }
        ensure!(Instant::now() < deadline, "the Gateway's status counts {attached:?} routes, not {routes}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Edits routes one by one. Gives how long the proxy took for each, from finding the state to serving it.
async fn edit_routes(api: &Api, sidecar: &Sidecar, size: Size) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for edit in 0..EDITS.min(size.routes) {
        let before = sidecar.version()?;
        api.replace(&objects::edited_route(edit * size.routes / EDITS.min(size.routes), edit, size)).await?;
        sidecar.until_acknowledged(SERVED, before).await?;
        times.push(sidecar.last_reload().await?);
        sleep(PAUSE).await;
    }
    times.sort();
    Ok(times)
}

/// Replaces a pod of one Service after the other.
async fn churn(args: &Args, size: Size, api: &Api, sidecar: &Sidecar) -> Result<Churn> {
    let before = (sidecar.version()?, sidecar.cpu()?);
    let started = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / args.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut changes, mut last) = (0, Usage::default());
    while started.elapsed() < Duration::from_secs(args.seconds) {
        ticks.tick().await;
        api.replace(&objects::churned_slice(changes, size)).await?;
        changes += 1;
        last = last.max(sidecar.usage()?);
    }
    // The last change counts, too.
    sidecar.until_slice(SERVED, changes - 1, size).await?;
    let took = started.elapsed();
    let cpu = sidecar.cpu()?;
    Ok(Churn {
        changes,
        versions: sidecar.version()? - before.0,
        took,
        controller: cpu.controller - before.1.controller,
        proxy: cpu.proxy - before.1.proxy,
        most: last,
    })
}
