//! The leader Lease: acquired, renewed and released.
//!
//! Inputs: the API server. Outputs: whether this sidecar leads. It says no before any other sidecar can think that
//! the Lease is free, whether or not the API server answers.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::REQUEST_LIMIT;
use super::election::{Seen, Step, TIMING, decide};
use crate::Sidecar;

/// The name of the Lease.
pub(crate) const LEASE: &str = "understudy-leader";

/// Takes part in the election until `shutdown` is ready, then releases the Lease.
pub(crate) async fn run(
    client: Client,
    sidecar: Arc<Sidecar>,
    leading: watch::Sender<bool>,
    shutdown: impl Future<Output = ()>,
) {
    let (valid_until, validity) = watch::channel(None);
    let api = Api::namespaced(client, &sidecar.namespace);
    let mut candidate = Candidate { api, me: sidecar.pod.clone(), seen: None, acquired: None, valid_until };
    tokio::select! {
        () = shutdown => {}
        () = candidate.campaign() => {}
        () = guard(&leading, validity) => {}
    }
    set(&leading, false);
    candidate.release().await;
}

/// Says that this sidecar leads as long as its tenure is valid, even while a request hangs.
async fn guard(leading: &watch::Sender<bool>, mut validity: watch::Receiver<Option<Instant>>) {
    loop {
        let until = *validity.borrow_and_update();
        let Some(until) = until.filter(|until| *until > Instant::now()) else {
            set(leading, false);
            if validity.changed().await.is_err() {
                return;
            }
            continue;
        };
        set(leading, true);
        tokio::select! {
            () = sleep_until(until) => {}
            changed = validity.changed() => if changed.is_err() { return },
        }
    }
}

fn set(leading: &watch::Sender<bool>, value: bool) {
    let changed = leading.send_if_modified(|known| std::mem::replace(known, value) != value);
    if changed {
        log::info!(
            "this sidecar {}",
            if value { "leads: it writes statuses" } else { "does not lead any more" }
        );
    }
}

struct Candidate {
    api: Api<Lease>,
    me: String,
    seen: Option<Seen>,
    /// Since when this sidecar has it.
    acquired: Option<MicroTime>,
    /// Until when this sidecar may write.
    valid_until: watch::Sender<Option<Instant>>,
}

/// What a request came to.
enum Answer {
    Lease(Box<Lease>),
    /// There is no Lease.
    Absent,
    /// Somebody else was faster.
    Conflict,
    Failed(String),
}

impl Candidate {
    async fn campaign(&mut self) {
        self.look().await;
        loop {
            match decide(self.seen.as_ref(), &self.me, Instant::now(), &TIMING) {
                Step::Wait(time) => {
                    sleep(time).await;
                    self.look().await;
                }
                Step::Write => self.write().await,
            }
        }
    }

    async fn look(&mut self) {
        match ask(self.api.get(LEASE)).await {
            Answer::Lease(lease) => self.observe(&lease),
            Answer::Absent => self.seen = None,
            Answer::Conflict => {}
            Answer::Failed(error) => {
                log::debug!("the Lease {LEASE} cannot be read: {error}");
                sleep(TIMING.retry).await;
            }
        }
    }

    fn observe(&mut self, lease: &Lease) {
        let seen = Seen::observe(self.seen.as_ref(), lease, Instant::now());
        if seen.holder == self.me {
            self.acquired = lease.spec.as_ref().and_then(|spec| spec.acquire_time.clone());
        } else {
            self.acquired = None;
            self.valid_until.send_replace(None);
        }
        self.seen = Some(seen);
    }

    async fn write(&mut self) {
        let sent = Instant::now();
        let lease = self.lease(&self.me);
        let params = PostParams { field_manager: Some("understudy".to_owned()), ..PostParams::default() };
        let answer = match &self.seen {
            None => ask(self.api.create(&params, &lease)).await,
            Some(_) => ask(self.api.replace(LEASE, &params, &lease)).await,
        };
        match answer {
            Answer::Lease(lease) => {
                self.observe(&lease);
                // Others count from when they see the Lease, which is after it was sent.
                self.valid_until.send_replace(Some(sent + TIMING.duration - TIMING.margin));
                sleep(TIMING.renew).await;
            }
            Answer::Conflict | Answer::Absent => {
                self.look().await;
                // Two that are always equally fast would otherwise spin.
                sleep(TIMING.retry / 20).await;
            }
            Answer::Failed(error) => {
                log::warn!("the Lease {LEASE} cannot be written: {error}");
                sleep(TIMING.retry / 2).await;
                // What the API server did with the request is not known.
                self.look().await;
            }
        }
    }

    fn lease(&self, holder: &str) -> Lease {
        let now = MicroTime(jiff::Timestamp::now());
        let version = self.seen.as_ref().map(|seen| seen.version.clone());
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(TIMING.duration.as_secs()).ok(),
                acquire_time: Some(self.acquired.clone().unwrap_or_else(|| now.clone())),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        }
    }

    /// Lets the others lead at once.
    async fn release(&mut self) {
        if self.seen.as_ref().is_some_and(|seen| seen.holder == self.me) {
            let lease = self.lease("");
            if let Answer::Failed(error) = ask(self.api.replace(LEASE, &PostParams::default(), &lease)).await
            {
                log::warn!("the Lease {LEASE} is not released, so it runs out: {error}");
            }
        }
    }
}

async fn ask(request: impl Future<Output = Result<Lease, kube::Error>>) -> Answer {
    match timeout(REQUEST_LIMIT, request).await {
        Ok(Ok(lease)) => Answer::Lease(Box::new(lease)),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Answer::Absent,
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Answer::Conflict,
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed(format!("no answer within {REQUEST_LIMIT:?}")),
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
