//! What the sidecars of all nodes serve, for the leader.
//!
//! Inputs: the Leases of sidecars, watched. Outputs: those that are fresh, with what they serve. A Lease that does not
//! change for [`STALE`] does not count, and after [`FORGET`] the leader deletes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{DeleteParams, Preconditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::content::{LABEL, from_lease};
use super::{REQUEST_LIMIT, ServingSidecar};
use crate::Sidecar;

/// A Lease that did not change for this long does not count: its sidecar missed three renewals.
pub(super) const STALE: Duration = Duration::from_secs(40);
/// A Lease that did not change for this long is deleted.
const FORGET: Duration = Duration::from_secs(600);
/// How often the ages are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Follows the Leases while this sidecar leads; `None` says that they are not known yet.
pub(crate) async fn run(
    client: Client,
    sidecar: Arc<Sidecar>,
    mut leading: watch::Receiver<bool>,
    sidecars: watch::Sender<Option<Arc<[ServingSidecar]>>>,
) {
    let api: Api<Lease> = Api::namespaced(client, &sidecar.namespace);
    loop {
        if leading.wait_for(|leading| *leading).await.is_err() {
            return;
        }
        tokio::select! {
            () = follow(&api, &sidecars) => {}
            lost = leading.wait_for(|leading| !*leading) => if lost.is_err() { return },
        }
        sidecars.send_replace(None);
    }
}

async fn follow(api: &Api<Lease>, sidecars: &watch::Sender<Option<Arc<[ServingSidecar]>>>) {
    let mut known = Known::default();
    let mut events = watcher(api.clone(), watcher::Config::default().labels(LABEL)).boxed();
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut listed = false;
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(Ok(Event::Init)) => known.begin(),
                Some(Ok(Event::InitApply(lease) | Event::Apply(lease))) => known.apply(&lease, Instant::now()),
                Some(Ok(Event::InitDone)) => {
                    known.end();
                    listed = true;
                }
                Some(Ok(Event::Delete(lease))) => known.delete(&lease),
                Some(Err(error)) => {
                    log::debug!("the Leases of sidecars cannot be watched: {error}");
                    sleep(LOOK).await;
                }
            },
            _ = looks.tick() => known.forget(api, Instant::now()).await,
        }
        if listed {
            let fresh: Arc<[_]> = known.fresh(Instant::now()).into();
            sidecars.send_if_modified(|last| {
                let changed = last.as_deref() != Some(&*fresh);
                if changed {
                    *last = Some(fresh);
                }
                changed
            });
        }
    }
}

struct Entry {
    version: String,
    sidecar: ServingSidecar,
    /// Since when it looks like that.
    since: Instant,
    /// Whether it is in the list that is being read.
    listed: bool,
}

/// The Leases as they were last seen, by name.
#[derive(Default)]
struct Known {
    entries: BTreeMap<String, Entry>,
    /// Whether the first list was read: what was there before it is as old as it says.
    complete: bool,
}

impl Known {
    fn begin(&mut self) {
        self.entries.values_mut().for_each(|entry| entry.listed = false);
    }

    fn end(&mut self) {
        self.entries.retain(|_, entry| entry.listed);
        self.complete = true;
    }

    fn apply(&mut self, lease: &Lease, now: Instant) {
        let (Some(name), Some(sidecar)) = (lease.metadata.name.clone(), from_lease(lease)) else { return };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let mut since = now;
        match self.entries.get(&name) {
            Some(entry) if entry.version == version => since = entry.since,
            // Its sidecar may be long gone; if it lives, its next renewal says so.
            None if !self.complete && is_old(lease) => since = now.checked_sub(STALE).unwrap_or(now),
            _ => {}
        }
        self.entries.insert(name, Entry { version, sidecar, since, listed: true });
    }

    fn delete(&mut self, lease: &Lease) {
        if let Some(name) = &lease.metadata.name {
            self.entries.remove(name);
        }
    }

    /// The sidecars that are there, by the names of their Leases.
    fn fresh(&self, now: Instant) -> Vec<ServingSidecar> {
        let entries = self.entries.values();
        entries.filter(|entry| now - entry.since < STALE).map(|entry| entry.sidecar.clone()).collect()
    }

    /// Deletes one Lease that nobody renews any more.
    async fn forget(&mut self, api: &Api<Lease>, now: Instant) {
        let old = self.entries.iter_mut().find(|(_, entry)| now - entry.since >= FORGET);
        let Some((name, entry)) = old else { return };
        let preconditions = Preconditions { resource_version: Some(entry.version.clone()), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        if let Ok(Err(error)) = timeout(REQUEST_LIMIT, api.delete(name, &params)).await {
            log::debug!("the Lease {name} cannot be deleted: {error}");
        }
        // Whatever came of it: not again before it is old once more.
        entry.since = now.checked_sub(STALE).unwrap_or(now);
    }
}

fn is_old(lease: &Lease) -> bool {
    let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref());
    renewed.is_some_and(|renewed| {
        let age = jiff::Timestamp::now().as_second() - renewed.0.as_second();
        age > i64::try_from(STALE.as_secs()).unwrap_or(i64::MAX)
    })
}

#[cfg(test)]
#[path = "sidecars_tests.rs"]
mod tests;
