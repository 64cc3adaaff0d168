//! From the state's pool to the engine's: references resolved, settings joined. Pure.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use understudy_conf::{
    Action, ActiveHealthCheck, ActiveProbe, Backend, BackendName, Dns, Endpoint, EndpointAddress,
    LoadBalancer, Policy, PolicyName, Pool, PoolRef, RefTarget, RefusedTarget, Reports, Retry, RouteKind,
    State,
};
use understudy_engine::{Address, CheckSpec, Identity, MemberSpec, PoolSpec, RefSpec, Scope};
use understudy_router::CompiledRule;

use super::Effective;
use crate::guard::TargetGuard;
use crate::upstream_tls::{UpstreamTls, UpstreamTlsTable};

/// The addresses of all names at one moment.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    known: HashMap<String, HashMap<Dns, Arc<[IpAddr]>>>,
    /// Names that have no answer so far, but may soon have one.
    pub(super) awaited: HashSet<String>,
}

impl Addresses {
    /// Asks for the addresses of each name: `resolve` gives them if it was ever answered, empty if it has none. A name
    /// that is looked up in another way than before keeps its addresses until the first answer; for others without one
    /// `may_wait` says whether it is waited for.
    pub(crate) fn collect(
        names: &HashSet<(String, Dns)>,
        before: &Self,
        resolve: impl Fn(&str, &Dns) -> Option<Arc<[IpAddr]>>,
        mut may_wait: impl FnMut(&(String, Dns)) -> bool,
    ) -> Self {
        let mut collected = Self::default();
        for name in names {
            let (hostname, dns) = name;
            let found = resolve(hostname, dns).or_else(|| before.of(hostname, dns).cloned());
            match found {
                Some(addresses) => {
                    collected.known.entry(hostname.clone()).or_default().insert(dns.clone(), addresses);
                }
                None if may_wait(name) => drop(collected.awaited.insert(hostname.clone())),
                None => {}
            }
        }
        collected
    }

    /// The addresses of a name, preferably as they are looked up in this way.
    fn of(&self, hostname: &str, dns: &Dns) -> Option<&Arc<[IpAddr]>> {
        let known = self.known.get(hostname)?;
        known.get(dns).or_else(|| known.values().next())
    }

    /// The names whose addresses are other ones than before.
    pub(super) fn changed_since<'a>(&'a self, before: &'a Self) -> AHashSet<&'a str> {
        let names = self.known.keys().chain(before.known.keys());
        names.filter(|name| self.known.get(*name) != before.known.get(*name)).map(String::as_str).collect()
    }
}

/// What a world is built with beside the state.
#[derive(Clone, Copy)]
pub(crate) struct Outside<'a> {
    /// The addresses of names.
    pub(crate) addresses: &'a Arc<Addresses>,
    /// The TLS policies of the state.
    pub(crate) tls: &'a Arc<UpstreamTlsTable>,
    /// Which addresses no endpoint may have.
    pub(crate) guard: &'a TargetGuard,
}

/// The endpoints that the guard refused.
#[derive(Default)]
pub(super) struct Refusals {
    targets: RefCell<BTreeSet<RefusedTarget>>,
    count: Cell<u64>,
}

impl Refusals {
    /// How many there were, those that are not kept included.
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(super) fn into_targets(self) -> BTreeSet<RefusedTarget> {
        self.targets.into_inner()
    }

    fn note(&self, target: RefusedTarget) {
        self.count.set(self.count.get() + 1);
        let mut targets = self.targets.borrow_mut();
        if targets.len() < Reports::MAX_REFUSED {
            targets.insert(target);
        }
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
    let mut of_backends: AHashMap<&BackendName, Vec<&String>> = AHashMap::new();
    for backend in state.backends.values() {
        for endpoint in &backend.endpoints {
            if let EndpointAddress::Fqdn { hostname, .. } = &endpoint.address {
                of_backends.entry(&backend.name).or_default().push(hostname);
            }
        }
    }
    let mut names = HashSet::new();
    if of_backends.is_empty() {
        return names;
    }
    for pool in state.pools.values() {
        let of_ref = |reference: &PoolRef| match &reference.target {
            RefTarget::Backend(name) => of_backends.get(name),
            RefTarget::Invalid(_) => None,
        };
        for hostname in pool.refs.iter().filter_map(of_ref).flatten() {
            let dns = policy_of(state, pool).map(|policy| policy.dns.clone()).unwrap_or_default();
            names.insert(((*hostname).clone(), dns));
        }
    }
    names
}

/// The active check of a policy, where it is the same for all endpoints that have no hostname of their own.
pub(crate) type SharedChecks = HashMap<PolicyName, Arc<CheckSpec>>;

/// Finds the Host of each policy's check. Where the check names none, it is the first of the hostnames of the routes
/// that the policy governs: one only, since each further one would be a further check of every endpoint. A check that is
/// the same as before stays the same object.
pub(crate) fn shared_checks(state: &State, before: &SharedChecks) -> SharedChecks {
    let mut checks = SharedChecks::new();
    if state.policies.values().all(|policy| policy.active.is_none()) {
        return checks;
    }
    let mut hosts: HashMap<&PolicyName, &str> = HashMap::new();
    let needs_host = |policy: &Arc<Policy>| policy.active.as_ref().is_some_and(|own| own_host(own).is_none());
    let routes = state.policies.values().any(needs_host).then(|| state.routes.values());
    for route in routes.into_iter().flatten() {
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
            let check = CheckSpec { settings, host };
            let known = before.get(name).filter(|known| ***known == check);
            checks.insert(name.clone(), known.cloned().unwrap_or_else(|| Arc::new(check)));
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

/// The endpoints of a reference.
type Members = Arc<[MemberSpec]>;

/// Makes the engine's descriptions of one state's pools.
pub(super) struct SpecBuilder<'a> {
    state: &'a State,
    outside: Outside<'a>,
    checks: &'a SharedChecks,
    refusals: &'a Refusals,
    /// Names of endpoints and references, which many pools have in common.
    texts: RefCell<AHashSet<Arc<str>>>,
    /// Lists of endpoints by their reference's origin: as many as policies make of one backend.
    members: RefCell<AHashMap<Arc<str>, Vec<Members>>>,
}

impl<'a> SpecBuilder<'a> {
    pub(super) fn new(
        state: &'a State,
        outside: Outside<'a>,
        checks: &'a SharedChecks,
        refusals: &'a Refusals,
    ) -> Self {
        Self { state, outside, checks, refusals, texts: RefCell::default(), members: RefCell::default() }
    }

    /// The engine's description of a pool, and what governs it.
    pub(super) fn resolve_pool(&self, pool: &Pool, rule: &CompiledRule) -> (Effective, PoolSpec) {
        let policy = policy_of(self.state, pool).cloned().unwrap_or_default();
        // A route's own retry replaces the policy's wholly, and so do its timeouts.
        let retry = rule.retry.as_deref().or(policy.retry.as_ref()).cloned();
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
        let shared_check = pool.policy.as_ref().and_then(|policy| self.checks.get(policy));
        let udp = rule.kind == RouteKind::Udp;
        let source = MemberSource { builder: self, policy: &policy, shared_check, udp };
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
            refs: pool.refs.iter().map(|reference| source.ref_spec(reference)).collect(),
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

    /// One text for all that have it.
    fn shared(&self, text: &str) -> Arc<str> {
        let mut texts = self.texts.borrow_mut();
        if let Some(known) = texts.get(text) {
            return known.clone();
        }
        let text = Arc::<str>::from(text);
        texts.insert(text.clone());
        text
    }

    /// One list for all references that have the same origin and the same members.
    fn shared_members(&self, origin: &Arc<str>, members: Vec<MemberSpec>) -> Members {
        let mut lists = self.members.borrow_mut();
        let known = lists.entry(origin.clone()).or_default();
        if let Some(known) = known.iter().find(|known| ***known == *members) {
            return known.clone();
        }
        let list = Members::from(members);
        known.push(list.clone());
        list
    }

    /// Whether an address may be an endpoint's. If not, that is noted. What is refused is absent, as a name without an
    /// address is: so its pool fails over.
    fn admits(
        &self,
        backend: &Backend,
        address: &Address,
        name: Option<&str>,
        check: Option<&CheckSpec>,
    ) -> bool {
        let guard = self.outside.guard;
        let of_check = || match (address, check?.settings.port?) {
            // A policy's author chooses this port, and may be nobody's friend either.
            (Address::Socket(socket) | Address::Udp(socket), port) => {
                let why = guard.refusal(&Address::Socket(SocketAddr::new(socket.ip(), port)))?;
                Some(format!("its active check goes to port {port}: {why}"))
            }
            (Address::Unix(_), _) => None,
        };
        let Some(why) = guard.refusal(address).or_else(of_check) else { return true };
        let target = name.map_or_else(|| address.to_string(), |name| format!("{address} ({name})"));
        self.refusals.note(RefusedTarget { backend: backend.name.as_str().to_owned(), target, why });
        false
    }
}

/// A mirror's pool: what its endpoints answer says nothing of them, and nothing is sent twice. Failures to connect are
/// shared with whoever else reaches them, as always.
pub(crate) fn of_mirror(mut spec: PoolSpec) -> PoolSpec {
    spec.scope = Scope { policy: None, per_try_timeout: None, passive: None, ..spec.scope };
    spec.retry = Some(Retry { num_retries: 0, ..Retry::default() });
    spec.load_balancer = LoadBalancer::LeastRequest;
    spec.slow_start = None;
    for member in spec.refs.iter_mut().flat_map(|reference| Arc::make_mut(&mut reference.members)) {
        member.check = None;
    }
    spec
}

/// What the members of a pool are made with.
struct MemberSource<'a> {
    builder: &'a SpecBuilder<'a>,
    policy: &'a Policy,
    shared_check: Option<&'a Arc<CheckSpec>>,
    /// They are sent datagrams.
    udp: bool,
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

    fn at(&self, address: SocketAddr) -> Address {
        if self.udp { Address::Udp(address) } else { Address::Socket(address) }
    }

    fn ref_spec(&self, reference: &PoolRef) -> RefSpec {
        let backend = backend_of(self.builder.state, reference);
        let (origin, invalid) = match &reference.target {
            RefTarget::Backend(name) => (name.as_str(), false),
            RefTarget::Invalid(why) => (why.as_str(), true),
        };
        // Where TLS is asked for and cannot be had, nothing is served: never clear text in its place.
        let usable = |backend: &&Arc<Backend>| {
            backend.tls.is_none() || self.builder.outside.tls.of_backend(&backend.name).is_some()
        };
        let invalid = invalid || backend.is_some_and(|backend| !usable(&backend));
        let mut members: Vec<MemberSpec> = Vec::new();
        if let Some(backend) = backend.filter(usable) {
            members.reserve_exact(backend.endpoints.len());
            for member in backend.endpoints.iter().flat_map(|endpoint| self.members_of(backend, endpoint)) {
                // Two names of one address, or an address written twice, are one endpoint.
                if !members.contains(&member) {
                    members.push(member);
                }
            }
        }
        let origin = self.builder.shared(origin);
        let members = self.builder.shared_members(&origin, members);
        RefSpec { origin, invalid, priority: reference.priority, weight: reference.weight, members }
    }

    /// Rule D1: each address of a name is an endpoint.
    fn members_of(&self, backend: &Backend, endpoint: &Endpoint) -> Vec<MemberSpec> {
        let check = self.check(endpoint);
        let shared = |text: Option<&str>| text.map(|text| self.builder.shared(text));
        let member = |address: Address, origin: Option<&str>, hostname: Option<&str>| {
            if !self.builder.admits(backend, &address, hostname, check.as_deref()) {
                return None;
            }
            let tls = match &backend.tls {
                None => None,
                // TLS goes over TCP.
                Some(_) if self.udp => None,
                // Without a name to verify it cannot be reached.
                Some(tls) => {
                    let policy = self.builder.outside.tls.of_backend(&backend.name)?;
                    Some(policy.identity(tls, endpoint, &address)?)
                }
            };
            let origin = shared(origin);
            Some(MemberSpec {
                identity: Identity { origin, address, protocol: backend.protocol, tls },
                hostname: shared(hostname),
                check: check.clone(),
            })
        };
        let uid = endpoint.uid.as_deref();
        match &endpoint.address {
            EndpointAddress::Ip { address, port } => {
                member(self.at(SocketAddr::new(*address, *port)), uid, None).into_iter().collect()
            }
            // No datagram gets there.
            EndpointAddress::Unix { .. } if self.udp => Vec::new(),
            EndpointAddress::Unix { path } => {
                member(Address::Unix(path.as_path().into()), uid, None).into_iter().collect()
            }
            EndpointAddress::Fqdn { hostname, port } => {
                let addresses = self.builder.outside.addresses.of(hostname, &self.policy.dns);
                let addresses = addresses.into_iter().flat_map(|addresses| addresses.iter());
                let members = addresses.filter_map(|address| {
                    let address = self.at(SocketAddr::new(*address, *port));
                    member(address, uid.or(Some(hostname)), Some(hostname))
                });
                members.collect()
            }
        }
    }
}
