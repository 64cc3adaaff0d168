//! From the state's pool to the engine's: references resolved, settings joined. Pure.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use understudy_conf::{
    Action, ActiveHealthCheck, ActiveProbe, Backend, Dns, Endpoint, EndpointAddress, Policy, PolicyName,
    Pool, PoolRef, RefTarget, State,
};
use understudy_engine::{Address, CheckSpec, Identity, MemberSpec, PoolSpec, RefSpec, Scope};
use understudy_router::CompiledRule;

use super::Effective;

/// The addresses of a name, if it was ever answered; empty if it has none.
pub(crate) type Resolve<'a> = dyn Fn(&str, &Dns) -> Option<Arc<[IpAddr]>> + 'a;

/// Every name that some pool needs, with how it is to be looked up.
pub(crate) fn names(state: &State) -> HashSet<(String, Dns)> {
    let mut names = HashSet::new();
    for pool in state.pools.values() {
        let dns = policy_of(state, pool).map(|policy| policy.dns.clone()).unwrap_or_default();
        for backend in pool.refs.iter().filter_map(|reference| backend_of(state, reference)) {
            for endpoint in &backend.endpoints {
                if let EndpointAddress::Fqdn { hostname, .. } = &endpoint.address {
                    names.insert((hostname.clone(), dns.clone()));
                }
            }
        }
    }
    names
}

/// The active check of a policy, where it is the same for all endpoints that have no hostname of their own.
pub(crate) type SharedChecks<'a> = HashMap<&'a PolicyName, Arc<CheckSpec>>;

/// Finds the Host of each policy's check. Where the check names none, it is the first of the hostnames of the routes
/// that the policy governs: one only, since each further one would be a further check of every endpoint.
pub(crate) fn shared_checks(state: &State) -> SharedChecks<'_> {
    let mut checks = SharedChecks::new();
    if state.policies.values().all(|policy| policy.active.is_none()) {
        return checks;
    }
    let mut hosts: HashMap<&PolicyName, &str> = HashMap::new();
    for route in state.routes.values() {
        let names = route.attachments.iter().flat_map(|attachment| &attachment.hostnames);
        let concrete = names.filter(|name| name.wildcard_suffix().is_none());
        let Some(name) = concrete.map(|name| name.as_str()).min() else { continue };
        for rule in &route.rules {
            let Action::Forward(pool) = &rule.action else { continue };
            let Some(policy) = state.pools.get(pool).and_then(|pool| pool.policy.as_ref()) else { continue };
            hosts.entry(policy).and_modify(|host| *host = name.min(host)).or_insert(name);
        }
    }
    for (name, policy) in &state.policies {
        let Some(settings) = policy.active.clone() else { continue };
        if let Some(host) = own_host(&settings).or(hosts.get(name).copied()) {
            let host = host.into();
            checks.insert(name, Arc::new(CheckSpec { settings, host }));
        }
    }
    checks
}

/// The Host that a check has whatever it asks.
fn own_host(settings: &ActiveHealthCheck) -> Option<&str> {
    match &settings.probe {
        ActiveProbe::Http(probe) => probe.hostname.as_deref(),
        ActiveProbe::Tcp(_) => Some(""),
        ActiveProbe::Grpc(_) => None,
    }
}

fn policy_of<'a>(state: &'a State, pool: &Pool) -> Option<&'a Arc<Policy>> {
    pool.policy.as_ref().and_then(|policy| state.policies.get(policy))
}

fn backend_of<'a>(state: &'a State, reference: &PoolRef) -> Option<&'a Arc<Backend>> {
    match &reference.target {
        RefTarget::Backend(name) => state.backends.get(name),
        RefTarget::Invalid(_) => None,
    }
}

/// The engine's description of a pool, and what governs it.
pub(crate) fn resolve_pool(
    state: &State,
    pool: &Pool,
    rule: &CompiledRule,
    resolve: &Resolve<'_>,
    checks: &SharedChecks<'_>,
) -> (Effective, PoolSpec) {
    let policy = policy_of(state, pool).cloned().unwrap_or_default();
    // A route's own retry replaces the policy's wholly, and so do its timeouts.
    let retry = rule.retry.clone().or_else(|| policy.retry.clone());
    let mut timeouts = policy.timeouts.clone();
    let mut per_try = retry.as_ref().and_then(|retry| retry.per_try_timeout);
    if let Some(own) = rule.timeouts {
        timeouts.request = own.request;
        per_try = own.backend_request.or(per_try);
    }
    let per_try = per_try.filter(|timeout| !timeout.is_zero());
    let scope = Scope {
        policy: pool.policy.clone(),
        timeouts: timeouts.clone(),
        per_try_timeout: per_try,
        passive: policy.passive.clone(),
    };
    let shared_check = pool.policy.as_ref().and_then(|policy| checks.get(policy));
    let source = MemberSource { policy: &policy, resolve, shared_check };
    let spec = PoolSpec {
        name: pool.name.clone(),
        scope,
        panic_threshold: policy.panic_threshold,
        retry,
        circuit_breaker: policy.circuit_breaker.clone(),
        streams_per_connection: policy.http2.max_concurrent_streams,
        load_balancer: policy.load_balancer.clone(),
        slow_start: policy.slow_start,
        refs: pool.refs.iter().map(|reference| ref_spec(state, reference, &source)).collect(),
    };
    let effective = Effective {
        timeouts,
        per_try: per_try.map(Into::into),
        tcp_keepalive: policy.tcp_keepalive,
        http2: policy.http2,
        buffer_limit: policy.buffer_limit,
    };
    (effective, spec)
}

/// What the members of a pool are made with.
struct MemberSource<'a> {
    policy: &'a Policy,
    resolve: &'a Resolve<'a>,
    shared_check: Option<&'a Arc<CheckSpec>>,
}

impl MemberSource<'_> {
    /// What an endpoint is asked. Host: the check's own hostname, the endpoint's, the routes', its address.
    fn check(&self, endpoint: &Endpoint) -> Option<Arc<CheckSpec>> {
        let settings = self.policy.active.as_ref()?;
        let of_endpoint = endpoint.hostname.as_deref().filter(|_| own_host(settings).is_none());
        let host = match (of_endpoint, self.shared_check, &endpoint.address) {
            (Some(hostname), ..) => hostname.into(),
            (None, Some(shared), _) => return Some(shared.clone()),
            (None, None, EndpointAddress::Unix { .. }) => "localhost".into(),
            (None, None, address) => address.to_string().into(),
        };
        Some(Arc::new(CheckSpec { settings: settings.clone(), host }))
    }
}

fn ref_spec(state: &State, reference: &PoolRef, source: &MemberSource<'_>) -> RefSpec {
    let backend = backend_of(state, reference);
    let (origin, invalid): (Arc<str>, bool) = match &reference.target {
        RefTarget::Backend(name) => (name.as_str().into(), false),
        RefTarget::Invalid(why) => (why.as_str().into(), true),
    };
    let mut members: Vec<MemberSpec> = Vec::new();
    for (backend, endpoint) in
        backend.iter().flat_map(|backend| backend.endpoints.iter().map(move |e| (backend, e)))
    {
        for member in members_of(backend, endpoint, source) {
            // Two names of one address, or an address written twice, are one endpoint.
            if !members.contains(&member) {
                members.push(member);
            }
        }
    }
    RefSpec { origin, invalid, priority: reference.priority, weight: reference.weight, members }
}

/// Rule D1: each address of a name is an endpoint.
fn members_of(backend: &Backend, endpoint: &Endpoint, source: &MemberSource<'_>) -> Vec<MemberSpec> {
    let check = source.check(endpoint);
    let member = |address: Address, origin: Option<&str>, hostname: Option<&str>| MemberSpec {
        identity: Identity { origin: origin.map(Into::into), address, protocol: backend.protocol },
        hostname: hostname.map(Into::into),
        check: check.clone(),
    };
    let uid = endpoint.uid.as_deref();
    match &endpoint.address {
        EndpointAddress::Ip { address, port } => {
            vec![member(Address::Socket(SocketAddr::new(*address, *port)), uid, None)]
        }
        EndpointAddress::Unix { path } => vec![member(Address::Unix(path.as_path().into()), uid, None)],
        EndpointAddress::Fqdn { hostname, port } => (source.resolve)(hostname, &source.policy.dns)
            .iter()
            .flat_map(|addresses| addresses.iter())
            .map(|address| {
                let address = Address::Socket(SocketAddr::new(*address, *port));
                member(address, uid.or(Some(hostname)), Some(hostname))
            })
            .collect(),
    }
}
