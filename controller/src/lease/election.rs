//! Who leads: the decisions.
//!
//! Inputs: the Lease as it was last seen, with the time since when it looks like that, and `now`. Outputs: what to do
//! next. Pure.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

/// The times of an election.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// A Lease that did not change for this long is free.
    pub(crate) duration: Duration,
    /// How often its holder renews it.
    pub(crate) renew: Duration,
    /// How often the others look at it, and how soon a failed attempt is repeated.
    pub(crate) retry: Duration,
    /// The holder stops writing this long before others may think that the Lease is free.
    pub(crate) margin: Duration,
}

/// A holder that dies is replaced after at most `duration` and `retry`: 12 s, and the time of a request.
pub(crate) const TIMING: Timing = Timing {
    duration: Duration::from_secs(10),
    renew: Duration::from_secs(3),
    retry: Duration::from_secs(2),
    margin: Duration::from_secs(2),
};

/// Whoever wrote a longer duration into the Lease does not keep it for longer than this.
const LONGEST: Duration = Duration::from_secs(60);

/// The Lease as it was last seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// Empty if it was released.
    pub(crate) holder: String,
    pub(crate) version: String,
    pub(crate) duration: Duration,
    /// Since when it looks like that.
    pub(crate) since: Instant,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the Lease one's own, or keep it.
    Write,
    /// Look again after this time.
    Wait(Duration),
}

impl Seen {
    /// What a look at the Lease shows, after what the last look showed.
    pub(crate) fn observe(before: Option<&Self>, lease: &Lease, now: Instant) -> Self {
        let spec = lease.spec.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let since = before.filter(|before| before.version == version).map_or(now, |before| before.since);
        let seconds = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = seconds.map_or(TIMING.duration, Duration::from_secs).min(LONGEST);
        Self { holder: spec.holder_identity.unwrap_or_default(), version, duration, since }
    }
}

/// What to do about a Lease; `None` if there is none.
pub(crate) fn decide(seen: Option<&Seen>, me: &str, now: Instant, timing: &Timing) -> Step {
    let Some(seen) = seen else { return Step::Write };
    if seen.holder.is_empty() || seen.holder == me {
        return Step::Write;
    }
    let left = (seen.since + seen.duration).saturating_duration_since(now);
    if left.is_zero() { Step::Write } else { Step::Wait(left.min(timing.retry)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    fn lease(holder: &str, version: &str, seconds: Option<i32>) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: seconds,
            ..LeaseSpec::default()
        });
        lease
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_taken_when_it_is_absent_released_ones_own_or_unchanged_for_its_duration() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let seen = |holder: &str| Seen::observe(None, &lease(holder, "1", Some(10)), start);
        let step = |seen: Option<&Seen>, seconds: u64| decide(seen, "me", at(seconds), &TIMING);
        assert_eq!(step(None, 0), Step::Write);
        assert_eq!(step(Some(&seen("")), 0), Step::Write);
        assert_eq!(step(Some(&seen("me")), 0), Step::Write);
        let other = seen("other");
        for (seconds, expected) in [
            (0, Step::Wait(TIMING.retry)),
            (7, Step::Wait(TIMING.retry)),
            (9, Step::Wait(Duration::from_secs(1))),
            (10, Step::Write),
            (100, Step::Write),
        ] {
            assert_eq!(step(Some(&other), seconds), expected, "{seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_as_old_as_its_last_change_whatever_its_times_say() {
        let start = Instant::now();
        let later = start + Duration::from_secs(9);
        let first = Seen::observe(None, &lease("other", "1", Some(10)), start);
        let same = Seen::observe(Some(&first), &lease("other", "1", Some(10)), later);
        assert_eq!(same.since, start);
        let renewed = Seen::observe(Some(&first), &lease("other", "2", Some(10)), later);
        assert_eq!(renewed.since, later);
    }

    #[tokio::test(start_paused = true)]
    async fn a_duration_without_end_is_not_kept() {
        let seen = Seen::observe(None, &lease("other", "1", Some(i32::MAX)), Instant::now());
        assert_eq!(seen.duration, LONGEST);
        let negative = Seen::observe(None, &lease("other", "1", Some(-1)), Instant::now());
        assert_eq!(negative.duration, TIMING.duration);
    }

    #[test]
    fn a_holder_stops_before_another_may_begin_and_is_replaced_within_fifteen_seconds() {
        // The others' clock of the Lease starts after the holder sent the request, the holder's before.
        assert!(
            TIMING.margin > Duration::ZERO && TIMING.duration > TIMING.margin + TIMING.renew + TIMING.retry
        );
        assert!(TIMING.duration + TIMING.retry + super::super::REQUEST_LIMIT < Duration::from_secs(15));
    }
}
