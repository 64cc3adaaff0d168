//! How much may be written: a bucket of tokens, one of which each write takes. Pure.

use std::time::Duration;

/// A bucket that is full at first and gets a token back from time to time.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    capacity: u32,
    every: Duration,
    tokens: u32,
    /// Up to when it was refilled, since some fixed moment.
    filled: Duration,
}

impl Bucket {
    /// A full bucket. `every` is how long one token takes to come back; it must not be zero.
    pub(crate) fn new(capacity: u32, every: Duration, now: Duration) -> Self {
        Self { capacity, every, tokens: capacity, filled: now }
    }

    fn refill(&mut self, now: Duration) {
        let waited = now.saturating_sub(self.filled);
        let earned = u32::try_from(waited.as_nanos() / self.every.as_nanos().max(1)).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(earned).min(self.capacity);
        // The part of a token that was waited for is kept, unless there is no room for it.
        self.filled = if self.tokens == self.capacity {
            now.max(self.filled)
        } else {
            self.filled + self.every * earned
        };
    }

    /// Takes a token, if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        self.refill(now);
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }

    /// When there is a token.
    pub(crate) fn ready_at(&mut self, now: Duration) -> Duration {
        self.refill(now);
        if self.tokens > 0 { now } else { self.filled + self.every }
    }

    /// Whether it is as good as new, so that nobody need remember it.
    pub(crate) fn is_full(&mut self, now: Duration) -> bool {
        self.refill(now);
        self.tokens == self.capacity
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_burst_passes_at_once_and_then_one_at_a_time() {
        let mut bucket = Bucket::new(3, SECOND * 30, Duration::ZERO);
        let taken: Vec<bool> = (0..5).map(|_| bucket.take(SECOND)).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert_eq!(bucket.ready_at(SECOND), SECOND * 31);
        assert!(!bucket.take(SECOND * 30) && bucket.take(SECOND * 31) && !bucket.take(SECOND * 32));
        assert!(!bucket.is_full(SECOND * 100) && bucket.is_full(SECOND * 200));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_what_time_gave_back(
            steps in proptest::collection::vec(0..90_000_u64, 1..200), capacity in 1..6_u32,
        ) {
            let every = SECOND * 30;
            let mut bucket = Bucket::new(capacity, every, Duration::ZERO);
            let (mut now, mut taken) = (Duration::ZERO, 0_u128);
            for step in steps {
                now += Duration::from_millis(step);
                if bucket.ready_at(now) <= now {
                    prop_assert!(bucket.take(now));
                    taken += 1;
                } else {
                    prop_assert!(!bucket.take(now));
                }
                prop_assert!(taken <= u128::from(capacity) + now.as_nanos() / every.as_nanos());
            }
        }
    }
}
