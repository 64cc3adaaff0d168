//! What is known without a client's request: active checks.

use std::time::Duration;

use understudy_testbed::Behaviour;

use super::{ACTIVE, kill};
use crate::drill::case::{Action, Case, Plan, Step};
use crate::manifests::Setup;

/// An HTTP check four times a second; two failures of the network are too many.
const ACTIVE_CHECK: &str = "  healthCheck:
    active:
      type: HTTP
      interval: 250ms
      timeout: 200ms
      unhealthyThreshold: 2
      healthyThreshold: 1
      http:
        path: /test
";

/// Several checks in a row.
const SEEN: Duration = Duration::from_secs(2);

/// Requests come only when the check has had its time, so that none of them is the one that finds out.
pub(super) fn active_check() -> Case {
    let faults = [
        ("answers 503", Action::Always(ACTIVE, Behaviour::Status(503))),
        ("hangs", Action::Always(ACTIVE, Behaviour::Hang)),
        ("port closed", kill()),
        ("black hole", Action::Blackhole(ACTIVE)),
    ];
    let plans = faults.into_iter().map(|(label, fault)| {
        let steps = vec![
            Step::Requests(10),
            Step::Act(fault),
            Step::Wait(SEEN),
            Step::Requests(10),
            Step::Act(Action::Heal(ACTIVE)),
            Step::Wait(SEEN),
            Step::Requests(10),
        ];
        Plan::new(label, Setup::task(ACTIVE_CHECK), steps).waits()
    });
    Case {
        id: "active-check",
        title: "primary breaks and heals under an active check, without detection and retries",
        plans: plans.collect(),
    }
}
