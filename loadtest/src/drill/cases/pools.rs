//! Pools with several members, and both pools dead.

use std::time::Duration;

use understudy_testbed::Behaviour;

use super::{ACTIVE, DEFAULT_RETRY, NO_RETRY, kill};
use crate::drill::case::{Action, Case, Load, LoadKind, Plan, Step, Who};
use crate::manifests::{RETRY, Setup, passive, task_passive};

/// Requests before shares are counted, so that the dead are known as such.
const WARM_UP: Load =
    Load { kind: LoadKind::Rate(20), lasting: Duration::from_millis(2500), actions: Vec::new() };

pub(super) fn three_primaries() -> Case {
    let mut plans = Vec::new();
    for (percent, deaths) in [(100, 0..=3), (10, 1..=3)] {
        for dead in deaths {
            let mut steps = vec![Step::Requests(10)];
            steps.extend((0..dead).map(|index| Step::Act(Action::Kill(Who::Primary(index)))));
            steps.extend([Step::Load(WARM_UP), Step::CountShares, Step::Burst(2000)]);
            // Longer than the run, so that no return disturbs the shares.
            let setup = Setup { primaries: 3, ..Setup::task(passive("60s", "2s", percent)) };
            plans.push(Plan::new(format!("{dead} dead, maxEjectionPercent {percent}"), setup, steps));
        }
    }
    Case { id: "7", title: "3 primaries, 2,000 requests", plans }
}

pub(super) fn all_is_lost() -> Case {
    let load = Load { kind: LoadKind::Rate(8), lasting: Duration::from_secs(3), actions: Vec::new() };
    let refused = [kill(), Action::Kill(Who::Fallback)];
    let broken = [ACTIVE, Who::Fallback].map(|who| Action::Always(who, Behaviour::Status(500)));
    let plan = |label: String, retry: &str, faults: &[Action]| {
        let mut steps: Vec<Step> = faults.iter().cloned().map(Step::Act).collect();
        steps.push(Step::Load(load.clone()));
        Plan::new(label, Setup::task(task_passive() + retry), steps)
    };
    Case {
        id: "8",
        title: "both pools dead, 24 requests in 3 s",
        plans: vec![
            plan(format!("ports closed, {NO_RETRY}"), "", &refused),
            plan(format!("ports closed, {DEFAULT_RETRY}"), RETRY, &refused),
            plan(format!("both answer 500, {NO_RETRY}"), "", &broken),
        ],
    }
}
