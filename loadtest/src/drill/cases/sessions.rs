//! Connections that are no requests any longer.

use std::time::Duration;

use super::{ACTIVE, NO_RETRY, kill};
use crate::drill::case::{Action, Case, Load, LoadKind, Plan, Step};
use crate::manifests::{Setup, passive};

/// Sessions at once, and how long all of them go on.
const SESSIONS: usize = 10;
const LASTING: Duration = Duration::from_secs(6);
/// When the primary dies, and when it is back.
const KILLED: Duration = Duration::from_millis(1500);
const HEALED: Duration = Duration::from_secs(3);

/// A session that is open when the primary dies ends with it, with the message that is under way; the next one opens
/// on the fallback, and those that are opened after the return on the primary again.
pub(super) fn websockets() -> Case {
    let load = Load {
        kind: LoadKind::Sessions(SESSIONS),
        lasting: LASTING,
        actions: vec![(KILLED, kill()), (HEALED, Action::Heal(ACTIVE))],
    };
    let setup = Setup::task(passive("1s", "200ms", 100));
    let plan = Plan::new(format!("killed and healed, {NO_RETRY}"), setup, vec![Step::Load(load)]);
    Case {
        id: "websocket",
        title: "10 WebSocket sessions of 20 messages, one after the other",
        plans: vec![plan.loses_what_is_on_the_wire()],
    }
}
