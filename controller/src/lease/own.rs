//! The Lease of this sidecar, by which the leader knows that it is there and what it serves.
//!
//! Inputs: what the proxy serves, and what it says of its pools. Outputs: the Lease `understudy-node-NODE`, renewed
//! slowly, and at once where its content changes. While two pods of one node overlap in a rolling update, the Lease
//! belongs to the newer one: it takes the Lease, and the older one leaves it alone from then on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use super::content::{LABEL, to_annotations};
use super::sidecars::STALE;
use super::{REQUEST_LIMIT, Served, ServingSidecar};
use crate::Sidecar;

/// How often the Lease is renewed while nothing changes.
const RENEW: Duration = Duration::from_secs(10);
/// How often it is written at most.
const SPACING: Duration = Duration::from_secs(1);
/// After a failure the next attempt comes after this, and after twice as long each time, up to `RENEW`.
const RETRY: Duration = Duration::from_secs(1);

/// The name of a node's Lease. Nodes with names too long for one share a Lease with nodes of the same beginning.
pub(super) fn lease_name(node: &str) -> String {
    let name = format!("understudy-node-{node}");
    name.chars().take(253).collect::<String>().trim_end_matches(['-', '.']).to_owned()
}

/// Keeps the Lease until `shutdown` is ready, then removes it.
pub(crate) async fn run(
    client: Client,
    sidecar: Arc<Sidecar>,
    served: watch::Receiver<Served>,
    pools: watch::Receiver<Option<String>>,
    shutdown: impl Future<Output = ()>,
) {
    let mut own = Own {
        api: Api::namespaced(client, &sidecar.namespace),
        name: lease_name(&sidecar.node),
        sidecar,
        served,
        pools,
        version: None,
        succeeded: None,
    };
    tokio::select! {
        () = shutdown => {}
        () = own.keep() => {}
    }
    own.remove().await;
}

struct Own {
    api: Api<Lease>,
    name: String,
    sidecar: Arc<Sidecar>,
    served: watch::Receiver<Served>,
    pools: watch::Receiver<Option<String>>,
    /// The version that this sidecar wrote.
    version: Option<String>,
    /// The version that a newer pod of this node wrote, and since when it looks like that.
    succeeded: Option<(String, Instant)>,
}

impl Own {
    async fn keep(&mut self) {
        let mut backoff = RETRY;
        loop {
            let content = self.content();
            let began = Instant::now();
            let next = match self.write(&content).await {
                Ok(()) => {
                    backoff = RETRY;
                    began + RENEW
                }
                Err(error) => {
                    log::warn!("the Lease {} cannot be written: {error}", self.name);
                    backoff = (backoff * 2).min(RENEW);
                    began + backoff
                }
            };
            sleep_until(began + SPACING).await;
            // What changes in the meantime is written together.
            while self.content() == content && Instant::now() < next {
                tokio::select! {
                    () = sleep_until(next) => {}
                    // A sender that is gone says nothing new, and must not make this spin.
                    Ok(()) = self.served.changed() => {}
                    Ok(()) = self.pools.changed() => {}
                }
            }
            if backoff > RETRY {
                sleep_until(next).await;
            }
        }
    }

    fn content(&mut self) -> BTreeMap<String, String> {
        let served = self.served.borrow_and_update().clone();
        to_annotations(&ServingSidecar {
            node: self.sidecar.node.clone(),
            gateways: served.generations.gateways.clone(),
            sets: served.generations.sets.clone(),
            degraded: served.degraded,
            pools: self.pools.borrow_and_update().clone(),
        })
    }

    async fn write(&mut self, annotations: &BTreeMap<String, String>) -> Result<(), String> {
        // The first write takes the Lease over from whoever had it; after that only what was written here is replaced.
        if self.version.is_none() {
            match request(self.api.get_opt(&self.name)).await?.map_err(|error| error.to_string())? {
                Some(lease) => self.find(&lease),
                None => return self.create(annotations).await,
            }
        }
        let Some(version) = self.version.clone() else { return Ok(()) };
        let lease = self.lease(annotations, Some(version));
        match request(self.api.replace(&self.name, &params(), &lease)).await? {
            Ok(lease) => self.version = lease.metadata.resource_version,
            Err(kube::Error::Api(status)) if status.code == 404 => self.version = None,
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.version = None;
                return self.step_back().await;
            }
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    async fn create(&mut self, annotations: &BTreeMap<String, String>) -> Result<(), String> {
        match request(self.api.create(&params(), &self.lease(annotations, None))).await? {
            Ok(lease) => self.version = lease.metadata.resource_version,
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Takes a Lease that is there, unless it belongs to a newer pod that is still alive.
    fn find(&mut self, lease: &Lease) {
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if let Some((known, since)) = &self.succeeded {
            if *known != version {
                self.succeeded = Some((version, Instant::now()));
                return;
            }
            if since.elapsed() < STALE {
                return;
            }
            self.succeeded = None;
        }
        self.version = Some(version);
    }

    /// Somebody else wrote: a newer pod of this node, unless it was this one and the answer was lost.
    async fn step_back(&mut self) -> Result<(), String> {
        let found = request(self.api.get_opt(&self.name)).await?.map_err(|error| error.to_string())?;
        let Some(lease) = found else { return Ok(()) };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
        if holder != Some(self.sidecar.pod.as_str()) {
            log::info!(
                "the Lease {} belongs to a newer pod of this node: {}",
                self.name,
                holder.unwrap_or("?")
            );
            self.succeeded = Some((lease.metadata.resource_version.unwrap_or_default(), Instant::now()));
        }
        Ok(())
    }

    fn lease(&self, annotations: &BTreeMap<String, String>, version: Option<String>) -> Lease {
        Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                resource_version: version,
                labels: Some([(LABEL.to_owned(), "true".to_owned())].into()),
                annotations: Some(annotations.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.sidecar.pod.clone()),
                lease_duration_seconds: i32::try_from(STALE.as_secs()).ok(),
                renew_time: Some(MicroTime(jiff::Timestamp::now())),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Removes the Lease, so that nobody waits for this sidecar; one that a newer pod wrote stays.
    async fn remove(&mut self) {
        let Some(version) = self.version.take() else { return };
        let preconditions = Preconditions { resource_version: Some(version), uid: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        match request(self.api.delete(&self.name, &params)).await {
            Ok(Ok(_)) => {}
            Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {}
            Ok(Err(error)) => log::warn!("the Lease {} is not removed, so it runs out: {error}", self.name),
            Err(error) => log::warn!("the Lease {} is not removed, so it runs out: {error}", self.name),
        }
    }
}

fn params() -> PostParams {
    PostParams { field_manager: Some("understudy".to_owned()), ..PostParams::default() }
}

/// A request with its time limit.
async fn request<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Result<T, kube::Error>, String> {
    timeout(REQUEST_LIMIT, request).await.map_err(|_| format!("no answer within {REQUEST_LIMIT:?}"))
}

#[cfg(test)]
#[path = "own_tests.rs"]
mod tests;
