//! Requests with bodies through a failover.

use std::time::Duration;

use understudy_testbed::Behaviour;

use super::{ACTIVE, kill};
use crate::drill::case::{Action, Case, Plan, Step};
use crate::manifests::{RETRY_RESET, Setup, task_passive};

const KIB: usize = 1024;

pub(super) fn posts() -> Case {
    let refuses = kill();
    let answers_503 = Action::Next(ACTIVE, vec![Behaviour::Status(503)]);
    let resets = Action::Next(ACTIVE, vec![Behaviour::ResetBeforeHeaders]);
    let buffer = "  connection:\n    bufferLimit: 64Ki\n";
    let runs = [
        ("32 KiB, port closed", 32 * KIB, &refuses, ""),
        ("33 KiB, port closed", 33 * KIB, &refuses, ""),
        ("64 KiB, port closed", 64 * KIB, &refuses, ""),
        ("1 MiB, port closed", 1024 * KIB, &refuses, ""),
        ("10 MiB, port closed", 10 * 1024 * KIB, &refuses, ""),
        ("32 KiB, 503 after the body", 32 * KIB, &answers_503, ""),
        ("33 KiB, 503 after the body", 33 * KIB, &answers_503, ""),
        ("64 KiB, 503 after the body", 64 * KIB, &answers_503, ""),
        ("64 KiB, 503 after the body, buffer 64 KiB", 64 * KIB, &answers_503, buffer),
        ("1 MiB, 503 after the body, buffer 64 KiB", 1024 * KIB, &answers_503, buffer),
        ("10 MiB, 503 after the body, buffer 64 KiB", 10 * 1024 * KIB, &answers_503, buffer),
        ("32 KiB, RST after the body", 32 * KIB, &resets, ""),
    ];
    let plans = runs.into_iter().map(|(label, size, fault, policy)| {
        let steps = vec![Step::Requests(2), Step::Act(fault.clone()), Step::Post(size), Step::Requests(2)];
        let policy = task_passive() + RETRY_RESET + policy;
        Plan::new(label, Setup::task(policy), steps).limit(Duration::from_secs(90))
    });
    Case { id: "9", title: "POST through a failover, retry with reset", plans: plans.collect() }
}
