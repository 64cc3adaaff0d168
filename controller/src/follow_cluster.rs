//! Follows a cluster: every change that the API server tells of is read, translated and published.
//!
//! Inputs: a [`KubernetesSource`]. Outputs: states on disk, and a [`Pass`] after each for those who write to the API
//! server. What was published stays as it is while the API server is away.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use kube::{Client, Config};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::addresses::{HeldPorts, Peers};
use crate::cluster::Cluster;
use crate::diagnostics::Diagnostic;
use crate::follow::{FollowError, ticks};
use crate::graph::Graph;
use crate::health::Health;
use crate::pass::Pass;
use crate::publish::Publisher;
use crate::watch::kubernetes::{Change, KubernetesSource, Store};
use crate::writers::{Subject, Writers};
use crate::{Builder, Options, OwnNode, Placement, Report, Sidecar, bridge};

/// What belongs together often comes on several watches: a change waits this long for others.
const TOGETHER: Duration = Duration::from_millis(5);
/// After a state that took so long, none is published for so many times as long, within these bounds: one change among
/// many does not wait, and a storm of them leaves most of a processor to the proxy.
const REST: u32 = 2;
const SHORTEST_REST: Duration = Duration::from_millis(10);
const LONGEST_REST: Duration = Duration::from_millis(100);
/// Statuses matter to nobody but those who write them: they wait this long, and keep no state waiting.
const STATUSES: Duration = Duration::from_millis(100);
/// Once anything is published, a change waits at most this long for a Secret or ConfigMap that the API server does not
/// give.
const CONTENT: Duration = Duration::from_secs(1);
/// A change waits at most this long for the end of a list. Between its first object and its last one, what moved from one
/// object to another may be in neither.
const LIST: Duration = Duration::from_secs(2);
/// Events that are taken at once.
const BATCH: usize = 1024;
/// How often a proxy that refuses the state is looked for, and a state written that could not be.
const REPAIR: Duration = Duration::from_secs(1);
/// How often a Secret or ConfigMap is asked for again that the API server refused.
const REFUSALS: Duration = Duration::from_secs(300);
/// How often it is said what is waited for.
const REMINDER: Duration = Duration::from_secs(30);

/// How a cluster is followed.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// How objects are translated. Whether Backends are served is for the cluster's ConfigMap to say.
    pub options: Options,
    /// Who follows it.
    pub sidecar: Sidecar,
    /// Told when something stands on disk.
    pub health: Arc<Health>,
    /// How often kinds are looked for that the cluster did not have.
    pub rediscovery: Duration,
}

impl ClusterOptions {
    /// Options of a sidecar, with what is usual for the rest.
    #[must_use]
    pub fn new(options: Options, sidecar: Sidecar) -> Self {
        Self { options, sidecar, health: Arc::default(), rediscovery: Duration::from_secs(30) }
    }
}

/// Why there is no API server to follow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no cluster is known: {0}. Set KUBECONFIG to a file that names one, or run in a pod that has a service account"
    )]
    NoCluster(String),
    /// What is known does not make a client.
    #[error("the cluster's API server cannot be used: {0}")]
    Unusable(#[source] Box<kube::Error>),
}

/// Makes a client for the API server that `KUBECONFIG` (or `~/.kube/config`) names, or, within a pod, for its own. Nothing
/// is sent yet.
///
/// # Errors
/// [`ConnectError`] if neither names an API server, or one in a way that cannot be used.
pub async fn connect() -> Result<Client, ConnectError> {
    let config = Config::infer().await.map_err(|error| ConnectError::NoCluster(error.to_string()))?;
    log::info!("the API server is {}", config.cluster_url);
    Client::try_from(config).map_err(|error| ConnectError::Unusable(error.into()))
}

/// Publishes a cluster's state into a folder, and again after every change, until `shutdown` is ready.
///
/// Nothing is published before every kind was listed once: what stood in the folder goes on being served. `on_report`
/// gets each report whose state or diagnostics differ from the one before, always after its state was published. A state
/// that cannot be written is logged and written a little later.
///
/// # Errors
/// [`FollowError`] if the folder cannot be opened for writing at the start, or if the runtime ends.
pub async fn follow_cluster(
    client: Client,
    options: ClusterOptions,
    state_dir: impl Into<PathBuf>,
    shutdown: impl Future<Output = ()>,
    mut on_report: impl FnMut(&Report),
) -> Result<(), FollowError> {
    let folder = state_dir.into();
    let publisher =
        Publisher::open(&folder).map_err(|source| FollowError::State { folder: folder.clone(), source })?;
    let ClusterOptions { mut options, sidecar, health, rediscovery } = options;
    // With host ports the next hop is another machine.
    if let (Placement::Service(_), Some(guard)) = (options.listen.placement, &mut options.guard) {
        guard.own_node = Some(OwnNode { name: sidecar.node.clone(), addresses: bridge::next_hops() });
    }
    if publisher.has_state() {
        health.set_published();
    }
    let (passes, received) = watch::channel(None);
    let writers = Writers::start(&Subject {
        client: client.clone(),
        sidecar: Arc::new(sidecar.clone()),
        passes: received,
        placement: options.listen.placement,
        folder,
    });
    let mut peers = writers.peers();
    let mut source = KubernetesSource::start(client, rediscovery);
    let mut store = Store::new(&sidecar.namespace);
    let mut passer = Passer::new(publisher, Options { live: true, ..options });
    let mut pending = Pending::default();
    let mut events = Vec::new();
    let mut repair = ticks(REPAIR);
    let mut reminder = ticks(REMINDER);
    let mut refusals = ticks(REFUSALS);
    let mut ending = pin!(async {
        shutdown.await;
        writers.end().await;
    });
    loop {
        tokio::select! {
            // What is left to write at the end needs passes until it is written.
            () = &mut ending => return Ok(()),
            () = source.events(&mut events, BATCH) => {
                for event in events.drain(..) {
                    pending.note(store.take(event), Instant::now());
                }
                source.read_contents(store.take_questions());
            }
            () = pending.due(&store, passer.graph.is_some()) => {
                let work = pending.take();
                store.stop_waiting();
                let began = Instant::now();
                let report;
                (passer, report) = passer.run(work, &store).await?;
                pending.ran(work, began, Instant::now());
                if let Some(Outcome { pass, report }) = report {
                    if !passer.failed {
                        health.set_published();
                    }
                    if let Some(report) = report {
                        on_report(&report);
                    }
                    passes.send_replace(Some(Arc::new(pass)));
                }
            }
            known = next_peers(&mut peers) => {
                if passer.guard_pods(&known) {
                    pending.note(Change::Meaning, Instant::now());
                }
            }
            _ = repair.tick() => {
                if passer.failed {
                    pending.note(Change::Meaning, Instant::now());
                }
                passer = passer.repair().await?;
            }
            _ = refusals.tick() => source.read_contents(store.refused_contents()),
            _ = reminder.tick() => {
                let unlisted: Vec<_> = store.unlisted().map(|kind| kind.to_string()).collect();
                if !unlisted.is_empty() {
                    log::warn!("waiting for the first list of {} before anything is published", unlisted.join(", "));
                }
            }
        }
    }
}

/// The pods that serve, when they change; nobody tells where Gateways are not placed in a cluster.
async fn next_peers(peers: &mut watch::Receiver<Option<Arc<Peers>>>) -> Arc<Peers> {
    loop {
        if peers.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(peers) = peers.borrow_and_update().clone() {
            return peers;
        }
    }
}

/// What changed since the last pass, and when the next one is due.
#[derive(Debug, Default)]
struct Pending {
    /// When the first change came that may change what is served.
    meaning: Option<Instant>,
    /// The same, of statuses.
    status: Option<Instant>,
    /// Until when no state is published.
    rest: Option<Instant>,
}

impl Pending {
    fn note(&mut self, change: Change, now: Instant) {
        match change {
            Change::Nothing => {}
            Change::Status => drop(self.status.get_or_insert(now)),
            Change::Meaning => drop(self.meaning.get_or_insert(now)),
        }
    }

    /// Waits until a pass is due.
    async fn due(&self, store: &Store, ran_before: bool) {
        match self.due_at(store, ran_before) {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn due_at(&self, store: &Store, ran_before: bool) -> Option<Instant> {
        if store.unlisted().next().is_some() || store.is_waiting() && !ran_before {
            return None;
        }
        let others = if store.is_listing() {
            LIST
        } else if store.is_waiting() {
            CONTENT
        } else {
            TOGETHER
        };
        // A pass over statuses alone would show a cluster that fits no graph while anything else is due.
        match (self.meaning, self.status) {
            (Some(since), _) => Some((since + others).max(self.rest.unwrap_or(since))),
            (None, Some(since)) if store.is_listing() => Some(since + LIST),
            (None, since) => since.map(|since| since + STATUSES),
        }
    }

    fn take(&mut self) -> Change {
        self.status = None;
        if self.meaning.take().is_some() { Change::Meaning } else { Change::Status }
    }

    fn ran(&mut self, change: Change, began: Instant, now: Instant) {
        if change == Change::Meaning {
            self.rest = Some(now + ((now - began) * REST).clamp(SHORTEST_REST, LONGEST_REST));
        }
    }
}

/// What a pass came to.
struct Outcome {
    pass: Pass,
    /// `None` where nothing differs from the last one.
    report: Option<Report>,
}

/// Makes passes.
struct Passer {
    publisher: Publisher,
    builder: Builder,
    options: Options,
    /// Those of the last pass.
    diagnostics: Arc<[Diagnostic]>,
    graph: Option<Arc<Graph>>,
    version: u64,
    /// Whether the last state could not be written.
    failed: bool,
}

impl Passer {
    fn new(publisher: Publisher, options: Options) -> Self {
        Self {
            publisher,
            builder: Builder::default(),
            options,
            diagnostics: Arc::new([]),
            graph: None,
            version: 0,
            failed: false,
        }
    }

    /// Has the target guard refuse what the pods declare; whether that is new.
    fn guard_pods(&mut self, peers: &Peers) -> bool {
        let Some(guard) = &mut self.options.guard else { return false };
        let sockets = peers.declared_sockets();
        let is_new = guard.own_sockets != sockets;
        guard.own_sockets = sockets;
        is_new
    }

    /// Makes a pass over what is known now. Where only statuses changed, everything else stays as it was, unless that could
    /// not be written: then what is known fits no graph that was.
    async fn run(mut self, change: Change, store: &Store) -> Result<(Self, Option<Outcome>), FollowError> {
        let cluster = store.cluster();
        if let (Change::Status, Some(graph), false) = (change, &self.graph, self.failed) {
            let (graph, diagnostics, version) = (graph.clone(), self.diagnostics.clone(), self.version);
            return Ok((
                self,
                Some(Outcome { pass: Pass { cluster, graph, diagnostics, version }, report: None }),
            ));
        }
        self.options.backend_api = store.backend_api();
        let said = store.diagnostics();
        let run = move || {
            let outcome = self.build(cluster, said);
            (self, outcome)
        };
        tokio::task::spawn_blocking(run).await.map_err(FollowError::CutShort)
    }

    fn build(&mut self, cluster: Arc<Cluster>, mut said: Vec<Diagnostic>) -> Option<Outcome> {
        let began = Instant::now();
        let (graph, state) = self.builder.build(&cluster, &self.options, &mut said);
        let translated = Instant::now();
        if let Placement::Service(_) = self.options.listen.placement {
            self.options.held = HeldPorts::of(&graph);
        }
        let published = self.publisher.publish(&state);
        log::debug!(
            "a pass over {} routes: translated in {:?}, written in {:?}",
            graph.routes.len(),
            translated - began,
            translated.elapsed()
        );
        match published {
            Ok(published) => {
                self.failed = false;
                self.version = published.version;
                let others_said = *said != *self.diagnostics;
                let is_new = published.changed || others_said || self.graph.is_none();
                if published.changed {
                    log::info!(
                        "state version {}: {} files written, {} removed",
                        published.version,
                        published.written,
                        published.removed
                    );
                }
                if others_said {
                    self.diagnostics = said.into();
                }
                self.graph = Some(graph.clone());
                let diagnostics = self.diagnostics.clone();
                let report = is_new.then(|| Report { diagnostics: diagnostics.to_vec(), state });
                Some(Outcome { pass: Pass { cluster, graph, diagnostics, version: self.version }, report })
            }
            Err(error) => {
                self.failed = true;
                log::error!("the state could not be written, and is tried again: {error}");
                None
            }
        }
    }

    /// Writes again what the proxy refuses.
    async fn repair(mut self) -> Result<Self, FollowError> {
        let now = Instant::now();
        let run = move || {
            match self.publisher.repair_refused(now) {
                Ok(Some(published)) => self.version = published.version,
                Ok(None) => {}
                Err(error) => log::error!("the state could not be written again: {error}"),
            }
            self
        };
        tokio::task::spawn_blocking(run).await.map_err(FollowError::CutShort)
    }
}

#[cfg(test)]
#[path = "follow_cluster_tests.rs"]
mod tests;
