//! Leases: which sidecar writes, and what each one serves.
//!
//! Inputs: Leases in the installation's namespace, what the proxy beside acknowledges, and the passes. Outputs:
//! whether this sidecar leads ([`leader`]); its own Lease, which carries what it serves ([`own`]); and, for the
//! leader, what every ready sidecar serves ([`sidecars`]).
//!
//! Nobody's clock but our own is believed: a Lease is as old as the time since it was last seen to change. Decisions
//! are pure and take `now`.

mod content;
mod election;
mod leader;
mod own;
mod served;
mod sidecars;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cluster::Key;

pub(crate) use leader::run as run_leader;
pub(crate) use own::run as run_own;
#[cfg(test)]
pub(crate) use served::Generations;
pub(crate) use served::{Served, run as run_served};
pub(crate) use sidecars::run as run_sidecars;

/// A request to the API server that takes longer is given up.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

/// What the proxy of a ready sidecar serves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ServingSidecar {
    /// The node that it runs on.
    pub(crate) node: String,
    /// Gateways with the generation of each that is served.
    pub(crate) gateways: BTreeMap<Key, i64>,
    /// ListenerSets with the generation of each that is served.
    pub(crate) sets: BTreeMap<Key, i64>,
    /// What of the state could not act there, in sentences.
    pub(crate) degraded: Vec<String>,
    /// What its proxy says of its pools, as it stands in the Lease.
    pub(crate) pools: Option<String>,
}
