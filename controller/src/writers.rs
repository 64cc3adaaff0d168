//! Everything that writes to the API server, and when each of it ends.
//!
//! Inputs: passes, and the folder in which the proxy beside answers. Outputs: tasks, each of which reads passes. While the
//! pod is told to end, whoever leads first takes the pod out of what leads to it, and only then gives the Lease away.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::addresses::{self, Peers, Signs};
use crate::lease;
use crate::pass::Pass;
use crate::status;
use crate::visible::{self, Visible};
use crate::{Placement, Sidecar};

/// How long the pod may take to leave what leads to it.
const LEAVING: Duration = Duration::from_secs(5);
/// How long Leases may take to be given away.
const RELEASING: Duration = Duration::from_secs(3);

/// The writers of a sidecar.
pub(crate) struct Writers {
    leaving: watch::Sender<bool>,
    releasing: watch::Sender<bool>,
    /// What has to be written before the Leases are given away.
    withdrawing: JoinSet<()>,
    leases: JoinSet<()>,
    /// The pods that serve, as long as they are followed.
    peers: watch::Receiver<Option<Arc<Peers>>>,
    /// What just ends.
    _others: JoinSet<()>,
}

/// What the writers write about.
pub(crate) struct Subject {
    pub(crate) client: Client,
    pub(crate) sidecar: Arc<Sidecar>,
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    pub(crate) placement: Placement,
    /// The folder of the state, in which the proxy answers.
    pub(crate) folder: PathBuf,
}

impl Writers {
    /// Starts them.
    pub(crate) fn start(subject: &Subject) -> Self {
        let Subject { client, sidecar, passes, placement, folder } = subject;
        let (client, sidecar) = (|| client.clone(), || sidecar.clone());
        let (leaving, told_to_leave) = watch::channel(false);
        let (releasing, told_to_release) = watch::channel(false);
        let released = || {
            let mut told = told_to_release.clone();
            async move {
                // An error means that nobody is left to tell.
                let _ = told.wait_for(|told| *told).await;
            }
        };
        let (lead, leading) = watch::channel(false);
        let (serve, served) = watch::channel(lease::Served::default());
        let (join, sidecars) = watch::channel(None);
        let (summary, pools) = watch::channel(None);
        let mut leases = JoinSet::new();
        leases.spawn(lease::run_leader(client(), sidecar(), lead, released()));
        leases.spawn(lease::run_own(client(), sidecar(), served.clone(), pools, released()));
        let mut others = JoinSet::new();
        others.spawn(lease::run_served(folder.clone(), passes.clone(), serve));
        others.spawn(lease::run_sidecars(client(), sidecar(), leading.clone(), join));
        let (meet, peers) = watch::channel(None);
        if *placement != Placement::Local {
            others.spawn(addresses::follow_peers(client(), sidecar(), meet));
        }
        let (show, addresses) = watch::channel(Arc::default());
        others.spawn(addresses::follow_addresses(passes.clone(), peers.clone(), *placement, show));
        others.spawn(visible::run(Visible {
            client: client(),
            passes: passes.clone(),
            sidecar: sidecar(),
            leading: leading.clone(),
            sidecars: sidecars.clone(),
            state_dir: folder.clone(),
            summary,
        }));
        let sources =
            status::Sources { passes: passes.clone(), leading: leading.clone(), served, sidecars, addresses };
        others.spawn(status::run(client(), sidecar(), sources));
        let mut withdrawing = JoinSet::new();
        if let Placement::Service(_) = placement {
            let signs =
                Signs { passes: passes.clone(), peers: peers.clone(), leading, leaving: told_to_leave };
            withdrawing.spawn(addresses::run(client(), sidecar(), signs));
        }
        Self { leaving, releasing, withdrawing, leases, peers, _others: others }
    }

    /// The pods that serve; the sender is gone where Gateways are not placed in a cluster.
    pub(crate) fn peers(&self) -> watch::Receiver<Option<Arc<Peers>>> {
        self.peers.clone()
    }

    /// Ends them in order. Passes have to go on meanwhile.
    pub(crate) async fn end(mut self) {
        self.leaving.send_replace(true);
        if timeout(LEAVING, all(&mut self.withdrawing)).await.is_err() {
            log::warn!(
                "this pod may still stand in the EndpointSlices of Gateways: {LEAVING:?} were too short"
            );
        }
        self.releasing.send_replace(true);
        if timeout(RELEASING, all(&mut self.leases)).await.is_err() {
            log::warn!("the Leases run out by themselves: {RELEASING:?} were too short to give them away");
        }
    }
}

/// Waits until there are no more passes.
pub(crate) async fn ended(mut passes: watch::Receiver<Option<Arc<Pass>>>) {
    while passes.changed().await.is_ok() {}
}

async fn all(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            log::error!("a writer to the API server broke: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::FakeApi;

    #[tokio::test(start_paused = true)]
    async fn a_sidecar_that_ends_leaves_no_lease_behind() {
        let leases = "/apis/coordination.k8s.io/v1/namespaces/understudy-system/leases";
        let api = FakeApi::default();
        let folder = tempfile::tempdir().unwrap();
        let (_passes, passes) = watch::channel(None);
        let sidecar = Sidecar { namespace: "understudy-system".into(), pod: "p".into(), node: "n1".into() };
        let writers = Writers::start(&Subject {
            client: api.client(),
            sidecar: Arc::new(sidecar),
            passes,
            placement: Placement::Local,
            folder: folder.path().to_owned(),
        });
        let holder = || {
            api.get(&format!("{leases}/understudy-leader"))
                .map(|lease| lease["spec"]["holderIdentity"].clone())
        };
        while holder().is_none_or(|holder| holder != "p")
            || api.get(&format!("{leases}/understudy-node-n1")).is_none()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        writers.end().await;
        assert_eq!(api.get(&format!("{leases}/understudy-node-n1")), None);
        assert_eq!(holder().unwrap(), "");
    }
}
