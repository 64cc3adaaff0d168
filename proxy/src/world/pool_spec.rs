//! From the state's pool to the engine's: references resolved, settings joined. Pure.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use understudy_conf::{
    Action, ActiveHealthCheck, ActiveProbe, Backend, Dns, Endpoint, EndpointAddress, LoadBalancer, Policy,
    PolicyName, Pool, PoolRef, RefTarget, RefusedTarget, Reports, Retry, State,
};
use understudy_engine::{Address, CheckSpec, Identity, MemberSpec, PoolSpec, RefSpec, Scope};
use understudy_router::CompiledRule;

use super::Effective;
use crate::guard::TargetGuard;
use crate::upstream_tls::{UpstreamTls, UpstreamTlsTable};

/// The addresses of a name, if it was ever answered; empty if it has none.
pub(crate) type Resolve<'a> = dyn Fn(&str, &Dns) -> Option<Arc<[IpAddr]>> + 'a;

/// What a world is built with beside the state.
#[derive(Clone, Copy)]
pub(crate) struct Outside<'a> {
    /// The addresses of names.
    pub(crate) resolve: &'a Resolve<'a>,
    /// The TLS policies of the state.
    pub(crate) tls: &'a UpstreamTlsTable,
    /// Which addresses no endpoint may have.
    pub(crate) guard: &'a TargetGuard,
    /// The endpoints that it refused.
    pub(crate) refused: &'a RefCell<BTreeSet<RefusedTarget>>,
}

impl Outside<'_> {
    /// Whether an address may be an endpoint's. If not, that is noted. What is refused is absent, as a name without an
    /// address is: so its pool fails over.
    fn admits(
        &self,
        backend: &Backend,
        address: &Address,
        name: Option<&str>,
        check: Option<&CheckSpec>,
    ) -> bool {
        let of_check = || match (address, check?.settings.port?) {
            // A policy's author chooses this port, and may be nobody's friend either.
            (Address::Socket(socket), port) => {
                let why = self.guard.refusal(&Address::Socket(SocketAddr::new(socket.ip(), port)))?;
                Some(format!("its active check goes to port {port}: {why}"))
            }
            (Address::Unix(_), _) => None,
        };
        let Some(why) = self.guard.refusal(address).or_else(of_check) else { return true };
        let target = name.map_or_else(|| address.to_string(), |name| format!("{address} ({name})"));
        let mut refused = self.refused.borrow_mut();
        if refused.len() < Reports::MAX_REFUSED {
            refused.insert(RefusedTarget { backend: backend.name.as_str().to_owned(), target, why });
        }
        false
    }
}

/// The TLS policies of a pool's references; none at all where no reference has one.
pub(crate) fn tls_of_refs(pool: &Pool, table: &UpstreamTlsTable) -> Vec<Option<Arc<UpstreamTls>>> {
    let of_ref = |reference: &PoolRef| match &reference.target {
        RefTarget::Backend(name) => table.of_backend(name).cloned(),
        RefTarget::Invalid(_) => None,
    };
    let found: Vec<_> = pool.refs.iter().map(of_ref).collect();
    if found.iter().any(Option::is_some) { found } else { Vec::new() }
}

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
    outside: Outside<'_>,
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
    let source = MemberSource { policy: &policy, outside, shared_check };
    let spec = PoolSpec {
        name: pool.name.clone(),
        scope,
        panic_threshold: policy.panic_threshold,
        retry,
        circuit_breaker: policy.circuit_breaker.clone(),
        streams_per_connection: policy
            .http2
            .max_concurrent_streams
            .min(policy.circuit_breaker.max_requests_per_connection.unwrap_or(u32::MAX)),
        load_balancer: policy.load_balancer.clone(),
        slow_start: policy.slow_start,
        refs: pool.refs.iter().map(|reference| ref_spec(state, reference, &source)).collect(),
    };
    let effective = Effective {
        timeouts,
        per_try: per_try.map(Into::into),
        tcp_keepalive: policy.tcp_keepalive,
        checked: policy.active.is_some(),
        http2: policy.http2,
        buffer_limit: policy.buffer_limit,
    };
    (effective, spec)
}

/// A mirror's pool: what its endpoints answer says nothing of them, and nothing is sent twice. Failures to connect are
/// shared with whoever else reaches them, as always.
pub(crate) fn of_mirror(mut spec: PoolSpec) -> PoolSpec {
    spec.scope = Scope { policy: None, per_try_timeout: None, passive: None, ..spec.scope };
    spec.retry = Some(Retry { num_retries: 0, ..Retry::default() });
    spec.load_balancer = LoadBalancer::LeastRequest;
    spec.slow_start = None;
    for member in spec.refs.iter_mut().flat_map(|reference| &mut reference.members) {
        member.check = None;
    }
    spec
}

/// What the members of a pool are made with.
struct MemberSource<'a> {
    policy: &'a Policy,
    outside: Outside<'a>,
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
    // Where TLS is asked for and cannot be had, nothing is served: never clear text in its place.
    let usable = |backend: &&Arc<Backend>| {
        backend.tls.is_none() || source.outside.tls.of_backend(&backend.name).is_some()
    };
    let invalid = invalid || backend.is_some_and(|backend| !usable(&backend));
    let backend = backend.filter(usable);
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
    let member = |address: Address, origin: Option<&str>, hostname: Option<&str>| {
        if !source.outside.admits(backend, &address, hostname, check.as_deref()) {
            return None;
        }
        let tls = match &backend.tls {
            None => None,
            // Without a name to verify it cannot be reached.
            Some(tls) => {
                let policy = source.outside.tls.of_backend(&backend.name)?;
                Some(policy.identity(tls, endpoint, &address)?)
            }
        };
        let origin = origin.map(Into::into);
        Some(MemberSpec {
            identity: Identity { origin, address, protocol: backend.protocol, tls },
            hostname: hostname.map(Into::into),
            check: check.clone(),
        })
    };
    let uid = endpoint.uid.as_deref();
    match &endpoint.address {
        EndpointAddress::Ip { address, port } => {
            member(Address::Socket(SocketAddr::new(*address, *port)), uid, None).into_iter().collect()
        }
        EndpointAddress::Unix { path } => {
            member(Address::Unix(path.as_path().into()), uid, None).into_iter().collect()
        }
        EndpointAddress::Fqdn { hostname, port } => (source.outside.resolve)(hostname, &source.policy.dns)
            .iter()
            .flat_map(|addresses| addresses.iter())
            .filter_map(|address| {
                let address = Address::Socket(SocketAddr::new(*address, *port));
                member(address, uid.or(Some(hostname)), Some(hostname))
            })
            .collect(),
    }
}
