//! Starts what writes to the API server about what this controller finds: Leases and statuses.
//!
//! Inputs: a client, the passes, who the sidecar is, and the folder that the proxy acknowledges in. Outputs: tasks
//! that end when there are no more passes (then the leader Lease is released and the sidecar's own is removed), and
//! what other writers follow: whether this sidecar leads, and what all sidecars serve.

use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::Sidecar;
use crate::lease::{self, Served, ServingSidecar};
use crate::pass::Pass;
use crate::status::{self, Addresses};

/// What the writers are told by others.
pub(crate) struct Told {
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    /// What stands in the sidecar's Lease about its pools.
    pub(crate) pools: watch::Receiver<Option<String>>,
    /// The addresses of Gateways.
    pub(crate) addresses: watch::Receiver<Arc<Addresses>>,
}

/// What the writers tell others.
#[derive(Clone)]
pub(crate) struct Known {
    /// Whether this sidecar leads: whoever writes about shared objects asks before every write.
    pub(crate) leading: watch::Receiver<bool>,
    /// What every ready sidecar serves; `None` where this one does not lead, or does not know yet.
    pub(crate) sidecars: watch::Receiver<Option<Arc<[ServingSidecar]>>>,
    /// What the proxy beside serves.
    pub(crate) served: watch::Receiver<Served>,
}

/// Starts the writers.
pub(crate) fn start(
    writers: &mut JoinSet<()>,
    client: &Client,
    sidecar: &Arc<Sidecar>,
    folder: PathBuf,
    told: Told,
) -> Known {
    let Told { passes, pools, addresses } = told;
    let (set_leading, leading) = watch::channel(false);
    let (set_sidecars, sidecars) = watch::channel(None);
    let (set_served, served) = watch::channel(Served::default());
    let end = || ended(passes.clone());
    writers.spawn(lease::run_leader(client.clone(), sidecar.clone(), set_leading, end()));
    writers.spawn(lease::run_served(folder, passes.clone(), set_served));
    writers.spawn(lease::run_own(client.clone(), sidecar.clone(), served.clone(), pools, end()));
    writers.spawn(lease::run_sidecars(client.clone(), sidecar.clone(), leading.clone(), set_sidecars));
    let known = Known { leading, sidecars, served };
    let sources = status::Sources {
        passes: passes.clone(),
        leading: known.leading.clone(),
        served: known.served.clone(),
        sidecars: known.sidecars.clone(),
        addresses,
    };
    writers.spawn(status::run(client.clone(), sidecar.clone(), sources));
    known
}

/// Waits until there are no more passes.
pub(crate) async fn ended(mut passes: watch::Receiver<Option<Arc<Pass>>>) {
    while passes.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::fake_api::FakeApi;

    #[tokio::test(start_paused = true)]
    async fn the_writers_end_with_the_passes_and_leave_no_lease_behind() {
        let leases = "/apis/coordination.k8s.io/v1/namespaces/understudy-system/leases";
        let api = FakeApi::default();
        let folder = tempfile::tempdir().unwrap();
        let (passes, of_passes) = watch::channel(None);
        let (_pools, pools) = watch::channel(None);
        let (_addresses, addresses) = watch::channel(Arc::default());
        let sidecar = Sidecar { namespace: "understudy-system".into(), pod: "p".into(), node: "n1".into() };
        let mut writers = JoinSet::new();
        let told = Told { passes: of_passes, pools, addresses };
        let mut known =
            start(&mut writers, &api.client(), &Arc::new(sidecar), folder.path().to_owned(), told);
        known.leading.wait_for(|leading| *leading).await.unwrap();
        known.sidecars.wait_for(Option::is_some).await.unwrap();
        while api.get(&format!("{leases}/understudy-node-n1")).is_none() {
            sleep(Duration::from_millis(10)).await;
        }
        drop(passes);
        let end = async { while writers.join_next().await.transpose().unwrap().is_some() {} };
        timeout(Duration::from_secs(5), end).await.unwrap();
        assert_eq!(api.get(&format!("{leases}/understudy-node-n1")), None);
        let leader = api.get(&format!("{leases}/understudy-leader")).unwrap();
        assert_eq!(leader["spec"]["holderIdentity"], "");
    }
}
