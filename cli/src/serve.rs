//! `understudy run`, `controller` and `proxy`: the two halves, together or apart.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use understudy_controller::{
    ClusterOptions, GuardOptions, Health, ListenOptions, Options, Report, Sidecar, Source,
};
use understudy_proxy::access_log::LogDestination;
use understudy_proxy::{AccessLogOptions, H2_IDLE, ProxyOptions};

use crate::args::{ClusterArgs, ControllerArgs, DataArgs, LogFormat, ProxyArgs, RunArgs};
use crate::{check, manifests, signals};

/// How long requests under way may take at the end.
const DRAIN: Duration = Duration::from_secs(30);

/// Both halves in one process.
pub(crate) fn run(args: RunArgs) -> Result<()> {
    let (state, _temporary) = match args.state {
        Some(state) => (state, None),
        None => {
            let folder = TemporaryFolder::new("run")?;
            (folder.path().to_owned(), Some(folder))
        }
    };
    let sources = manifests::sources(&args.manifests.paths);
    let options = manifests::options(&args.manifests.listen);
    let proxy = proxy_options(state, args.data);
    runtime(2)?.block_on(async { both(&sources, &options, proxy, signals::stop()?, check::tell).await })
}

/// The controller alone.
pub(crate) fn controller(args: ControllerArgs) -> Result<()> {
    if args.kubernetes {
        return kubernetes(args);
    }
    let (sources, options) = (manifests::sources(&args.manifests), manifests::options(&args.listen));
    runtime(1)?.block_on(async {
        understudy_controller::follow(&sources, &options, args.state, signals::stop()?, check::tell).await?;
        Ok(())
    })
}

/// The controller of a cluster.
fn kubernetes(args: ControllerArgs) -> Result<()> {
    let ClusterArgs { namespace, pod, node, gateways, pod_ips, cluster_domain, health: address, .. } =
        args.cluster;
    let mut listen = manifests::listen_options(&args.listen, Ipv4Addr::UNSPECIFIED);
    if let Some(gateways) = gateways {
        listen.placement = gateways.in_pod(&pod_ips);
    }
    let guard = GuardOptions {
        deny: args.cluster.deny_targets,
        allow: args.cluster.allow_targets,
        unix_folder: args.cluster.unix_folder,
        ..GuardOptions::default()
    };
    let health = Arc::new(Health::default());
    let options = Options { listen, cluster_domain, guard: Some(guard), ..Options::default() };
    let options = ClusterOptions {
        health: health.clone(),
        ..ClusterOptions::new(options, Sidecar { namespace, pod, node })
    };
    runtime(1)?.block_on(async {
        let client = understudy_controller::connect().await?;
        if let Some(address) = address {
            let listener = understudy_controller::bind_health(address)
                .await
                .with_context(|| format!("{address} cannot be bound for --health"))?;
            tokio::spawn(understudy_controller::serve_health(listener, health));
        }
        let mut teller = check::Teller::default();
        let on_report = |report: &Report| teller.tell(report);
        understudy_controller::follow_cluster(client, options, args.state, signals::stop()?, on_report)
            .await?;
        Ok(())
    })
}

/// The proxy alone.
pub(crate) fn proxy(args: ProxyArgs) -> Result<()> {
    let options = proxy_options(args.state, args.data);
    runtime(1)?.block_on(async {
        understudy_proxy::run(options, signals::stop()?).await?;
        Ok(())
    })
}

/// Runs both halves until `stop`, or until one of them cannot go on.
async fn both(
    sources: &[Source],
    options: &Options,
    proxy: ProxyOptions,
    stop: impl Future<Output = ()>,
    on_report: impl FnMut(&Report),
) -> Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the other half is gone, which is a reason to stop, too.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let folder = proxy.state.clone();
    let controller = async {
        let ended = understudy_controller::follow(sources, options, folder, until_stopped(), on_report).await;
        stopping.send_replace(true);
        ended.map_err(anyhow::Error::from)
    };
    let proxy = async {
        let ended = understudy_proxy::run(proxy, until_stopped()).await;
        stopping.send_replace(true);
        ended.map_err(anyhow::Error::from)
    };
    let halves = async { tokio::join!(controller, proxy) };
    tokio::pin!(halves, stop);
    let (controller, proxy) = tokio::select! {
        ended = &mut halves => ended,
        () = &mut stop => {
            stopping.send_replace(true);
            halves.await
        }
    };
    controller.and(proxy)
}

/// What the demo needs of the gateway.
pub(crate) struct DemoGateway {
    pub(crate) manifest: PathBuf,
    pub(crate) state: PathBuf,
    /// Where port 80 is served.
    pub(crate) gateway_port: u16,
    pub(crate) admin: SocketAddr,
    pub(crate) resolve: Vec<(String, IpAddr)>,
}

/// The gateway of the demo, as `understudy run` would start it.
pub(crate) async fn demo_gateway(demo: DemoGateway, stop: impl Future<Output = ()>) -> Result<()> {
    let listen =
        ListenOptions { port_offset: demo.gateway_port.saturating_sub(80), ..ListenOptions::default() };
    let options = Options { listen, ..Options::default() };
    let proxy = ProxyOptions {
        state: demo.state,
        admin: Some(demo.admin),
        resolve: demo.resolve,
        dns: None,
        threads: threads(None),
        access_log: AccessLogOptions::off(),
        drain_delay: Duration::ZERO,
        drain: Duration::from_secs(1),
        reuse_port: false,
        h2_idle: H2_IDLE,
    };
    both(&[Source::Path(demo.manifest)], &options, proxy, stop, |_| {}).await
}

/// A proxy needs two files per request under way; many systems give 1,024 unless asked for more.
fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(error) = raised {
        log::warn!("the limit of open files stays as it is: {error}");
    }
}

fn proxy_options(state: PathBuf, args: DataArgs) -> ProxyOptions {
    raise_file_limit();
    let destination = match args.access_log.as_str() {
        "off" => LogDestination::Off,
        "stdout" => LogDestination::Stdout,
        file => LogDestination::File(file.into()),
    };
    let format = match args.log_format {
        LogFormat::Text => understudy_proxy::LogFormat::Text,
        LogFormat::Json => understudy_proxy::LogFormat::Json,
    };
    ProxyOptions {
        state,
        admin: Some(args.admin),
        resolve: args.resolve,
        dns: args.dns,
        threads: threads(args.threads),
        access_log: AccessLogOptions { destination, format },
        drain_delay: args.drain_delay,
        drain: DRAIN,
        reuse_port: args.reuse_port,
        h2_idle: H2_IDLE,
    }
}

fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

fn runtime(threads: usize) -> Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name("control")
        .enable_all()
        .build()
        .context("the system gives no threads")
}

/// A folder that is gone when this is dropped.
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("understudy-{purpose}-{}", std::process::id()));
        std::fs::create_dir_all(&path)
            .with_context(|| format!("no folder can be made at {}: name one with --state", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            log::warn!("{} stays behind: {error}", self.0.display());
        }
    }
}
