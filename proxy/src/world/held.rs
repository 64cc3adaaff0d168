//! Routes that are held back as they were, since the endpoints of their newest version are not known yet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ahash::AHashSet;
use understudy_conf::{
    Action, BackendName, EndpointAddress, HttpFilter, PoolName, RefTarget, Route, RouteName, State,
};

use understudy_engine::Instant;

use super::pool_spec::Addresses;
use super::{Making, RuleTable};

/// The state as it is served while these routes are held: they stand in it as before, or not at all.
pub(super) fn hold(target: &Arc<State>, before: &State, held: &BTreeMap<RouteName, Instant>) -> Arc<State> {
    if held.is_empty() {
        return target.clone();
    }
    let mut state = State::clone(target);
    for route in held.keys() {
        match before.routes.get_key_value(route) {
            Some((name, route)) => drop(state.routes.insert(name.clone(), route.clone())),
            None => drop(state.routes.remove(route)),
        }
    }
    Arc::new(state)
}

/// Routes with a name that has no answer yet, but may soon have one.
pub(super) fn by_names(state: &State, addresses: &Addresses) -> BTreeSet<RouteName> {
    if addresses.awaited.is_empty() {
        return BTreeSet::new();
    }
    let is_awaited = |address: &EndpointAddress| match address {
        EndpointAddress::Fqdn { hostname, .. } => addresses.awaited.contains(hostname),
        EndpointAddress::Ip { .. } | EndpointAddress::Unix { .. } => false,
    };
    let backends: AHashSet<&BackendName> = state
        .backends
        .values()
        .filter(|backend| backend.endpoints.iter().any(|endpoint| is_awaited(&endpoint.address)))
        .map(|backend| &backend.name)
        .collect();
    let uses = |name: &PoolName| {
        let refs = state.pools.get(name).into_iter().flat_map(|pool| &pool.refs);
        refs.into_iter().any(|reference| match &reference.target {
            RefTarget::Backend(name) => backends.contains(name),
            RefTarget::Invalid(_) => false,
        })
    };
    let awaits = |route: &&Arc<Route>| pools_of(state, route).any(&uses);
    state.routes.values().filter(awaits).map(|route| route.name.clone()).collect()
}

/// The pools that a route's requests, and copies of them, go to.
fn pools_of<'a>(state: &'a State, route: &'a Route) -> impl Iterator<Item = &'a PoolName> {
    route.rules.iter().flat_map(move |rule| {
        let own = match &rule.action {
            Action::Forward(pool) => Some(pool),
            Action::Redirect(_) | Action::Respond(_) => None,
        };
        let refs = own.and_then(|own| state.pools.get(own)).into_iter().flat_map(|pool| &pool.refs);
        let filters = rule.filters.iter().chain(refs.flat_map(|reference| &reference.filters));
        let mirrors = filters.filter_map(|filter| match filter {
            HttpFilter::RequestMirror(mirror) => Some(&mirror.pool),
            _ => None,
        });
        own.into_iter().chain(mirrors)
    })
}

/// Rule H1: no endpoint gets a request before its check passed, so that a rule whose primary endpoints all wait for their
/// first result had better wait, too.
pub(super) fn by_checks(table: &RuleTable, making: &Making<'_>) -> bool {
    let Some(patience) = making.patience else { return false };
    table.pool.as_ref().is_some_and(|pool| pool.pool.awaits_first_checks(patience, making.now))
}
