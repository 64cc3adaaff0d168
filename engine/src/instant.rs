//! Time as the engine sees it: an argument, never a clock.

use std::time::Duration;

/// Microseconds since some fixed moment of the caller's choice. It fits an atomic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The latest moment there is.
    pub const NEVER: Self = Self(u64::MAX);

    /// A moment so many microseconds after the start.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the start.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The moment so much later; saturates.
    #[must_use]
    pub fn after(self, duration: impl Into<Duration>) -> Self {
        let micros = u64::try_from(duration.into().as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// How long it is since `earlier`; zero if that is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
