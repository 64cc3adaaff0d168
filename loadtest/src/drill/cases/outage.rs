//! A primary backend that dies under load.

use std::time::Duration;

use super::{ACTIVE, DEFAULT_RETRY, Length, NO_RETRY, PRIORITY_RETRY, RESET_RETRY, kill};
use crate::drill::case::{Action, Case, Load, LoadKind, Plan, Step};
use crate::manifests::{RETRY, RETRY_PRIORITY, RETRY_RESET, Setup, task_passive};

/// Connections of the clients when the primary is killed under load.
const CONNECTIONS: usize = 50;
/// Long against everything else that happens, so that nearly all requests are with the primary when it dies.
const DELAY: Duration = Duration::from_millis(50);
/// Long enough for the close of idle connections to reach a proxy on the same machine.
const FIN: Duration = Duration::from_millis(200);
/// Requests a second during the long outage.
const RATE: u32 = 50;

pub(super) fn killed_under_load(length: Length) -> Case {
    let half = length.half_of_a_load();
    let load = |lasting, actions| Load { kind: LoadKind::Connections(CONNECTIONS), lasting, actions };
    let setup = |retry: &str| Setup { delay: DELAY, ..Setup::task(task_passive() + retry) };
    let plan = |label: String, retry: &str, fault: Action| {
        let load = load(2 * half, vec![(half, fault)]);
        Plan::new(label, setup(retry), vec![Step::Load(load)])
    };
    // Between two loads: under load a request may meet the close on its way, and is then on the wire.
    let idle = vec![
        Step::Load(load(half, Vec::new())),
        Step::Act(Action::Close(ACTIVE)),
        Step::Wait(FIN),
        Step::Load(load(half, Vec::new())),
    ];
    Case {
        id: "10",
        title: "primary dies under 50 keep-alive connections",
        plans: vec![
            plan(format!("killed, {NO_RETRY}"), "", kill()).loses_what_is_on_the_wire(),
            plan(format!("killed, {DEFAULT_RETRY}"), RETRY, kill()).loses_what_is_on_the_wire(),
            plan(format!("killed, {RESET_RETRY}"), RETRY_RESET, kill()),
            plan(format!("drained, {DEFAULT_RETRY}"), RETRY, Action::Drain(ACTIVE)),
            Plan::new(format!("idle connections closed, {NO_RETRY}"), setup(""), idle.clone()),
            Plan::new(format!("idle connections closed, {DEFAULT_RETRY}"), setup(RETRY), idle),
        ],
    }
}

pub(super) fn long_outage(length: Length) -> Case {
    let plan = |label: &str, retry: &str| {
        let load = Load {
            kind: LoadKind::Rate(RATE),
            lasting: length.outage(),
            actions: vec![(Duration::ZERO, kill())],
        };
        Plan::new(label, Setup::task(task_passive() + retry), vec![Step::Requests(10), Step::Load(load)])
            .waits()
            .limit(length.outage() + Duration::from_secs(60))
    };
    let title = match length {
        Length::Full => "primary dead for 65 s at 50 requests/s",
        Length::Short => "primary dead for 15 s at 50 requests/s",
    };
    let plans = vec![plan(NO_RETRY, ""), plan(DEFAULT_RETRY, RETRY), plan(PRIORITY_RETRY, RETRY_PRIORITY)];
    Case { id: "11", title, plans }
}
