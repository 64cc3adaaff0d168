//! Which ejections a pool obeys: `maxEjectionPercent`, and the first one free (rule O18, replaced).

use crate::Instant;

/// An endpoint as the cap sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Index of its priority's group.
    pub(crate) group: usize,
    /// Since when its record is ejected (on trial included); `None` if it is not.
    pub(crate) ejected_at: Option<Instant>,
    /// False for an endpoint that joined on trial: nothing was ejected, but it cannot stand in for another.
    pub(crate) serves: bool,
}

/// Says for each candidate whether its ejection is obeyed.
///
/// The ejections are taken in the order in which they happened. One is obeyed if its group's share of ejected
/// endpoints stays within `max_percent`, or if it is the group's first while another endpoint, in either pool,
/// can serve.
pub(crate) fn obeyed(candidates: &[Candidate], groups: usize, max_percent: u8) -> Vec<bool> {
    let mut total = vec![0_usize; groups];
    for candidate in candidates {
        total[candidate.group] += 1;
    }
    let mut order: Vec<usize> =
        (0..candidates.len()).filter(|&i| candidates[i].ejected_at.is_some()).collect();
    order.sort_by_key(|&i| (candidates[i].ejected_at, i));
    let mut serving = candidates.iter().filter(|candidate| candidate.serves).count();
    let mut ejected = vec![0_usize; groups];
    let mut obeyed = vec![false; candidates.len()];
    for index in order {
        let group = candidates[index].group;
        let within = 100 * (ejected[group] + 1) <= usize::from(max_percent) * total[group];
        let first_is_free = ejected[group] == 0 && serving > 1;
        if within || first_is_free {
            obeyed[index] = true;
            ejected[group] += 1;
            serving = serving.saturating_sub(usize::from(candidates[index].serves));
        }
    }
    obeyed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejected(group: usize, at: u64) -> Candidate {
        Candidate { group, ejected_at: Some(Instant::from_micros(at)), serves: true }
    }

    fn healthy(group: usize) -> Candidate {
        Candidate { group, ejected_at: None, serves: true }
    }

    #[test]
    fn the_first_ejection_is_always_allowed_while_another_can_serve() {
        // O18, replaced: Envoy's default of 10 % ejects nobody below 10 endpoints.
        assert_eq!(obeyed(&[ejected(0, 1), healthy(1)], 2, 10), [true, false]);
        assert!(obeyed(&[ejected(0, 1), healthy(0), healthy(0), healthy(0)], 1, 10)[0]);
        assert_eq!(obeyed(&[ejected(0, 1)], 1, 10), [false], "nobody else can serve");
        assert_eq!(obeyed(&[ejected(0, 1)], 1, 100), [true], "the percentage allows it");
    }

    #[test]
    fn the_share_is_counted_within_a_pool_and_not_over_both() {
        assert_eq!(
            obeyed(&[ejected(0, 1), ejected(0, 2), healthy(0), healthy(1)], 2, 50),
            [true, false, false, false]
        );
        assert_eq!(obeyed(&[ejected(0, 1), ejected(0, 2), healthy(0), healthy(1)], 2, 67)[..2], [true, true]);
    }

    #[test]
    fn of_two_last_endpoints_the_one_that_failed_first_is_ejected() {
        assert_eq!(obeyed(&[ejected(0, 5), ejected(1, 9)], 2, 10), [true, false]);
        assert_eq!(obeyed(&[ejected(0, 9), ejected(1, 5)], 2, 10), [false, true]);
        assert_eq!(obeyed(&[ejected(0, 5), ejected(1, 9)], 2, 100), [true, true]);
    }

    #[test]
    fn an_endpoint_that_joined_on_trial_cannot_stand_in() {
        let joined = Candidate { group: 1, ejected_at: None, serves: false };
        assert_eq!(obeyed(&[ejected(0, 1), joined], 2, 10), [false, false]);
    }
}
