//! Failover that users see with kubectl: Events, and conditions of Backends.
//!
//! Inputs: what the proxy beside reports (`conf::store::read_reports`), the passes, what the other sidecars' Leases say
//! of theirs, and whether this sidecar leads. Outputs, each bounded in size and rate, so that an endpoint that flaps
//! cannot flood the API server:
//!
//! - `story` → `events`: an Event on the route and on each Backend or Service, for every failover, failback, ejection
//!   and return that this sidecar's proxy saw. Written by every sidecar for its own node.
//! - `summary`: which Backends fail here, as the text that this sidecar's Lease carries.
//! - `join` → `writer`: the summaries of all sidecars as conditions of each Backend. Written by the leader.
//!
//! What to say is decided by pure functions that take `now`; `events` and `writer` do the writing.

mod budget;
mod condition;
mod events;
mod follow;
mod inventory;
mod join;
mod story;
mod subject;
mod summary;
#[cfg(test)]
mod tests;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;

use crate::Sidecar;
use crate::lease::ServingSidecar;
use crate::pass::Pass;

/// The summary is never longer than this, in bytes.
pub(crate) const MAX_SUMMARY: usize = 16 * 1024;

/// What failover is made visible with.
pub(crate) struct Visible {
    pub(crate) client: kube::Client,
    pub(crate) passes: watch::Receiver<Option<Arc<Pass>>>,
    pub(crate) sidecar: Arc<Sidecar>,
    /// Whether this sidecar holds the leader's Lease.
    pub(crate) leading: watch::Receiver<bool>,
    /// What every sidecar says of its proxy; the leader reads it.
    pub(crate) sidecars: watch::Receiver<Option<Arc<[ServingSidecar]>>>,
    /// The folder that this sidecar's proxy writes its reports to.
    pub(crate) state_dir: PathBuf,
    /// Gets the text for this sidecar's own Lease whenever it changes.
    pub(crate) summary: watch::Sender<Option<String>>,
}

/// Runs until the channel of passes closes.
pub(crate) async fn run(visible: Visible) {
    let Visible { client, passes, sidecar, leading, sidecars, state_dir, summary } = visible;
    let follower = follow::Follower {
        recorder: events::Recorder::new(client.clone(), &sidecar),
        passes: passes.clone(),
        node: sidecar.node.clone(),
        state_dir,
        summary,
    };
    let writer = writer::Writer { client, passes, leading, sidecars };
    tokio::join!(Box::pin(follower.run()), Box::pin(writer.run()));
}
