//! The time that the engine counts in.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;
use understudy_engine::Instant as EngineInstant;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The engine's time: microseconds since the process first asked for it. It never goes back, and follows tokio's
/// clock, so that tests can pause it.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// The clock of this process: all of them agree.
    #[must_use]
    pub fn new() -> Self {
        Self { start: *START }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> EngineInstant {
        self.at(Instant::now())
    }

    /// A moment of tokio's clock; moments before the start are the start.
    #[must_use]
    pub fn at(&self, moment: Instant) -> EngineInstant {
        let micros = moment.saturating_duration_since(self.start).as_micros();
        EngineInstant::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }

    /// The moment of tokio's clock, to sleep until.
    #[must_use]
    pub fn moment(&self, at: EngineInstant) -> Instant {
        let offset = Duration::from_micros(at.as_micros());
        // Beyond what can be represented nobody waits anyway: a year is as good.
        self.start.checked_add(offset).unwrap_or_else(|| Instant::now() + Duration::from_secs(31_536_000))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_clock_counts_the_microseconds_of_paused_time() {
        let clock = Clock::default();
        let before = clock.now();
        tokio::time::advance(Duration::from_micros(1_500)).await;
        assert_eq!(clock.now().since(before), Duration::from_micros(1_500));
        assert_eq!(Clock::new().now(), clock.now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_found_again() {
        let clock = Clock::new();
        let at = EngineInstant::from_micros(12_345);
        assert_eq!(clock.at(clock.moment(at)), at);
        assert!(clock.moment(EngineInstant::NEVER) > Instant::now());
    }
}
