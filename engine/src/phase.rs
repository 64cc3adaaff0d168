//! Where an endpoint stands, and the ramp on which it comes back. Pure.

use std::time::Duration;

use crate::{Cause, Instant};

/// Shares of a returning endpoint in percent, one interval each; after the last one it is healthy.
const RAMP: [u8; 3] = [10, 25, 50];

/// Where an endpoint stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Takes its share.
    Healthy,
    /// Takes nothing until then.
    Ejected {
        /// When the ejection time is over.
        until: Instant,
    },
    /// On trial: the proxy connects to it until it answers.
    Probing {
        /// When to connect next.
        next: Instant,
    },
    /// On trial: it answered, and real requests go to it one at a time.
    Trial {
        /// Since when.
        since: Instant,
        /// Successful requests so far.
        successes: u32,
    },
    /// It has proved itself; its share grows.
    Ramping {
        /// Since when.
        since: Instant,
    },
}

/// A copy of what a pool needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) phase: Phase,
    pub(crate) ejected_at: Option<Instant>,
    /// Share of its normal traffic in percent.
    pub(crate) share: u8,
    /// When this changes by itself.
    pub(crate) until: Instant,
    pub(crate) last_cause: Option<Cause>,
}

/// The share at `now` and when it ends; `None` when the ramp is over.
pub(crate) fn ramp_step(since: Instant, interval: Duration, now: Instant) -> Option<(u8, Instant)> {
    let mut end = since;
    for share in RAMP {
        end = end.after(interval);
        if now < end {
            return Some((share, end));
        }
    }
    None
}
