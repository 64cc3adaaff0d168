//! Failover and return with one primary backend.

use std::time::Duration;

use super::{ACTIVE, DEFAULT_RETRY, NO_RETRY, PRIORITY_RETRY, kill};
use crate::drill::case::{Action, Case, Plan, Step, Who};
use crate::drill::record::Side;
use crate::manifests::{RETRY, RETRY_PRIORITY, Setup, passive, task_passive};

/// The longest that a switch may take.
const RETURN: Duration = Duration::from_secs(30);

pub(super) fn all_up() -> Case {
    let plan = Plan::new(NO_RETRY, Setup::task(task_passive()), vec![Step::Requests(10)]);
    Case { id: "1", title: "10 requests, all up", plans: vec![plan] }
}

pub(super) fn port_closed() -> Case {
    let steps = vec![Step::Requests(10), Step::Act(kill()), Step::Requests(10)];
    let plan =
        |label: &str, retry: &str| Plan::new(label, Setup::task(task_passive() + retry), steps.clone());
    Case {
        id: "2",
        title: "10 requests, primary's port closes, 10 requests",
        plans: vec![plan(NO_RETRY, ""), plan(DEFAULT_RETRY, RETRY)],
    }
}

pub(super) fn returns() -> Case {
    let mut steps = vec![Step::Requests(5)];
    for _ in 0..3 {
        steps.extend([
            Step::Act(kill()),
            Step::Until(Side::Fallback, RETURN),
            Step::Act(Action::Heal(ACTIVE)),
            Step::Until(Side::Primary, RETURN),
        ]);
    }
    let plan = |label: &str, retry: &str| {
        Plan::new(label, Setup::task(passive("2s", "1s", 100) + retry), steps.clone())
            .waits()
            .limit(Duration::from_secs(120))
    };
    Case {
        id: "3",
        title: "three times killed and healed, base ejection time 2 s",
        plans: vec![plan(NO_RETRY, ""), plan(DEFAULT_RETRY, RETRY)],
    }
}

pub(super) fn no_ejection() -> Case {
    let plan = |label: String, dead: usize, policy: String, requests: usize| {
        let mut steps = vec![Step::Requests(5)];
        steps.extend((0..dead).map(|index| Step::Act(Action::Kill(Who::Primary(index)))));
        steps.push(Step::Requests(requests));
        Plan::new(label, Setup { primaries: dead, ..Setup::task(policy) }, steps)
    };
    let mut plans = Vec::new();
    for dead in [1, 3] {
        for (words, retry) in [(DEFAULT_RETRY, RETRY), (PRIORITY_RETRY, RETRY_PRIORITY)] {
            plans.push(plan(format!("{dead} dead, no detection, {words}"), dead, retry.to_owned(), 10));
        }
    }
    plans.push(plan(format!("3 dead, detection, {DEFAULT_RETRY}"), 3, task_passive() + RETRY, 30));
    Case { id: "15", title: "all primaries dead", plans }
}
