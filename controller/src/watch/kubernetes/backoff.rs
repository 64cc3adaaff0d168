//! How long to wait before the API server is asked again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LAST: Duration = Duration::from_secs(15);

/// Waits that double with each failure. Half of each is by chance, so that a thousand sidecars do not ask at once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Notes a success, and says how many failures there were before it.
    pub(crate) fn reset(&mut self) -> u32 {
        std::mem::take(&mut self.failures)
    }

    /// Notes a failure, and says how many there were since the last success.
    pub(crate) fn fail(&mut self) -> u32 {
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// Waits as long as the failures so far ask for.
    pub(crate) async fn wait(&self) {
        tokio::time::sleep(self.pause(fastrand::f64())).await;
    }

    fn pause(&self, chance: f64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.failures.saturating_sub(1).min(16)).min(LAST);
        full.mul_f64(0.5 + chance / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let mut waits = Vec::new();
        for failure in 1..=40 {
            assert_eq!(backoff.fail(), failure);
            waits.push(backoff.pause(1.0));
        }
        assert_eq!(waits[..3], [FIRST, FIRST * 2, FIRST * 4]);
        assert_eq!(waits[39], LAST);
        assert_eq!(backoff.pause(0.0), LAST / 2);
        assert_eq!((backoff.reset(), backoff.reset()), (40, 0));
        backoff.fail();
        assert_eq!(backoff.pause(1.0), FIRST);
    }
}
