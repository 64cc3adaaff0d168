//! The proxy from start to end: it joins the modules, and takes new states.
//!
//! Inputs: options, the state directory, changes of addresses. Outputs: a served [`World`], acknowledgements and
//! reports in the state directory.

mod take;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::apps::HttpServerOptions;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::HttpProxy;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use understudy_conf::{Acknowledgement, store};
use understudy_engine::Engine;

use crate::access_log::{AccessLog, AccessLogError, LogDestination, LogFormat};
use crate::admin::{Admin, AdminError, AdminPages};
use crate::clock::Clock;
use crate::driver::Driver;
use crate::guard::{self, RefusalLog};
use crate::l4::{Streams, UdpListeners, UdpOptions};
use crate::listeners::{BindError, CONNECTIONS_A_SESSION, ListenerOptions, Listeners, TlsTable};
use crate::metrics::{Metrics, MetricsError};
use crate::reporter;
use crate::resolver::{Resolver, ResolverError, ResolverOptions};
use crate::service::Service;
use crate::source::{Source, Status};
use crate::upstream_tls::{SecurityLog, TlsProber, UpstreamTlsTable};
use crate::workers::Workers;
use crate::world::World;
use take::Taken;

/// Idle connections to endpoints that are kept, per thread.
const POOL_SIZE: usize = 1024;
/// What small pieces of requests' bodies that wait on one connection of a client may cost beside their bytes, as the
/// h2 crate reckons it: 256 bytes each. By default some hundred of them end the connection, with every call of gRPC on
/// it. This is more than the messages of gRPC that fit into the connection's window of 64 KiB.
const SMALL_FRAMES: usize = 4 * 1024 * 1024;
/// At the end, how long clients that are about to connect or to ask are waited for: some round trips.
const LINGER: Duration = Duration::from_millis(600);
/// More attempts than any policy asks for: the engine says when it is enough.
const MAX_ATTEMPTS: usize = 10_000;

/// How the proxy is started.
#[derive(Debug, Clone)]
pub struct ProxyOptions {
    /// Folder with the state.
    pub state: PathBuf,
    /// Address for metrics, readiness and pools; `None`: no such server.
    pub admin: Option<SocketAddr>,
    /// Fixed addresses of names.
    pub resolve: Vec<(String, IpAddr)>,
    /// The name server to ask instead of the system's.
    pub dns: Option<SocketAddr>,
    /// Threads that carry connections; at least one.
    pub threads: usize,
    /// Where and how requests are logged.
    pub access_log: AccessLogOptions,
    /// How long clients are still accepted at the end, while readiness has failed: the time that those who lead them
    /// here need to learn it. Answers over HTTP/1.1 then end their connections. Zero: none.
    pub drain_delay: Duration,
    /// How long requests under way may take at the end, from when no client is accepted any more.
    pub drain: Duration,
    /// Other processes of the same user may listen on the same addresses, and get a share of the clients: with host
    /// ports, a node's new proxy serves before its old one ends.
    pub reuse_port: bool,
    /// An HTTP/2 connection of a client without a stream is closed after this time; [`H2_IDLE`] is that of HTTP/1.1.
    pub h2_idle: Duration,
}

/// How long connections of clients may be idle.
pub const H2_IDLE: Duration = Duration::from_secs(60);

/// Where and how requests are logged.
#[derive(Debug, Clone)]
pub struct AccessLogOptions {
    /// Where lines go.
    pub destination: LogDestination,
    /// How they look.
    pub format: LogFormat,
}

impl AccessLogOptions {
    /// No access log.
    #[must_use]
    pub fn off() -> Self {
        Self { destination: LogDestination::Off, format: LogFormat::default() }
    }
}

/// Why the proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No threads.
    #[error("the system gives no thread: {0}")]
    Threads(#[from] std::io::Error),
    /// Metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// The access log.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// The admin address.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Names.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
}

type App = HttpProxy<Service>;

/// What takes new states and new addresses.
struct Server {
    world: Arc<ArcSwap<World>>,
    tls: Arc<ArcSwap<TlsTable>>,
    upstream_tls: Arc<ArcSwap<UpstreamTlsTable>>,
    engine: Arc<Engine>,
    resolver: Resolver,
    metrics: Arc<Metrics>,
    driver: Arc<Driver>,
    clock: Clock,
    listeners: Listeners<App>,
    udp: UdpListeners,
    /// One world is built at a time; it is of this.
    taken: tokio::sync::Mutex<Taken>,
    /// Routes are held back.
    holds: Notify,
    acknowledge: Notify,
    /// From when it is told to stop, it is not ready.
    stopping: AtomicBool,
    /// Where this proxy's own admin server listens.
    admin: Option<SocketAddr>,
    refusals: parking_lot::Mutex<RefusalLog>,
}

/// Serves what stands in the state directory until `stop` is over.
///
/// Must be called on a tokio runtime; connections are carried by threads of its own.
///
/// # Errors
/// [`ProxyError`] if it cannot start. Whatever goes wrong later is logged, reported and overcome.
pub async fn run(options: ProxyOptions, stop: impl Future<Output = ()>) -> Result<(), ProxyError> {
    let control = Handle::current();
    let clock = Clock::new();
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION"))?);
    let wake = Arc::new(Notify::new());
    let engine = {
        let wake = wake.clone();
        Engine::new(move || wake.notify_one())
    };
    let resolver =
        Resolver::new(ResolverOptions { overrides: options.resolve, server: options.dns }, &control)?;
    let world = Arc::new(ArcSwap::from_pointee(World::empty()));
    let access_log = Arc::new(AccessLog::open(
        options.access_log.destination,
        options.access_log.format,
        metrics.log_dropped.clone(),
    )?);
    let workers = Arc::new(Workers::start(options.threads)?);
    let security = Arc::<SecurityLog>::default();
    let service = Service {
        world: world.clone(),
        clock,
        access_log: access_log.clone(),
        metrics: metrics.clone(),
        unmatched: metrics.rule("none"),
        workers_share_connections: workers.count() > 1,
        uses: Default::default(),
        mirroring: Default::default(),
        security: security.clone(),
        connector: Arc::new(TransportConnector::new(None)),
    };
    let app = application(service, workers.count(), options.h2_idle);
    let tls = Arc::<ArcSwap<TlsTable>>::default();
    let listener_options = ListenerOptions {
        shared: options.reuse_port,
        linger: if options.drain_delay.is_zero() { Duration::ZERO } else { LINGER },
        ..ListenerOptions::default()
    };
    let udp_options = UdpOptions {
        shared: listener_options.shared,
        linger: listener_options.linger,
        retry_every: listener_options.retry_every,
        // What is left of the files that connections leave.
        max_sessions: listener_options.max_connections / CONNECTIONS_A_SESSION,
    };
    let listeners = Listeners::new(workers.clone(), app, tls.clone(), &control, listener_options);
    let upstream_tls = Arc::<ArcSwap<UpstreamTlsTable>>::default();
    let prober = TlsProber::new(upstream_tls.clone(), security, clock);
    let streams = Arc::new(Streams {
        world: world.clone(),
        clock,
        access_log,
        metrics: metrics.clone(),
        tls: prober.clone(),
    });
    listeners.carry_raw(streams.clone());
    let udp = UdpListeners::new(streams, workers.clone(), &control, udp_options);
    let driver = Driver::new(engine.clone(), wake, clock, metrics.clone(), prober);
    let server = Arc::new(Server {
        world,
        tls,
        upstream_tls,
        engine,
        resolver,
        metrics,
        driver: driver.clone(),
        clock,
        listeners,
        udp,
        taken: tokio::sync::Mutex::default(),
        holds: Notify::new(),
        acknowledge: Notify::new(),
        stopping: AtomicBool::new(false),
        admin: options.admin,
        refusals: parking_lot::Mutex::default(),
    });
    let source = {
        let (server, control) = (server.clone(), control.clone());
        Source::start(&options.state, move |state, found| {
            control.block_on(server.take(state));
            server.metrics.state_taken.set(found.elapsed().as_secs_f64());
            Ok(())
        })?
    };
    let admin = options
        .admin
        .map(|address| admin((address, options.reuse_port), &server, &source, &driver, &control));
    let admin = admin.transpose()?;
    // They end with this future, also when it is dropped before `stop` is over.
    let mut tasks = JoinSet::new();
    tasks.spawn(driver.clone().run());
    tasks.spawn(server.clone().follow_changes());
    tasks.spawn(server.clone().acknowledge_changes(options.state.clone(), source.status()));
    tasks.spawn(reporter::run(options.state, driver, server.world.clone()));
    stop.await;
    server.stopping.store(true, Ordering::Relaxed);
    if !options.drain_delay.is_zero() {
        log::info!("stopping: clients are accepted for another {:?}", options.drain_delay);
        server.listeners.drain().await;
        tokio::time::sleep(options.drain_delay).await;
    }
    log::info!("stopping: requests under way are finished");
    let (left, ()) =
        tokio::join!(server.listeners.shut_down(options.drain), server.udp.shut_down(options.drain));
    if left > 0 {
        log::warn!("{left} connections were cut at the end");
    }
    tasks.abort_all();
    drop(admin);
    // Both wait for threads.
    let _ = tokio::task::spawn_blocking(move || {
        drop(source);
        workers.shut_down();
    })
    .await;
    Ok(())
}

fn application(service: Service, threads: usize, h2_idle: Duration) -> Arc<App> {
    let conf = ServerConf {
        threads,
        max_retries: MAX_ATTEMPTS,
        upstream_keepalive_pool_size: POOL_SIZE,
        ..ServerConf::default()
    };
    let mut app = HttpProxy::new(service, Arc::new(conf));
    // What Pingora bounds by itself: streams (100), decoded headers (64 KiB), resets (those of the h2 crate).
    let mut h2 = default_h2_options();
    h2.data_frame_budget(SMALL_FRAMES);
    app.h2_options = Some(h2);
    let mut options = HttpServerOptions::default();
    options.h2_idle_timeout = Some(h2_idle);
    app.server_options = Some(options);
    app.handle_init_modules();
    Arc::new(app)
}

fn admin(
    (address, shared): (SocketAddr, bool),
    server: &Arc<Server>,
    source: &Source,
    driver: &Arc<Driver>,
    control: &Handle,
) -> Result<Admin, AdminError> {
    let status = source.status();
    let stopping = server.clone();
    let (server, driver) = (server.clone(), driver.clone());
    let refused = source.status();
    let world = server.world.clone();
    let pages = AdminPages {
        ready: Box::new(move || match stopping.stopping.load(Ordering::Relaxed) {
            true => (false, "not ready: stopping".to_owned()),
            false => status.borrow().readiness(),
        }),
        metrics: Box::new(move || {
            server.metrics.connections.set(i64::try_from(server.listeners.connections()).unwrap_or(i64::MAX));
            server.metrics.udp_sessions.set(i64::try_from(server.udp.sessions()).unwrap_or(i64::MAX));
            server.metrics.dns_failures.set(i64::try_from(server.resolver.failures()).unwrap_or(i64::MAX));
            server.metrics.state_refused.set(refused.borrow().refused.is_some().into());
            server.set_serving();
            server.metrics.encode().map_err(|error| error.to_string())
        }),
        reports: Box::new(move || driver.reports(&world.load().refused)),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Admin::start_shared(address, shared, pages, control)
}

impl Server {
    /// Says for each pool which priority serves.
    fn set_serving(&self) {
        let reports = self.engine.reports(self.clock.now(), 0);
        for table in self.world.load().tables().filter_map(|table| table.pool.as_ref()) {
            let report = reports.binary_search_by(|report| report.pool.cmp(table.pool.name()));
            let serving = report.ok().and_then(|index| {
                reports[index]
                    .load
                    .iter()
                    .find(|(_, share)| *share > 0)
                    .map(|(priority, _)| i64::from(*priority))
            });
            table.metrics.serving.set(serving.unwrap_or(-1));
        }
    }

    /// Writes the acknowledgement whenever it changes.
    async fn acknowledge_changes(self: Arc<Self>, folder: PathBuf, mut status: watch::Receiver<Status>) {
        let (mut failures, mut of_udp) = (self.listeners.failures(), self.udp.failures());
        let mut written: Option<Acknowledgement> = None;
        let mut held_since: Option<Instant> = None;
        loop {
            let mut unbound: Vec<String> =
                failures.borrow_and_update().iter().map(BindError::to_string).collect();
            unbound.extend(of_udp.borrow_and_update().iter().map(BindError::to_string));
            let acknowledgement = {
                let status = status.borrow_and_update();
                let (world, tls, upstream) = (self.world.load(), self.tls.load(), self.upstream_tls.load());
                let degraded = world.degraded.iter().chain(&tls.degraded).chain(&upstream.degraded);
                Acknowledgement {
                    serving: status.serving,
                    refused: status.refused.clone(),
                    degraded: degraded
                        .cloned()
                        .chain(guard::degraded(&world.refused))
                        .chain(unbound)
                        .collect(),
                }
            };
            // What is not served as its newest version says is not acknowledged, but for what never comes.
            let is_held = !self.world.load().held.is_empty();
            held_since = held_since.filter(|_| is_held).or_else(|| is_held.then(Instant::now));
            let withheld = held_since.is_some_and(|since| since.elapsed() < take::PATIENCE);
            if !withheld && written.as_ref() != Some(&acknowledgement) {
                match store::write_acknowledgement(&folder, &acknowledgement) {
                    Ok(()) => written = Some(acknowledgement),
                    Err(error) => {
                        log::error!("the acknowledgement cannot be written: {error}");
                        // The folder may have gone with what was written to it.
                        written = None;
                    }
                }
            }
            tokio::select! {
                changed = status.changed() => if changed.is_err() { return },
                changed = failures.changed() => if changed.is_err() { return },
                changed = of_udp.changed() => if changed.is_err() { return },
                () = self.acknowledge.notified() => {}
            }
        }
    }
}
