//! A primary backend that dies under load.

use std::time::Duration;

use super::{ACTIVE, DEFAULT_RETRY, Length, NO_RETRY, PRIORITY_RETRY, RESET_RETRY, kill};
use crate::drill::case::{Action, Case, Load, LoadKind, Plan, Step};
use crate::manifests::{RETRY, RETRY_PRIORITY, RETRY_RESET, Setup, task_passive};

/// Connections of the clients when the primary is killed under load.
const CONNECTIONS: usize = 50;
/// Long against everything else that happens, so that nearly all requests are with the primary when it dies.
const DELAY: Duration = Duration::from_millis(50);
/// A request that is with the primary when its connection dies is lost to every proxy that may not repeat it.
/// So many were between two requests at that moment in some run: 36 to 50 were lost by Envoy. A request that comes
/// upon the close of an idle connection is lost likewise: mostly none, and 13 once.
const BETWEEN_REQUESTS: usize = 14;
/// Requests a second during the long outage.
const RATE: u32 = 50;

pub(super) fn killed_under_load() -> Case {
    let plan = |label: &str, retry: &str, fault: Action, chance: usize| {
        let load = Load {
            kind: LoadKind::Connections(CONNECTIONS),
            lasting: Duration::from_secs(4),
            actions: vec![(Duration::from_secs(2), fault)],
        };
        let setup = Setup { delay: DELAY, ..Setup::task(task_passive() + retry) };
        Plan::new(label, setup, vec![Step::Load(load)]).chance(chance)
    };
    Case {
        id: "10",
        title: "primary dies under 50 keep-alive connections",
        plans: vec![
            plan(&format!("killed, {NO_RETRY}"), "", kill(), BETWEEN_REQUESTS),
            plan(&format!("killed, {DEFAULT_RETRY}"), RETRY, kill(), BETWEEN_REQUESTS),
            plan(&format!("killed, {RESET_RETRY}"), RETRY_RESET, kill(), 0),
            plan(&format!("drained, {DEFAULT_RETRY}"), RETRY, Action::Drain(ACTIVE), 0),
            plan(
                &format!("idle connections closed, {DEFAULT_RETRY}"),
                RETRY,
                Action::Close(ACTIVE),
                BETWEEN_REQUESTS,
            ),
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
