//! What happens without a request: endpoints on trial are connected to, active checks are run, and users are told
//! of switches.
//!
//! Inputs: the engine's ticks. Outputs: connections that are closed at once, checks, log lines, metrics, the list
//! of the last switches.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, Semaphore, watch};
use understudy_conf::{PoolReport, RefusedTarget, Reports, Switch, SwitchKind};
use understudy_engine::{
    Address, CheckProbe, CheckResult, Engine, Event, EventKind, Identity, Instant, Probe,
};

use crate::check;
use crate::clock::Clock;
use crate::metrics::{Metrics, ProbeKind};
use crate::upstream_tls::{TlsProber, alpn_of};

/// Probes under way at once.
const PARALLEL_PROBES: usize = 64;
/// Active checks under way at once.
const PARALLEL_CHECKS: usize = 256;

/// Moves the engine on.
pub(crate) struct Driver {
    engine: Arc<Engine>,
    wake: Arc<Notify>,
    clock: Clock,
    metrics: Arc<Metrics>,
    probes: Arc<Semaphore>,
    checks: Arc<Semaphore>,
    tls: TlsProber,
    /// Active checks without a result.
    pending: watch::Sender<usize>,
    /// A check ended.
    checked: Notify,
    switches: Mutex<VecDeque<Switch>>,
    /// How many switches there were.
    switched: watch::Sender<u64>,
    /// When the driver was made, in milliseconds since 1970.
    started_ms: u64,
    /// Moment zero of the engine's clock, in milliseconds since 1970.
    epoch_ms: u64,
}

impl Driver {
    pub(crate) fn new(
        engine: Arc<Engine>,
        wake: Arc<Notify>,
        clock: Clock,
        metrics: Arc<Metrics>,
        tls: TlsProber,
    ) -> Arc<Self> {
        let probes = Arc::new(Semaphore::new(PARALLEL_PROBES));
        let checks = Arc::new(Semaphore::new(PARALLEL_CHECKS));
        let pending = watch::Sender::new(0);
        let started_ms = unix_millis();
        let epoch_ms = started_ms.saturating_sub(clock.now().as_micros() / 1000);
        Arc::new(Self {
            engine,
            wake,
            clock,
            metrics,
            probes,
            checks,
            tls,
            pending,
            checked: Notify::new(),
            switches: Mutex::default(),
            switched: watch::Sender::new(0),
            started_ms,
            epoch_ms,
        })
    }

    /// Runs until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let now = self.clock.now();
            let tick = self.engine.tick(now);
            for probe in tick.probes {
                tokio::spawn(self.clone().probe(probe));
            }
            for check in tick.checks {
                tokio::spawn(self.clone().check(check));
            }
            for event in self.engine.drain_events() {
                self.announce(event);
            }
            let woken = self.wake.notified();
            if tick.next == Instant::NEVER {
                woken.await;
            } else {
                // The margin keeps a deadline from being looked at a moment too early.
                let wait = tick.next.since(self.clock.now()) + Duration::from_millis(1);
                let _ = tokio::time::timeout(wait, woken).await;
            }
        }
    }

    async fn probe(self: Arc<Self>, probe: Probe) {
        let Ok(_permit) = self.probes.acquire().await else { return };
        let reached = Box::pin(self.reach(probe.endpoint.identity()));
        let connected = tokio::time::timeout(probe.timeout, reached).await.unwrap_or(false);
        self.metrics.count_probe(ProbeKind::Trial, connected);
        self.engine.probed(&probe, connected, self.clock.now());
    }

    /// Whether an endpoint can be connected to: under its TLS policy, if it has one.
    async fn reach(&self, endpoint: &Identity) -> bool {
        match &endpoint.tls {
            Some(tls) => self.tls.connect(&endpoint.address, tls, alpn_of(endpoint.protocol)).await.is_ok(),
            None => connect(&endpoint.address).await.is_ok(),
        }
    }

    async fn check(self: Arc<Self>, probe: CheckProbe) {
        let Ok(_permit) = self.checks.acquire().await else { return };
        let result = check::run(&probe, &self.tls).await;
        self.metrics.count_probe(ProbeKind::Check, result == CheckResult::Passed);
        if let CheckResult::Failed(failure) = result {
            log::debug!("active check of {}: {failure}", probe.address());
        }
        self.engine.checked(probe, result, self.clock.now());
        self.count_pending();
        self.checked.notify_one();
    }

    fn count_pending(&self) {
        self.pending.send_if_modified(|pending| {
            let now = self.engine.pending_checks();
            now != std::mem::replace(pending, now)
        });
    }

    /// Waits until every active check has a result. False if that takes longer than `bound`.
    pub(crate) async fn first_checks(&self, bound: Duration) -> bool {
        self.count_pending();
        let mut pending = self.pending.subscribe();
        // The sender lives as long as `self`, so the only error is the time-out.
        tokio::time::timeout(bound, pending.wait_for(|pending| *pending == 0)).await.is_ok()
    }

    /// Waits for the end of an active check, or of one that ended since the last call. One caller only is told.
    pub(crate) async fn checked(&self) {
        self.checked.notified().await;
    }

    fn announce(&self, event: Event) {
        let Some(pool) = event.pool else { return };
        let backends = {
            let endpoint = match &event.kind {
                EventKind::Failover { .. } | EventKind::Failback { .. } => None,
                EventKind::Ejection { endpoint, .. }
                | EventKind::Return { endpoint, .. }
                | EventKind::Unhealthy { endpoint, .. }
                | EventKind::Healthy { endpoint, .. } => Some(endpoint),
            };
            self.engine.origins(&pool, endpoint)
        };
        let (kind, endpoint, cause, lasted) = match event.kind {
            EventKind::Failover { cause, lasted } => (SwitchKind::Failover, None, cause, lasted),
            EventKind::Failback { cause, lasted } => (SwitchKind::Failback, None, cause, lasted),
            EventKind::Ejection { endpoint, cause, duration } => {
                let cause = format!("{cause}; out for {duration:?}, then on trial");
                (SwitchKind::Ejection, Some(endpoint.to_string()), cause, Duration::ZERO)
            }
            EventKind::Return { endpoint, away } => {
                (SwitchKind::Return, Some(endpoint.to_string()), "its trial succeeded".to_owned(), away)
            }
            EventKind::Unhealthy { endpoint, failure, lasted } => {
                (SwitchKind::Unhealthy, Some(endpoint.to_string()), failure.to_string(), lasted)
            }
            EventKind::Healthy { endpoint, lasted } => (
                SwitchKind::Healthy,
                Some(endpoint.to_string()),
                "its active check passes".to_owned(),
                lasted,
            ),
        };
        let counters = self.metrics.pool(pool.as_str());
        match kind {
            SwitchKind::Failover => counters.failovers.inc(),
            SwitchKind::Failback => counters.failbacks.inc(),
            SwitchKind::Ejection => counters.ejections.inc(),
            SwitchKind::Return | SwitchKind::Unhealthy | SwitchKind::Healthy => {}
        }
        let what = endpoint.as_deref().unwrap_or("");
        match kind {
            SwitchKind::Failover => log::warn!("failover of {pool} after {lasted:?}: {cause}"),
            SwitchKind::Failback => log::info!("failback of {pool} after {lasted:?}: {cause}"),
            SwitchKind::Ejection => log::warn!("{what} of {pool} is ejected: {cause}"),
            SwitchKind::Return => log::info!("{what} of {pool} is back after {lasted:?}: {cause}"),
            SwitchKind::Unhealthy => log::warn!("{what} of {pool} fails its active check: {cause}"),
            SwitchKind::Healthy => log::info!("{what} of {pool} is healthy after {lasted:?}: {cause}"),
        }
        let mut switches = self.switches.lock();
        if switches.len() == Reports::MAX_SWITCHES {
            switches.pop_front();
        }
        let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
        let seq = *self.switched.borrow() + 1;
        let at_ms = unix_millis();
        switches.push_back(Switch { seq, at_ms, kind, pool, endpoint, backends, cause, lasted_ms });
        // Not before it can be found.
        self.switched.send_replace(seq);
    }

    /// How many switches there were, and each change of that.
    pub(crate) fn switched(&self) -> watch::Receiver<u64> {
        self.switched.subscribe()
    }

    /// What the pools see now, what the guard refuses, and what happened last.
    pub(crate) fn reports(&self, refused: &BTreeSet<RefusedTarget>) -> Reports {
        self.reports_where(refused, |_| true)
    }

    /// The same, of those pools only whose report is wanted.
    pub(crate) fn reports_where(
        &self,
        refused: &BTreeSet<RefusedTarget>,
        is_wanted: impl Fn(&PoolReport) -> bool,
    ) -> Reports {
        Reports {
            started_ms: self.started_ms,
            pools: self.engine.reports_where(self.clock.now(), self.epoch_ms, is_wanted),
            refused: refused.iter().cloned().collect(),
            switches: self.switches.lock().iter().cloned().collect(),
        }
    }
}

async fn connect(address: &Address) -> std::io::Result<()> {
    match address {
        Address::Socket(address) => TcpStream::connect(address).await.map(drop),
        Address::Unix(path) => UnixStream::connect(path).await.map(drop),
        // Nothing can be asked that every protocol over UDP would understand: its next session is the trial.
        Address::Udp(_) => Ok(()),
    }
}

/// The wall clock, for people to read.
fn unix_millis() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
