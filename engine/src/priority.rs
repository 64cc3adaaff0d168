//! How load is shared between the priorities (rules P1–P9). Pure integer arithmetic.

/// Rule P1: a priority counts as fully healthy until fewer than 100/140 of its endpoints are.
const OVERPROVISIONING: usize = 140;

/// Endpoints of one priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupHealth {
    /// Those that can take traffic.
    pub healthy: usize,
    /// All of them.
    pub total: usize,
}

impl GroupHealth {
    /// Rule P1.
    fn health(self) -> usize {
        (OVERPROVISIONING * self.healthy).checked_div(self.total).unwrap_or(0).min(100)
    }

    /// Rule P7: strictly below the threshold; no endpoints are 0 %.
    fn is_below(self, threshold: u8) -> bool {
        100 * self.healthy < usize::from(threshold) * self.total.max(1)
    }
}

/// What each priority carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loads {
    /// Percentage of new requests per priority, in order. Sums to 100, or to 0 if nothing can serve.
    pub load: Vec<u8>,
    /// Priorities that use all of their endpoints, healthy or not.
    pub panic: Vec<bool>,
    /// True if every priority panics: traffic goes to the first with endpoints (in place of rule P8).
    pub total_panic: bool,
}

/// Shares the load between priorities, first to last.
#[must_use]
pub fn loads(groups: &[GroupHealth], panic_threshold: u8) -> Loads {
    let total_health = groups.iter().map(|group| group.health()).sum::<usize>().min(100); // P2
    let panic: Vec<bool> =
        groups.iter().map(|group| total_health < 100 && group.is_below(panic_threshold)).collect(); // P7
    if panic.iter().all(|panics| *panics) && !groups.is_empty() {
        let mut load = vec![0; groups.len()];
        let first = groups.iter().position(|group| group.total > 0);
        if let Some(first) = first {
            load[first] = 100;
        }
        return Loads { load, panic, total_panic: first.is_some() };
    }
    let mut rest = 100;
    let mut load: Vec<usize> = groups
        .iter()
        .map(|group| {
            let share = (100 * group.health()).checked_div(total_health).unwrap_or(0).min(rest); // P3
            rest -= share;
            share
        })
        .collect();
    if let Some(first) = groups.iter().position(|group| group.health() > 0) {
        load[first] += rest; // P3: the rounding rest goes to the first with any health.
    }
    let load = load.into_iter().map(|share| u8::try_from(share).unwrap_or(100)).collect();
    Loads { load, panic, total_panic: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(groups: &[(usize, usize)], threshold: u8) -> Vec<u8> {
        loads(
            &groups.iter().map(|&(healthy, total)| GroupHealth { healthy, total }).collect::<Vec<_>>(),
            threshold,
        )
        .load
    }

    #[test]
    fn the_primary_keeps_what_it_can_carry_with_overprovisioning() {
        // P5, three primaries.
        assert_eq!(shares(&[(3, 3), (1, 1)], 50), [100, 0]);
        assert_eq!(shares(&[(2, 3), (1, 1)], 50), [93, 7]);
        assert_eq!(shares(&[(1, 3), (1, 1)], 50), [46, 54]);
        assert_eq!(shares(&[(0, 3), (1, 1)], 50), [0, 100]);
        // P5, ten primaries, from 10 healthy down to none.
        let expected = [100, 100, 100, 98, 84, 70, 56, 42, 28, 14, 0];
        for (dead, primary) in expected.into_iter().enumerate() {
            assert_eq!(shares(&[(10 - dead, 10), (1, 1)], 50), [primary, 100 - primary], "{dead} dead");
        }
    }

    #[test]
    fn two_weak_priorities_share_by_their_health() {
        // P3: {25 %, 25 %} is 35 + 35, so half each; {5 %, 65 %} is 7 + 91, the rest of 1 goes to the first.
        assert_eq!(shares(&[(1, 4), (1, 4)], 0), [50, 50]);
        assert_eq!(shares(&[(1, 20), (13, 20)], 0), [8, 92]);
    }

    #[test]
    fn an_empty_priority_carries_nothing() {
        // P6
        assert_eq!(shares(&[(0, 0), (1, 1)], 50), [0, 100]);
    }

    #[test]
    fn nothing_healthy_without_panic_carries_nothing() {
        // P9
        assert_eq!(shares(&[(0, 1), (0, 1)], 0), [0, 0]);
        assert_eq!(shares(&[], 50), Vec::<u8>::new());
        assert_eq!(shares(&[(0, 0)], 50), [0]);
    }

    #[test]
    fn a_healthy_fallback_keeps_the_primary_from_panic() {
        // P7
        let loads = loads(&[GroupHealth { healthy: 1, total: 10 }, GroupHealth { healthy: 1, total: 1 }], 50);
        assert_eq!(loads.panic, [false, false]);
    }

    #[test]
    fn in_total_panic_the_primary_goes_first() {
        // P8, replaced: never by host count.
        for primaries in [1, 10] {
            let loads = loads(
                &[GroupHealth { healthy: 0, total: primaries }, GroupHealth { healthy: 0, total: 1 }],
                50,
            );
            assert_eq!((loads.load, loads.total_panic), (vec![100, 0], true));
        }
        assert_eq!(shares(&[(0, 0), (0, 2)], 50), [0, 100]);
        // The measured case 7c: 4 of 10 healthy and the fallback ejected is total panic; 5 of 10 is not.
        let all = loads(&[GroupHealth { healthy: 4, total: 10 }, GroupHealth { healthy: 0, total: 1 }], 50);
        assert!(all.total_panic);
        let half = loads(&[GroupHealth { healthy: 5, total: 10 }, GroupHealth { healthy: 0, total: 1 }], 50);
        assert_eq!((half.load, half.total_panic, half.panic), (vec![100, 0], false, vec![false, true]));
    }

    proptest! {
        #[test]
        fn load_always_sums_to_a_hundred_or_nothing(
            groups in prop::collection::vec((0usize..20, 0usize..20), 0..5), threshold in 0u8..=100,
        ) {
            let groups: Vec<_> = groups.into_iter()
                .map(|(a, b)| GroupHealth { healthy: a.min(b), total: b }).collect();
            let result = loads(&groups, threshold);
            let sum: usize = result.load.iter().map(|share| usize::from(*share)).sum();
            let some_healthy = groups.iter().any(|group| group.healthy > 0);
            prop_assert!(sum == 100 || sum == 0);
            if some_healthy { prop_assert_eq!(sum, 100); }
            // The fallback is never chosen while the primary pool is healthy enough.
            if let Some(first) = groups.first() && first.total > 0 && 140 * first.healthy >= 100 * first.total {
                prop_assert_eq!(result.load[0], 100);
            }
        }
    }
}
