//! Writes the conditions of Backends: only where this sidecar leads, only what differs, and never too much.

mod ledger;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::cluster::Key;
use crate::lease::ServingSidecar;
use crate::pass::Pass;
use crate::visible::budget::Bucket;
use crate::visible::condition::Condition;
use crate::visible::inventory::{self, BackendInfo};
use crate::visible::join;
use crate::visible::summary::NodeSummary;
use ledger::{Ledger, written_in};

/// Under which name our conditions are applied. Other conditions belong to others.
pub(crate) const MANAGER: &str = "understudy-health";
/// Changes within this time are one.
const COALESCE: Duration = Duration::from_millis(250);
/// Writes at once, over all Backends, and how long one more takes.
const BURST: u32 = 20;
const EVERY: Duration = Duration::from_millis(100);
/// A request that takes longer is given up.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
/// The pause after a list that failed.
const LIST_RETRY: Duration = Duration::from_secs(5);
/// Objects of one page.
const PAGE: u32 = 500;

/// Writes conditions.
pub(crate) struct Writer {
    pub(crate) client: kube::Client,
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    pub(crate) leading: watch::Receiver<bool>,
    pub(crate) sidecars: watch::Receiver<Option<Arc<[ServingSidecar]>>>,
}

/// What a Backend's conditions should be.
pub(crate) struct Wanted {
    pub(crate) info: BackendInfo,
    pub(crate) conditions: Vec<Condition>,
}

impl Writer {
    /// Runs until the channel of passes closes.
    pub(crate) async fn run(mut self) {
        let start = Instant::now();
        let mut ledger: Option<Ledger> = None;
        let mut bucket = Bucket::new(BURST, EVERY, Duration::ZERO);
        loop {
            let mut next = None;
            if *self.leading.borrow_and_update() {
                let wanted = self.wanted();
                if ledger.is_none() && !wanted.is_empty() {
                    ledger = Box::pin(self.list(start.elapsed())).await;
                    next = ledger.is_none().then(|| Instant::now() + LIST_RETRY);
                }
                if let Some(ledger) = &mut ledger {
                    next = Box::pin(self.write(ledger, &wanted, &mut bucket, start)).await;
                }
            } else {
                // Somebody else writes now: what stands there is to be read anew.
                ledger = None;
            }
            let until_next = async {
                match next {
                    Some(next) => sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            let changed = tokio::select! {
                changed = self.passes.changed() => changed,
                changed = self.leading.changed() => changed,
                changed = self.sidecars.changed() => changed,
                () = until_next => Ok(()),
            };
            if changed.is_err() {
                return;
            }
            sleep(COALESCE).await;
        }
    }

    fn wanted(&mut self) -> BTreeMap<Key, Wanted> {
        let Some(pass) = self.passes.borrow_and_update().clone() else { return BTreeMap::new() };
        // Until the Leases are known nothing is.
        let Some(sidecars) = self.sidecars.borrow_and_update().clone() else { return BTreeMap::new() };
        let summary = |sidecar: &ServingSidecar| {
            Some((sidecar.node.clone(), NodeSummary::parse(sidecar.pools.as_deref()?)?))
        };
        let nodes: BTreeMap<String, NodeSummary> = sidecars.iter().filter_map(summary).collect();
        let wanted = inventory::backends(&pass).into_iter().map(|(key, info)| {
            let conditions = join::conditions(&key, &info, &nodes);
            (key, Wanted { info, conditions })
        });
        wanted.collect()
    }

    /// What stands at the API server, so that nothing is written again after a change of the leader.
    async fn list(&self, now: Duration) -> Option<Ledger> {
        let backends: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource());
        let mut ledger = Ledger::default();
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match timeout(REQUEST_LIMIT, backends.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    log::warn!("the conditions of Backends cannot be read, and are tried again: {error}");
                    return None;
                }
                Err(_) => return None,
            };
            for object in &page.items {
                let metadata = &object.metadata;
                if let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) {
                    let written = written_in(&object.data["status"]);
                    ledger.remember(Key::new(namespace, name), metadata.uid.clone(), written, now);
                }
            }
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => return Some(ledger),
            }
        }
    }

    /// Writes what differs and may be written. Says when to look again.
    async fn write(
        &self,
        ledger: &mut Ledger,
        wanted: &BTreeMap<Key, Wanted>,
        bucket: &mut Bucket,
        start: Instant,
    ) -> Option<Instant> {
        let (due, mut next) = ledger.due(wanted, start.elapsed());
        for key in due {
            let now = start.elapsed();
            if !bucket.take(now) {
                next = next.into_iter().chain([bucket.ready_at(now)]).min();
                break;
            }
            // Leading may end at any moment.
            if !*self.leading.borrow() {
                return None;
            }
            let Some(wanted) = wanted.get(&key) else { continue };
            let conditions =
                ledger.conditions(&key, wanted, &Timestamp::now().strftime("%FT%TZ").to_string());
            let patch = ledger::patch(&key, wanted, &conditions);
            let backends: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &key.namespace, &resource());
            let params = PatchParams::apply(MANAGER).force();
            let applied =
                timeout(REQUEST_LIMIT, backends.patch_status(&key.name, &params, &Patch::Apply(&patch)))
                    .await;
            let failure = match applied {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {REQUEST_LIMIT:?}")),
            };
            match failure {
                None => ledger.written(&key, conditions, start.elapsed()),
                Some(why) => {
                    log::debug!("the conditions of Backend {key} are not written yet: {why}");
                    let again = ledger.failed(&key, start.elapsed());
                    next = next.into_iter().chain([again]).min();
                }
            }
        }
        next.map(|next| start + next)
    }
}

fn resource() -> ApiResource {
    let kind = GroupVersionKind::gvk(understudy_crds::GROUP, understudy_crds::VERSION, "Backend");
    ApiResource::from_gvk_with_plural(&kind, "backends")
}
