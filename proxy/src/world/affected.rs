//! Which tables of the world before do not fit a new state any more.

use ahash::AHashSet;
use understudy_conf::{
    Backend, BackendName, EndpointAddress, PolicyName, Pool, PoolName, RefTarget, State, changes,
};

use super::pool_spec::{Outside, SharedChecks};
use super::{RuleTable, World};

/// Pools that have to be built anew, besides those of routes that changed.
pub(super) enum Affected {
    All,
    Pools(AHashSet<PoolName>),
}

impl Affected {
    /// Compares all that pools are made of. Whatever is the same object as before is the same.
    pub(super) fn by_changes(
        before: &World,
        state: &State,
        outside: Outside<'_>,
        checks: &SharedChecks,
    ) -> Self {
        // Only the guard knows what it refuses.
        if changes(&before.state.guards, &state.guards).next().is_some() {
            return Self::All;
        }
        let policies = changed_policies(before, state, checks);
        let backends = changed_backends(before, state, outside);
        let mut pools: AHashSet<PoolName> =
            changes(&before.state.pools, &state.pools).map(|change| change.name.clone()).collect();
        if !policies.is_empty() || !backends.is_empty() {
            let of_backend = |pool: &Pool| {
                pool.refs.iter().any(|reference| match &reference.target {
                    RefTarget::Backend(name) => backends.contains(name),
                    RefTarget::Invalid(_) => false,
                })
            };
            let concerned = state.pools.values().filter(|pool| {
                pool.policy.as_ref().is_some_and(|name| policies.contains(name)) || of_backend(pool)
            });
            pools.extend(concerned.map(|pool| pool.name.clone()));
        }
        Self::Pools(pools)
    }

    /// Whether a table is to be built anew.
    pub(super) fn contains(&self, table: &RuleTable) -> bool {
        let pools = match self {
            Self::All => return true,
            Self::Pools(pools) if pools.is_empty() => return false,
            Self::Pools(pools) => pools,
        };
        table.pools().any(|table| pools.contains(table.pool.name()))
    }
}

fn changed_policies<'a>(
    before: &'a World,
    state: &'a State,
    checks: &'a SharedChecks,
) -> AHashSet<&'a PolicyName> {
    let mut changed: AHashSet<_> =
        changes(&before.state.policies, &state.policies).map(|change| change.name).collect();
    let differs = |(name, check): (&'a PolicyName, &_), other: &SharedChecks| {
        (other.get(name) != Some(check)).then_some(name)
    };
    changed.extend(checks.iter().filter_map(|entry| differs(entry, &before.checks)));
    changed.extend(before.checks.iter().filter_map(|entry| differs(entry, checks)));
    changed
}

fn changed_backends<'a>(
    before: &'a World,
    state: &'a State,
    outside: Outside<'a>,
) -> AHashSet<&'a BackendName> {
    let mut changed: AHashSet<_> =
        changes(&before.state.backends, &state.backends).map(|change| change.name).collect();
    changed.extend(outside.tls.changed_since(&before.tls));
    let names = outside.addresses.changed_since(&before.addresses);
    if !names.is_empty() {
        let has_changed_name = |backend: &Backend| {
            backend.endpoints.iter().any(|endpoint| match &endpoint.address {
                EndpointAddress::Fqdn { hostname, .. } => names.contains(hostname.as_str()),
                EndpointAddress::Ip { .. } | EndpointAddress::Unix { .. } => false,
            })
        };
        let concerned = state.backends.values().filter(|backend| has_changed_name(backend));
        changed.extend(concerned.map(|backend| &backend.name));
    }
    changed
}
