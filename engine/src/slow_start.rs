//! Slow start (rule L6): the share of an endpoint that joined or returned grows over a window.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::Instant;
use crate::phase::Phase;

/// It was there before anyone looked: it has its full share.
const LONG_AGO: u64 = 0;
/// It is out of service: its share grows from when it is back.
const AWAY: u64 = u64::MAX;

/// Since when an endpoint has been taking traffic in a pool, in microseconds.
#[derive(Debug)]
pub(crate) struct Joined(AtomicU64);

impl Joined {
    pub(crate) fn long_ago() -> Self {
        Self(AtomicU64::new(LONG_AGO))
    }

    pub(crate) fn at(now: Instant) -> Self {
        Self(AtomicU64::new(now.as_micros().max(1)))
    }

    /// The share at `now` in percent, and when it grows further.
    pub(crate) fn share(&self, phase: Phase, window: Duration, now: Instant) -> (u8, Instant) {
        let since = match phase {
            Phase::Ramping { since } => since.as_micros(),
            Phase::Healthy => match self.0.load(Ordering::Relaxed) {
                AWAY => now.as_micros(),
                since => since,
            },
            Phase::Ejected { .. } | Phase::Probing { .. } | Phase::Trial { .. } => AWAY,
        };
        self.0.store(since, Ordering::Relaxed);
        match since {
            LONG_AGO | AWAY => (100, Instant::NEVER),
            since => share_after(Instant::from_micros(since), window, now),
        }
    }
}

/// max(10 %, max(t, 1 s) / window), in steps of five percentage points.
fn share_after(since: Instant, window: Duration, now: Instant) -> (u8, Instant) {
    let window_us = window.as_micros().max(1);
    let elapsed = now.since(since).as_micros();
    let exact = 100 * elapsed.max(1_000_000) / window_us;
    let Some(share) = u8::try_from(exact).ok().filter(|share| *share < 100) else {
        return (100, Instant::NEVER);
    };
    let next = u32::from((share.max(5) / 5 + 1) * 5);
    (share.max(10), since.after(window * next / 100))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(100);

    fn second(seconds: u64) -> Instant {
        Instant::from_micros(1_000_000 * (1000 + seconds))
    }

    #[test]
    fn l6_the_share_grows_from_ten_percent_over_the_window() {
        let joined = Joined::at(second(0));
        for (at, expected) in [(0, 10), (5, 10), (11, 11), (50, 50), (99, 99), (100, 100), (1000, 100)] {
            let (share, until) = joined.share(Phase::Healthy, WINDOW, second(at));
            assert_eq!(share, expected, "after {at} s");
            assert!(until > second(at), "the next step is in the future");
        }
    }

    #[test]
    fn l6_a_window_of_a_second_or_less_has_no_effect() {
        let joined = Joined::at(second(0));
        assert_eq!(joined.share(Phase::Healthy, Duration::from_secs(1), second(0)).0, 100);
        assert_eq!(joined.share(Phase::Healthy, Duration::from_secs(4), second(0)).0, 25);
    }

    #[test]
    fn l6_an_endpoint_that_was_away_grows_again_from_its_return() {
        let joined = Joined::long_ago();
        assert_eq!(joined.share(Phase::Healthy, WINDOW, second(0)).0, 100);
        joined.share(Phase::Ejected { until: second(30) }, WINDOW, second(1));
        joined.share(Phase::Ramping { since: second(40) }, WINDOW, second(40));
        assert_eq!(joined.share(Phase::Healthy, WINDOW, second(60)).0, 20);
        // One that joined on trial was never ejected: it is back as soon as it is seen healthy.
        joined.share(Phase::Probing { next: second(70) }, WINDOW, second(70));
        assert_eq!(joined.share(Phase::Healthy, WINDOW, second(80)).0, 10);
        assert_eq!(joined.share(Phase::Healthy, WINDOW, second(130)).0, 50);
    }
}
