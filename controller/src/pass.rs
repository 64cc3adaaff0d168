//! One pass over a live cluster: what it held, and what that came to.
//!
//! Whatever writes back to the API server (statuses, the Services of Gateways, Events) reads passes and nothing
//! else, so that what is written belongs together.

use std::sync::Arc;

use crate::cluster::Cluster;
use crate::diagnostics::Diagnostic;
use crate::graph::Graph;

/// What one pass came to. Made after its state was published.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    /// Every object, as it was watched.
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) graph: Arc<Graph>,
    /// What was found, sorted.
    pub(crate) diagnostics: Arc<[Diagnostic]>,
    /// The version under which the state was published. Each controller counts for itself.
    pub(crate) version: u64,
}
