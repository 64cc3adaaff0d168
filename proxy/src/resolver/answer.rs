//! What name servers said, and what follows from it (rules D1–D5). Pure: no clock, no network.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use understudy_conf::{Dns, LookupFamily};

/// No name is looked up more often than this.
const SHORTEST: Duration = Duration::from_millis(100);

/// The first wait after a failure; each further one doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// A name without an address is looked at this often, if the refresh rate is not shorter.
const EMPTY_AGAIN: Duration = Duration::from_secs(5);

/// What came back for one family of one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The name has addresses; `ttl` is the shortest of the records'.
    Addresses { addresses: Vec<IpAddr>, ttl: Duration },
    /// There is no such name, or it has no address of this family.
    Nothing,
    /// Nobody knows: the servers failed, refused or were silent.
    Failed(String),
}

/// What came back in one round, for the families that were asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) v4: Option<Answer>,
    pub(super) v6: Option<Answer>,
}

/// The families to ask, the second of them only if the first has nothing, or both at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plan {
    Only(Family),
    FirstThen(Family, Family),
    Both,
}

/// A family of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

pub(super) fn plan(family: LookupFamily) -> Plan {
    match family {
        LookupFamily::IPv4 => Plan::Only(Family::V4),
        LookupFamily::IPv6 => Plan::Only(Family::V6),
        LookupFamily::IPv4Preferred => Plan::FirstThen(Family::V4, Family::V6),
        LookupFamily::IPv6Preferred => Plan::FirstThen(Family::V6, Family::V4),
        LookupFamily::IPv4AndIPv6 => Plan::Both,
    }
}

impl Round {
    pub(super) fn set(&mut self, family: Family, answer: Answer) {
        match family {
            Family::V4 => self.v4 = Some(answer),
            Family::V6 => self.v6 = Some(answer),
        }
    }

    fn answers(&self) -> impl Iterator<Item = &Answer> {
        self.v4.iter().chain(&self.v6)
    }

    /// Why the round failed, if any family of it did.
    pub(super) fn failure(&self) -> Option<&str> {
        self.answers().find_map(|answer| match answer {
            Answer::Failed(reason) => Some(reason.as_str()),
            _ => None,
        })
    }

    /// Whether the name was answered, and has no address.
    fn is_empty(&self) -> bool {
        self.answers().all(|answer| *answer == Answer::Nothing)
    }

    fn shortest_ttl(&self) -> Option<Duration> {
        self.answers()
            .filter_map(|answer| match answer {
                Answer::Addresses { ttl, .. } if !ttl.is_zero() => Some(*ttl),
                _ => None,
            })
            .min()
    }
}

/// The addresses of a name after a round: sorted, each once. A family that failed keeps what it had, and so
/// does one that was not asked because the other failed (D4); any other answer replaces it (D1, D3).
pub(super) fn merge(previous: &[IpAddr], round: &Round) -> Arc<[IpAddr]> {
    let failed = round.failure().is_some();
    let kept = |is_family: fn(&IpAddr) -> bool| previous.iter().copied().filter(is_family).collect();
    let family = |answer: &Option<Answer>, is_family: fn(&IpAddr) -> bool| -> Vec<IpAddr> {
        match answer {
            Some(Answer::Addresses { addresses, .. }) => addresses.clone(),
            Some(Answer::Nothing) => Vec::new(),
            Some(Answer::Failed(_)) => kept(is_family),
            None if failed => kept(is_family),
            None => Vec::new(),
        }
    };
    let mut addresses = family(&round.v4, IpAddr::is_ipv4);
    addresses.extend(family(&round.v6, IpAddr::is_ipv6));
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

/// How long until the next look-up (D2). `failures` counts the rounds that failed in a row, this one included;
/// `spread` in 0..1 moves names apart that were looked up together: later by up to a twentieth after a
/// success, earlier by up to a half after a failure.
pub(super) fn next_lookup(round: &Round, dns: &Dns, failures: u32, spread: f64) -> Duration {
    let refresh = Duration::from(dns.refresh_rate);
    let wait = if round.failure().is_some() {
        let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
        doubled.min(refresh).mul_f64(1.0 - spread / 2.0)
    } else {
        let ttl = round.shortest_ttl().filter(|_| dns.respect_ttl);
        // A name without an address has no TTL, and its endpoints are missed: it is looked at more often.
        let otherwise = if round.is_empty() { refresh.min(EMPTY_AGAIN) } else { refresh };
        ttl.unwrap_or(otherwise).mul_f64(1.0 + spread / 20.0)
    };
    wait.max(SHORTEST)
}

#[cfg(test)]
mod tests {
    use understudy_conf::GatewayDuration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn found(addresses: &[&str], ttl: u64) -> Answer {
        let addresses = addresses.iter().map(|text| ip(text)).collect();
        Answer::Addresses { addresses, ttl: Duration::from_secs(ttl) }
    }

    fn v4(answer: Answer) -> Round {
        Round { v4: Some(answer), v6: None }
    }

    fn failed() -> Answer {
        Answer::Failed("SERVFAIL".into())
    }

    fn dns(respect_ttl: bool) -> Dns {
        Dns { refresh_rate: GatewayDuration::from_secs(30), respect_ttl, ..Dns::default() }
    }

    #[test]
    fn each_address_is_taken_once_and_a_vanished_one_is_removed() {
        // D1
        let first = merge(&[], &v4(found(&["10.0.0.2", "10.0.0.1", "10.0.0.2"], 5)));
        assert_eq!(*first, [ip("10.0.0.1"), ip("10.0.0.2")]);
        assert_eq!(*merge(&first, &v4(found(&["10.0.0.2"], 5))), [ip("10.0.0.2")]);
    }

    #[test]
    fn the_shortest_ttl_decides_when_to_look_again_unless_it_is_zero_or_not_respected() {
        // D2
        let both = Round { v4: Some(found(&["10.0.0.1"], 7)), v6: Some(found(&["::1"], 3)) };
        assert_eq!(next_lookup(&both, &dns(true), 0, 0.0), Duration::from_secs(3));
        assert_eq!(next_lookup(&both, &dns(false), 0, 0.0), Duration::from_secs(30));
        let zero = v4(found(&["10.0.0.1"], 0));
        assert_eq!(next_lookup(&zero, &dns(true), 0, 0.0), Duration::from_secs(30));
        // An answer without a TTL: the endpoints are missed, so sooner than the refresh rate.
        assert_eq!(next_lookup(&v4(Answer::Nothing), &dns(true), 0, 0.0), Duration::from_secs(5));
        // Never before the TTL is over, and hardly after it.
        let one = v4(found(&["10.0.0.1"], 1));
        assert_eq!(next_lookup(&one, &dns(true), 0, 0.0), Duration::from_secs(1));
        assert_eq!(next_lookup(&one, &dns(true), 0, 1.0), Duration::from_millis(1050));
    }

    #[test]
    fn failures_are_retried_with_growing_waits_up_to_the_refresh_rate() {
        // D2
        let waits: Vec<_> =
            (1..=7).map(|n| next_lookup(&v4(failed()), &dns(true), n, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        let late = next_lookup(&v4(failed()), &dns(true), u32::MAX, 0.0);
        assert_eq!(late, Duration::from_secs(30));
        assert_eq!(next_lookup(&v4(failed()), &dns(true), 1, 1.0), Duration::from_millis(500));
        let zero = Dns { refresh_rate: GatewayDuration::from_millis(0), ..dns(false) };
        assert_eq!(next_lookup(&v4(Answer::Nothing), &zero, 0, 0.0), SHORTEST);
    }

    #[test]
    fn no_such_name_and_no_records_remove_the_addresses() {
        // D3
        assert!(merge(&[ip("10.0.0.1")], &v4(Answer::Nothing)).is_empty());
    }

    #[test]
    fn a_failure_keeps_the_old_addresses() {
        // D4
        let old = [ip("10.0.0.1"), ip("::1")];
        assert_eq!(*merge(&old, &v4(failed())), old);
        // One family failed: only that one keeps what it had.
        let half = Round { v4: Some(failed()), v6: Some(found(&["::2"], 5)) };
        assert_eq!(*merge(&old, &half), [ip("10.0.0.1"), ip("::2")]);
    }

    #[test]
    fn a_failure_at_the_start_gives_no_address() {
        // D5
        assert!(merge(&[], &v4(failed())).is_empty());
    }

    #[test]
    fn a_family_that_is_no_longer_needed_is_dropped() {
        let old = [ip("::1")];
        assert_eq!(*merge(&old, &v4(found(&["10.0.0.1"], 5))), [ip("10.0.0.1")]);
    }
}
