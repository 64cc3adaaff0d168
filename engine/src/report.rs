//! What a pool tells of itself.

use understudy_conf::{EndpointHealth, EndpointReport, Health, PoolReport};

use crate::phase::Phase;
use crate::pool::{Member, Pool};
use crate::prober::CheckProblem;
use crate::view::{MemberView, rank};
use crate::{Address, Instant};

/// How many references an event names at most.
const MAX_ORIGINS: usize = 16;

/// The report of a pool. `epoch_ms` is the engine's moment zero in milliseconds since 1970.
pub(crate) fn pool(pool: &Pool, now: Instant, epoch_ms: u64) -> PoolReport {
    let view = pool.current(now);
    let endpoints = pool
        .members()
        .iter()
        .zip(&view.members)
        .map(|(member, seen)| {
            let record = &member.record;
            let identity = record.endpoint().identity();
            EndpointReport {
                backend: pool.spec().refs[member.reference].origin.to_string(),
                address: identity.address.to_string(),
                hostname: member.spec.hostname.as_deref().map(str::to_owned),
                priority: member.priority,
                health: health(member, seen, now, epoch_ms),
                active: record.endpoint().active() as u64,
                requests: record.requests(),
                failures: record.failures(),
                ejections: record.ejections(),
                last_error: last_error(seen),
            }
        })
        .collect();
    PoolReport {
        pool: pool.name().clone(),
        state: view.state,
        reason: view.reason.clone(),
        load: pool.priorities().iter().copied().zip(view.load.iter().copied()).collect(),
        endpoints,
        without_endpoints: pool
            .spec()
            .refs
            .iter()
            .filter(|reference| reference.members.is_empty() && reference.weight > 0)
            .map(|reference| reference.origin.to_string())
            .collect(),
    }
}

/// The origins that an event concerns: the references that have the endpoint; without one, the primary references.
pub(crate) fn origins(pool: &Pool, endpoint: Option<&Address>) -> Vec<String> {
    let refs = pool.spec().refs.iter().filter(|reference| match endpoint {
        Some(address) => reference.members.iter().any(|member| member.identity.address == *address),
        None => reference.priority == 0 && !reference.invalid,
    });
    let mut origins: Vec<String> = refs.map(|reference| reference.origin.to_string()).collect();
    origins.sort();
    origins.dedup();
    origins.truncate(MAX_ORIGINS);
    origins
}

fn last_error(seen: &MemberView) -> Option<String> {
    match seen.check {
        Some(CheckProblem::Failing(failure)) => Some(format!("active check: {failure}")),
        Some(CheckProblem::Pending) => Some("active check: no result yet".to_owned()),
        None => seen.last_cause.map(|cause| cause.to_string()),
    }
}

fn health(member: &Member, seen: &MemberView, now: Instant, epoch_ms: u64) -> EndpointHealth {
    let (mut remaining_ms, mut share) = (None, None);
    let state = match seen.phase {
        Phase::Ejected { until } => {
            remaining_ms = u64::try_from(until.since(now).as_millis()).ok();
            Health::Ejected
        }
        _ if seen.check.is_some() => Health::Unhealthy,
        Phase::Healthy => Health::Healthy,
        Phase::Probing { .. } => Health::Probing,
        Phase::Trial { .. } => Health::Trial,
        Phase::Ramping { .. } => {
            share = Some(seen.share);
            Health::Ramping
        }
    };
    let since = match (state, member.check.as_deref()) {
        (Health::Healthy, _) => None,
        (Health::Unhealthy, Some(check)) => Some(check.since()),
        _ => seen.ejected_at,
    };
    let since_ms = since.map(|since| epoch_ms.saturating_add(since.as_micros() / 1000));
    EndpointHealth { state, since_ms, remaining_ms, share, obeyed: !seen.usable || rank(seen) == 0 }
}

#[cfg(test)]
mod tests {
    use crate::Address;

    #[test]
    fn addresses_are_written_as_users_know_them() {
        assert_eq!(Address::Socket(([10, 0, 0, 1], 3000).into()).to_string(), "10.0.0.1:3000");
        assert_eq!(Address::Unix(std::path::Path::new("/run/a.sock").into()).to_string(), "unix:/run/a.sock");
    }
}
