//! More requests than the primary pool has room for.

use std::time::Duration;

use super::NO_RETRY;
use crate::drill::case::{Case, Load, LoadKind, Plan, Step};
use crate::manifests::Setup;

/// Clients, each with one request at a time: more than fit into one pool, fewer than into both.
const CLIENTS: usize = 8;
/// How long a request keeps its place.
const DELAY: Duration = Duration::from_millis(50);

pub(super) fn overflow() -> Case {
    let runs = [
        ("room for 5 requests", "  circuitBreaker:\n    maxParallelRequests: 5\n"),
        ("5 connections, one waits", "  circuitBreaker:\n    maxConnections: 5\n    maxPendingRequests: 1\n"),
    ];
    let plans = runs.into_iter().map(|(label, policy)| {
        let load = Load {
            kind: LoadKind::Connections(CLIENTS),
            lasting: Duration::from_secs(2),
            actions: Vec::new(),
        };
        let setup = Setup { delay: DELAY, ..Setup::task(policy) };
        Plan::new(format!("{label}, {NO_RETRY}"), setup, vec![Step::Load(load)])
    });
    Case {
        id: "overflow",
        title: "8 clients at once before pools with room for 5 each",
        plans: plans.collect(),
    }
}
