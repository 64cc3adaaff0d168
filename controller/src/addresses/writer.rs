//! Writes what a plan asks for, as long as this sidecar leads.
//!
//! Inputs: passes, pods, who leads, whether this pod is about to leave. Outputs: Services and EndpointSlices, by
//! server-side apply. Bounded in rate; what fails is tried again, later and later; without an API server it waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::Sidecar;
use crate::addresses::peers::Peers;
use crate::addresses::plan::{Change, Target, Written, key_of, plan};
use crate::cluster::{Cluster, Key};
use crate::pass::Pass;

/// Who owns the fields that are written.
const FIELD_MANAGER: &str = "understudy";
/// Changes of the inputs that come within this time are one.
const PAUSE: Duration = Duration::from_millis(50);
/// Writes under way at once.
const AT_ONCE: usize = 8;
/// Writes before the inputs are looked at again, and the least time that they take.
const BATCH: usize = 50;
const BATCH_TIME: Duration = Duration::from_millis(500);
/// A write that takes longer has failed.
const WRITE_BOUND: Duration = Duration::from_secs(10);
/// A failed write is tried again after the first, at last after the second.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// What was written and does not show in the cluster by then was changed by somebody else meanwhile.
const BELIEVED_FOR: Duration = Duration::from_secs(10);

/// What the writer follows.
pub(crate) struct Signs {
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    pub(crate) peers: watch::Receiver<Option<Arc<Peers>>>,
    /// Whether this sidecar holds the leader Lease.
    pub(crate) leading: watch::Receiver<bool>,
    /// Whether this pod is told to end. The Lease must be held until [`run`] has returned.
    pub(crate) leaving: watch::Receiver<bool>,
}

/// Writes until the passes end; or, when the pod is to leave, until nothing leads to it any more. The caller bounds how
/// long that may take.
pub(crate) async fn run(client: Client, sidecar: Arc<Sidecar>, signs: Signs) {
    write_to(&ApiServer(client), &sidecar.pod, signs).await;
}

/// Where objects are written to.
pub(super) trait Store: Sync {
    /// Makes one change; what stands there now, or nothing if it was removed.
    fn write(&self, change: &Change) -> impl Future<Output = Result<Done, kube::Error>> + Send;
}

/// What stands after a change.
pub(super) enum Done {
    Service(Key, Option<Box<Service>>),
    Slice(Key, Option<Box<EndpointSlice>>),
}

impl Done {
    /// Whether what was asked for stands there.
    fn keeps(&self, change: &Change) -> bool {
        match self {
            Self::Service(_, service) => change.is_kept_by(service.as_deref(), None),
            Self::Slice(_, slice) => change.is_kept_by(None, slice.as_deref()),
        }
    }
}

pub(super) async fn write_to(store: &impl Store, pod: &str, mut signs: Signs) {
    let mut memory = Memory::default();
    loop {
        let leaving = *signs.leaving.borrow_and_update();
        let leading = *signs.leading.borrow_and_update();
        let (pass, peers) =
            (signs.passes.borrow_and_update().clone(), signs.peers.borrow_and_update().clone());
        let mut done = true;
        match (leading, pass, peers) {
            (true, Some(pass), Some(mut peers)) => {
                if leaving && let Some(own) = Arc::make_mut(&mut peers).pods.get_mut(pod) {
                    own.leave();
                }
                done = memory.write(store, &pass, &peers).await;
            }
            (true, ..) => {}
            (false, ..) => memory = Memory::default(),
        }
        if leaving && done {
            return;
        }
        let next = memory.next();
        tokio::select! {
            changed = signs.passes.changed() => if changed.is_err() { return },
            Ok(()) = signs.peers.changed() => {}
            Ok(()) = signs.leading.changed() => {}
            Ok(()) = signs.leaving.changed() => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
        sleep(PAUSE).await;
    }
}

/// What the writer remembers between two looks.
#[derive(Default)]
struct Memory {
    written: Written,
    written_at: BTreeMap<Target, Instant>,
    failed: BTreeMap<Target, Failure>,
    problems: BTreeSet<String>,
    /// There was more to do than one batch.
    unfinished: bool,
}

struct Failure {
    again: Instant,
    wait: Duration,
}

impl Memory {
    /// When to look again, though nothing changed.
    fn next(&self) -> Option<Instant> {
        if self.unfinished {
            return Some(Instant::now());
        }
        self.failed.values().map(|failure| failure.again).min()
    }

    /// Writes the differences, at most a batch of them. Whether nothing is left to do.
    async fn write(&mut self, store: &impl Store, pass: &Pass, peers: &Peers) -> bool {
        let start = Instant::now();
        self.forget(&pass.cluster, start);
        let plan = plan(&pass.cluster, &pass.graph, peers, &self.written);
        for problem in plan.problems.difference(&self.problems) {
            log::error!("{problem}");
        }
        self.problems = plan.problems;
        let targets: BTreeSet<Target> = plan.changes.iter().map(Change::target).collect();
        self.failed.retain(|target, _| targets.contains(target));
        let waits = |target: &Target| self.failed.get(target).is_some_and(|failure| failure.again > start);
        let all_done = plan.changes.is_empty();
        let mut due: Vec<_> = plan.changes.into_iter().filter(|change| !waits(&change.target())).collect();
        self.unfinished = due.len() > BATCH;
        due.truncate(BATCH);
        let full = due.len() == BATCH;
        let results: Vec<_> = stream::iter(due)
            .map(|change| async move {
                let result = timeout(WRITE_BOUND, store.write(&change)).await;
                (change, result)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (change, result) in results {
            let target = change.target();
            match result {
                Ok(Ok(done)) if done.keeps(&change) => {
                    self.failed.remove(&target);
                    self.remember(target, done);
                }
                Ok(Ok(done)) => {
                    self.remember(target.clone(), done);
                    self.fail(target, "somebody else changes what is written");
                }
                Ok(Err(error)) => self.fail(target, &error.to_string()),
                Err(_) => self.fail(target, "the API server does not answer"),
            }
        }
        if full {
            sleep_until(start + BATCH_TIME).await;
        }
        all_done
    }

    fn remember(&mut self, target: Target, done: Done) {
        match done {
            Done::Service(key, service) => drop(self.written.services.insert(key, service.map(|s| *s))),
            Done::Slice(key, slice) => drop(self.written.slices.insert(key, slice.map(|s| *s))),
        }
        self.written_at.insert(target, Instant::now());
        // Slices follow what was just written.
        self.unfinished = true;
    }

    fn fail(&mut self, target: Target, error: &str) {
        let (first, last) = RETRY_AFTER;
        let wait = self.failed.get(&target).map_or(first, |failure| (failure.wait * 2).min(last));
        if wait == first {
            log::warn!("{target:?} cannot be written, and is tried again: {error}");
        }
        self.failed.insert(target, Failure { again: Instant::now() + wait, wait });
    }

    /// Forgets what was written once it shows in the cluster.
    fn forget(&mut self, cluster: &Cluster, now: Instant) {
        let shown = |target: &Target| match target {
            Target::Service(key) => {
                let seen = cluster.services.get(key).map(|service| &service.value.metadata);
                let wrote = self.written.services.get(key).and_then(Option::as_ref).map(|s| &s.metadata);
                seen.map(|seen| &seen.resource_version) == wrote.map(|wrote| &wrote.resource_version)
            }
            Target::Slice(key) => {
                let seen = cluster.endpoint_slices.get(key).map(|slice| &slice.value.metadata);
                let wrote = self.written.slices.get(key).and_then(Option::as_ref).map(|s| &s.metadata);
                seen.map(|seen| &seen.resource_version) == wrote.map(|wrote| &wrote.resource_version)
            }
        };
        let known: Vec<_> = self
            .written_at
            .iter()
            .filter(|(target, at)| now.duration_since(**at) > BELIEVED_FOR || shown(target))
            .map(|(target, _)| target.clone())
            .collect();
        for target in known {
            self.written_at.remove(&target);
            match target {
                Target::Service(key) => drop(self.written.services.remove(&key)),
                Target::Slice(key) => drop(self.written.slices.remove(&key)),
            }
        }
    }
}

/// The cluster's API server.
struct ApiServer(Client);

impl Store for ApiServer {
    async fn write(&self, change: &Change) -> Result<Done, kube::Error> {
        // Fields that others set stay; those that are ours are ours again.
        let apply = PatchParams::apply(FIELD_MANAGER).force();
        let services = |key: &Key| Api::<Service>::namespaced(self.0.clone(), &key.namespace);
        let slices = |key: &Key| Api::<EndpointSlice>::namespaced(self.0.clone(), &key.namespace);
        match change {
            Change::ApplyService(service) => {
                let key = key_of(&service.metadata);
                let patch = Patch::Apply(service);
                let written = services(&key).patch(&key.name, &apply, &patch).await?;
                log::info!("Service {key} leads to the gateway");
                Ok(Done::Service(key, Some(Box::new(written))))
            }
            Change::ApplySlice(slice) => {
                let key = key_of(&slice.metadata);
                let written = slices(&key).patch(&key.name, &apply, &Patch::Apply(slice)).await?;
                Ok(Done::Slice(key, Some(Box::new(written))))
            }
            Change::DeleteService { key, uid } => {
                gone(services(key).delete(&key.name, &only(uid)).await)?;
                log::info!("Service {key} is removed: no Gateway here wants it");
                Ok(Done::Service(key.clone(), None))
            }
            Change::DeleteSlice { key, uid } => {
                gone(slices(key).delete(&key.name, &only(uid)).await)?;
                Ok(Done::Slice(key.clone(), None))
            }
        }
    }
}

fn only(uid: &Option<String>) -> DeleteParams {
    let preconditions = uid.clone().map(|uid| Preconditions { uid: Some(uid), resource_version: None });
    DeleteParams { preconditions, ..DeleteParams::default() }
}

/// What is gone already is as good as removed.
fn gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other.map(drop),
    }
}
