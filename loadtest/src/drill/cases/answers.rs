//! Backends that answer badly, or not at all.

use understudy_testbed::Behaviour;

use super::{ACTIVE, DEFAULT_RETRY, NO_RETRY, good};
use crate::drill::case::{Action, Case, Plan, Step};
use crate::manifests::{RETRY, RETRY_RESET, Setup, passive_with, task_passive, timeouts};

fn garbage() -> Behaviour {
    Behaviour::Garbage(b"this is not HTTP\r\n\r\n".to_vec())
}

pub(super) fn one_bad_answer() -> Case {
    let answers = [
        ("500", Behaviour::Status(500)),
        ("503", Behaviour::Status(503)),
        ("404", Behaviour::Status(404)),
        ("RST", Behaviour::ResetBeforeHeaders),
        ("FIN", Behaviour::CloseBeforeHeaders),
        ("garbage", garbage()),
    ];
    let mut plans = Vec::new();
    for (name, behaviour) in answers {
        for (words, retry) in [(NO_RETRY, ""), (DEFAULT_RETRY, RETRY)] {
            let breaks = Action::Next(ACTIVE, vec![behaviour.clone()]);
            let steps = vec![Step::Requests(2), Step::Act(breaks), Step::Requests(7)];
            plans.push(Plan::new(format!("{name}, {words}"), Setup::task(task_passive() + retry), steps));
        }
    }
    Case { id: "4", title: "primary answers badly once", plans }
}

pub(super) fn silence() -> Case {
    let hangs = Step::Act(Action::Always(ACTIVE, Behaviour::Hang));
    let swallows = Step::Act(Action::Blackhole(ACTIVE));
    let per_try = format!("{RETRY_RESET}    perRetry:\n      timeout: 500ms\n");
    let runs = [
        ("hangs, request timeout 1 s", &hangs, timeouts("10s", "1s"), 10),
        ("hangs, per-try timeout 500 ms, retry with reset", &hangs, per_try, 10),
        ("black hole, connect timeout 1 s", &swallows, timeouts("1s", "15s"), 10),
        ("black hole, connect timeout 10 s, request timeout 1 s", &swallows, timeouts("10s", "1s"), 6),
    ];
    let plans = runs.into_iter().map(|(label, fault, policy, requests)| {
        let steps = vec![Step::Requests(2), fault.clone(), Step::Requests(requests)];
        Plan::new(label, Setup::task(task_passive() + &policy), steps).waits()
    });
    Case { id: "5", title: "primary falls silent", plans: plans.collect() }
}

pub(super) fn cut_body() -> Case {
    let answers = [
        ("RST", Behaviour::ResetMidBody),
        ("FIN", Behaviour::CloseMidBody),
        ("silence, request timeout 1 s", Behaviour::StallMidBody),
    ];
    let plans = answers.into_iter().map(|(label, behaviour)| {
        let breaks = Action::Next(ACTIVE, vec![behaviour]);
        let steps = vec![Step::Requests(2), Step::Act(breaks), Step::Requests(7)];
        Plan::new(label, Setup::task(task_passive() + &timeouts("500ms", "1s")), steps)
    });
    Case { id: "6", title: "primary's answer ends after half of its body, once", plans: plans.collect() }
}

pub(super) fn thresholds() -> Case {
    let (rst, close) = (Behaviour::ResetBeforeHeaders, Behaviour::CloseBeforeHeaders);
    let status = Behaviour::Status;
    let split = "consecutive5XxErrors: 0\n      splitExternalLocalOriginErrors: true\n      consecutiveLocalOriginFailures";
    let runs = [
        (
            "5xx 3: 500 500 200 500 500 500",
            "consecutive5XxErrors: 3".to_owned(),
            vec![status(500), status(500), good(), status(500), status(500), status(500)],
        ),
        (
            "5xx 3: 500 404 500 500",
            "consecutive5XxErrors: 3".to_owned(),
            vec![status(500), status(404), status(500), status(500)],
        ),
        ("5xx 3: RST 500 FIN", "consecutive5XxErrors: 3".to_owned(), vec![rst.clone(), status(500), close]),
        (
            "5xx 0, gateway 0: 500 503 500 503",
            "consecutive5XxErrors: 0\n      consecutiveGatewayErrors: 0".to_owned(),
            vec![status(500), status(503), status(500), status(503)],
        ),
        (
            "gateway 2: 503 500 503 503",
            "consecutive5XxErrors: 0\n      consecutiveGatewayErrors: 2".to_owned(),
            vec![status(503), status(500), status(503), status(503)],
        ),
        (
            "split, local 2: RST 500 RST RST",
            format!("{split}: 2"),
            vec![rst.clone(), status(500), rst.clone(), rst.clone()],
        ),
        ("split, local 1: RST", format!("{split}: 1"), vec![rst]),
    ];
    let plans = runs.into_iter().map(|(label, counters, answers)| {
        let requests = answers.len() + 6;
        let steps = vec![
            Step::Requests(2),
            Step::Act(Action::Next(ACTIVE, answers)),
            Step::CountShares,
            Step::Requests(requests),
        ];
        Plan::new(label, Setup::task(passive_with("10s", "2s", 100, &counters)), steps)
    });
    Case { id: "12", title: "thresholds", plans: plans.collect() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn silence_is_waited_for_by_all_runs_at_once() {
        let case = silence();
        assert!(case.plans.iter().all(|plan| plan.waits));
        assert!(case.plans.iter().all(|plan| plan.limit > Duration::from_secs(6 * 5)));
    }
}
