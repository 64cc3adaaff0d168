//! How old a connection to an endpoint may grow (`maxConnectionDuration`). Pure.
//!
//! Pingora does not say how old a pooled connection is. So time is cut into eras of that length, each connection
//! belongs to the era in which it was made, and a request looks only for connections of its own era: none is used
//! again that is older. At the end of its era an idle one is closed. The eras of different endpoints begin at
//! different times, so that not all connections are made anew at once.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use understudy_engine::{Address, Instant};

/// The connections that a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Era {
    /// Told apart by this from the connections of other eras and of other lengths.
    pub(super) group: u64,
    /// How long it still lasts, never zero.
    pub(super) rest: Duration,
}

impl Era {
    pub(super) fn of(address: &Address, longest: Duration, now: Instant) -> Self {
        let length = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX).max(1);
        let mut hasher = DefaultHasher::new();
        address.hash(&mut hasher);
        let shifted = now.as_micros().saturating_add(hasher.finish() % length);
        (shifted / length, length).hash(&mut hasher);
        Self { group: hasher.finish(), rest: Duration::from_micros(length - shifted % length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(port: u16, seconds: u64) -> Era {
        let address = Address::Socket(([10, 0, 0, 1], port).into());
        Era::of(&address, MINUTE, Instant::from_micros(seconds * 1_000_000))
    }

    #[test]
    fn what_is_older_than_allowed_is_of_another_era() {
        for start in (0..600).step_by(7) {
            let era = at(1, start);
            assert!(era.rest > Duration::ZERO && era.rest <= MINUTE);
            assert_ne!(at(1, start + 60).group, era.group);
            let last = start + era.rest.as_secs().saturating_sub(1);
            assert_eq!(at(1, last).group, era.group, "up to the end of the era it is the same");
        }
    }

    #[test]
    fn the_eras_of_endpoints_begin_at_different_times_and_lengths_are_told_apart() {
        let rests: std::collections::BTreeSet<_> = (1..50).map(|port| at(port, 1000).rest).collect();
        assert!(rests.len() > 40, "{}", rests.len());
        let address = Address::Socket(([10, 0, 0, 1], 1).into());
        let other = Era::of(&address, MINUTE * 2, Instant::from_micros(1_000_000));
        assert_ne!(other.group, at(1, 1).group);
    }
}
