//! The share of an endpoint's requests that failed, window by window (rule O17). Pure.
//!
//! Windows are an `interval` long and lie on one grid for all endpoints, so that a pool can compare what its
//! members did in the same time.

use std::time::Duration;

use crate::Instant;

/// An endpoint with fewer requests in a window is not judged by them.
const MIN_REQUESTS: u64 = 50;
/// A pool with fewer endpoints that can be judged ejects none of them.
const MIN_ENDPOINTS: usize = 5;

/// Which window a moment lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Grid(Duration);

impl Grid {
    /// Windows of this length, at least as long as the shortest one that the driver looks at.
    pub(crate) fn new(interval: Duration) -> Self {
        Self(interval.max(crate::record::MIN_PROBE_PAUSE))
    }

    pub(crate) fn index(self, now: Instant) -> u64 {
        now.as_micros() / self.length()
    }

    /// When the window ends.
    pub(crate) fn end(self, index: u64) -> Instant {
        Instant::from_micros(index.saturating_add(1).saturating_mul(self.length()))
    }

    fn length(self) -> u64 {
        u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// Requests of one window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Volume {
    pub(crate) failed: u64,
    pub(crate) total: u64,
}

impl Volume {
    fn reaches(self, percent: u8) -> bool {
        100 * self.failed >= u64::from(percent) * self.total
    }
}

/// The window that is being counted, and the one before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Windows {
    index: u64,
    current: Volume,
    before: Volume,
}

impl Windows {
    pub(crate) fn count(&mut self, failed: bool, index: u64) {
        self.move_to(index);
        self.current.total += 1;
        self.current.failed += u64::from(failed);
    }

    /// What happened in this window, which has ended.
    pub(crate) fn completed(&mut self, index: u64) -> Volume {
        self.move_to(index.saturating_add(1));
        self.before
    }

    fn move_to(&mut self, index: u64) {
        if index > self.index {
            self.before = if index == self.index + 1 { self.current } else { Volume::default() };
            (self.index, self.current) = (index, Volume::default());
        }
    }
}

/// Which endpoints are to be ejected, of those that take traffic: `None` stands for one that does not.
pub(crate) fn over_threshold(volumes: &[Option<Volume>], percent: u8) -> Vec<bool> {
    let judged = |volume: &Option<Volume>| volume.filter(|volume| volume.total >= MIN_REQUESTS);
    let enough = volumes.iter().filter_map(judged).count() >= MIN_ENDPOINTS;
    // As with the other detectors 0 is off (O13): Envoy would eject every endpoint.
    let acts = enough && percent > 0;
    volumes
        .iter()
        .map(|volume| acts && judged(volume).is_some_and(|volume| volume.reaches(percent)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(failed: u64, total: u64) -> Option<Volume> {
        Some(Volume { failed, total })
    }

    #[test]
    fn o17_a_share_counts_from_fifty_requests_and_five_endpoints_on() {
        let good = volume(0, 50);
        let mut pool = vec![good, good, good, good, volume(43, 50)];
        assert_eq!(over_threshold(&pool, 86), [false, false, false, false, true]);
        assert_eq!(over_threshold(&pool, 87), [false; 5]);
        pool[4] = volume(49, 49);
        assert_eq!(over_threshold(&pool, 1), [false; 5], "too few requests at the bad one");
        pool[4] = volume(50, 50);
        pool[0] = volume(0, 49);
        assert_eq!(over_threshold(&pool, 1), [false; 5], "too few requests at another");
        pool[0] = None;
        assert_eq!(over_threshold(&pool, 1), [false; 5], "one is ejected already");
        pool.push(good);
        assert_eq!(over_threshold(&pool, 1), [false, false, false, false, true, false]);
        assert_eq!(over_threshold(&pool, 0), [false; 6], "0 is off");
        assert_eq!(over_threshold(&[volume(50, 50); 5], 100), [true; 5]);
    }

    #[test]
    fn windows_follow_each_other_and_a_silent_one_is_empty() {
        let mut windows = Windows::default();
        for (failed, index) in [(true, 7), (false, 7), (true, 8)] {
            windows.count(failed, index);
        }
        assert_eq!(windows.completed(7), Volume { failed: 1, total: 2 });
        // Asked for again, as by another pool, it says the same.
        assert_eq!(windows.completed(7), Volume { failed: 1, total: 2 });
        assert_eq!(windows.completed(8), Volume { failed: 1, total: 1 });
        windows.count(true, 20);
        assert_eq!(windows.completed(19), Volume::default());
        assert_eq!(windows.completed(20), Volume { failed: 1, total: 1 });
    }

    #[test]
    fn the_grid_is_the_same_for_all() {
        let grid = Grid::new(Duration::from_secs(2));
        let at = |micros| Instant::from_micros(micros);
        assert_eq!((grid.index(at(1_999_999)), grid.index(at(2_000_000))), (0, 1));
        assert_eq!(grid.end(1), at(4_000_000));
        assert_eq!(Grid::new(Duration::ZERO).end(0), at(100_000));
    }
}
