//! One consistent world: what a request is served with, from its first line to its last byte.
//!
//! Purpose: join the state, the router and the engine's pools. Inputs: a [`State`], the addresses of names.
//! Outputs: a [`World`], swapped in at once. A request takes its rule's [`RuleTable`] and keeps it.

mod pool_spec;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use understudy_conf::{
    Action, Http2, PoolName, RefusedTarget, State, TcpKeepalive, Timeouts, UpstreamProtocol,
};
use understudy_engine::{Engine, Instant, Pool, PoolSpec};
use understudy_router::{CompiledFilters, CompiledMirror, CompiledRule, Router};

use crate::metrics::{Metrics, PoolMetrics, RuleMetrics};
use crate::service::RequestHash;
use crate::service::connecting::Connectors;
use crate::upstream_tls::UpstreamTls;
pub(crate) use pool_spec::{Outside, names};

/// How long headers may take where nothing else is said.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(15);
/// Pingora keeps no more of a body for a retry.
const MAX_BUFFER: u64 = 64 * 1024;

/// Everything that is served, at one version.
pub(crate) struct World {
    pub(crate) version: u64,
    pub(crate) router: Arc<Router>,
    /// By [`CompiledRule::id`].
    pub(crate) rules: Vec<Arc<RuleTable>>,
    /// What could not act, for the acknowledgement.
    pub(crate) degraded: Vec<String>,
    /// Endpoints that the target guard refused.
    pub(crate) refused: Arc<BTreeSet<RefusedTarget>>,
    /// Those of them that came with the router.
    router_problems: Arc<[String]>,
    state: Arc<State>,
}

/// What a rule's requests need.
pub(crate) struct RuleTable {
    pub(crate) rule: Arc<CompiledRule>,
    /// For rules that forward.
    pub(crate) pool: Option<PoolTable>,
    /// Who gets copies of its requests; `None`: nobody.
    pub(crate) mirrors: Option<Box<Mirrors>>,
    pub(crate) metrics: RuleMetrics,
}

/// Who gets copies of a rule's requests.
pub(crate) struct Mirrors {
    pub(crate) of_rule: Vec<Arc<MirrorTable>>,
    /// By reference: of the requests that it gets.
    pub(crate) of_refs: Vec<Vec<Arc<MirrorTable>>>,
}

impl Mirrors {
    fn is_empty(&self) -> bool {
        self.of_rule.is_empty() && self.of_refs.iter().all(Vec::is_empty)
    }
}

/// A mirror with its pool.
pub(crate) struct MirrorTable {
    pub(crate) mirror: CompiledMirror,
    pub(crate) table: PoolTable,
}

/// A pool with what the data plane needs beside it.
pub(crate) struct PoolTable {
    pub(crate) pool: Arc<Pool>,
    /// Filters by reference.
    pub(crate) filters: Vec<CompiledFilters>,
    pub(crate) limits: Limits,
    /// What of a request its balancer hashes, if it does.
    pub(crate) hash: Option<RequestHash>,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    /// Its endpoints have active checks, so that their answers can say that they want no traffic (rule H7).
    pub(crate) checked: bool,
    /// TLS policies by reference; empty where none has one.
    pub(crate) tls: Vec<Option<Arc<UpstreamTls>>>,
    pub(crate) http2: Http2,
    /// Some endpoint speaks HTTP/2.
    pub(crate) speaks_h2: bool,
    /// Bytes of a body that may be kept for a retry.
    pub(crate) buffer_limit: u64,
    pub(crate) metrics: PoolMetrics,
    pub(crate) connectors: Connectors,
}

/// Time limits in force.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) connect: Duration,
    /// The whole request; `None`: unlimited, but for its headers.
    pub(crate) request: Option<Duration>,
    /// Until the answer's headers, where the whole request has no limit; `None`: unlimited.
    pub(crate) headers: Option<Duration>,
    pub(crate) per_try: Option<Duration>,
    pub(crate) connection_idle: Duration,
    /// Zero: unlimited.
    pub(crate) stream_idle: Duration,
    /// The age up to which a connection is used again; `None`: any.
    pub(crate) max_connection: Option<Duration>,
    /// The whole stream, upgraded ones too; `None`: unlimited.
    pub(crate) max_stream: Option<Duration>,
}

impl World {
    /// A world that serves nothing.
    pub(crate) fn empty() -> Self {
        let state = Arc::new(State::default());
        let (router, _) = Router::build(&state);
        Self {
            router: Arc::new(router),
            state,
            version: 0,
            rules: Vec::new(),
            degraded: Vec::new(),
            refused: Arc::default(),
            router_problems: Arc::default(),
        }
    }

    /// Builds the world of a state. What did not change is taken over from the world before.
    pub(crate) fn build(
        state: &Arc<State>,
        before: &Self,
        outside: Outside<'_>,
        engine: &Engine,
        metrics: &Metrics,
        now: Instant,
    ) -> Self {
        let (router, router_problems): (_, Arc<[String]>) = if same_routing(state, &before.state) {
            (before.router.clone(), before.router_problems.clone())
        } else {
            let (router, problems) = Router::build(state);
            (Arc::new(router), problems.into())
        };
        let checks = pool_spec::shared_checks(state);
        let mut degraded = router_problems.to_vec();
        let rules = router
            .rules()
            .iter()
            .map(|rule| {
                let mut pool_table = |name: &PoolName, is_mirror: bool| {
                    let pool = state.pools.get(name)?;
                    let (effective, mut spec) = pool_spec::resolve_pool(state, pool, rule, outside, &checks);
                    if is_mirror {
                        spec = pool_spec::of_mirror(spec);
                    }
                    let filters = pool.refs.iter().map(|reference| {
                        let (filters, problems) = CompiledFilters::build(&reference.filters);
                        degraded.extend(problems);
                        filters
                    });
                    let pool_at_work = engine.build_pool(spec, now);
                    Some(PoolTable {
                        connectors: Connectors::new(pool_at_work.members().len()),
                        metrics: metrics.pool(pool.name.as_str()),
                        limits: Limits::new(&effective.timeouts, effective.per_try),
                        tcp_keepalive: effective.tcp_keepalive,
                        checked: effective.checked,
                        http2: effective.http2,
                        speaks_h2: speaks_h2(pool_at_work.spec()),
                        buffer_limit: effective.buffer_limit.min(MAX_BUFFER),
                        hash: RequestHash::build(&pool_at_work.spec().load_balancer),
                        tls: pool_spec::tls_of_refs(pool, outside.tls),
                        filters: filters.collect(),
                        pool: pool_at_work,
                    })
                };
                let pool = match &rule.action {
                    Action::Forward(name) => pool_table(name, false),
                    Action::Redirect(_) | Action::Respond(_) => None,
                };
                let mut mirrors_of = |filters: &CompiledFilters| -> Vec<Arc<MirrorTable>> {
                    let tables = filters.mirrors().iter().filter_map(|mirror| {
                        let table = pool_table(&mirror.pool, true)?;
                        Some(Arc::new(MirrorTable { mirror: mirror.clone(), table }))
                    });
                    tables.collect()
                };
                let mirrors = pool.as_ref().map(|pool| Mirrors {
                    of_rule: mirrors_of(&rule.filters),
                    of_refs: pool.filters.iter().map(&mut mirrors_of).collect(),
                });
                let mirrors = mirrors.filter(|mirrors| !mirrors.is_empty()).map(Box::new);
                Arc::new(RuleTable { rule: rule.clone(), pool, mirrors, metrics: metrics.rule(&rule.label) })
            })
            .collect();
        let refused = Arc::new(outside.refused.take());
        degraded.sort();
        degraded.dedup();
        let state = state.clone();
        Self { version: state.version, router, rules, degraded, refused, router_problems, state }
    }
}

/// What governs a rule's pool, after the route's own settings replaced the policy's.
pub(crate) struct Effective {
    pub(crate) timeouts: Timeouts,
    pub(crate) per_try: Option<Duration>,
    pub(crate) tcp_keepalive: Option<TcpKeepalive>,
    pub(crate) checked: bool,
    pub(crate) http2: Http2,
    pub(crate) buffer_limit: u64,
}

impl Limits {
    fn new(timeouts: &Timeouts, per_try: Option<Duration>) -> Self {
        let request = timeouts.request.filter(|request| !request.is_zero()).map(Duration::from);
        Self {
            connect: timeouts.connect.into(),
            request,
            headers: timeouts.request.is_none().then_some(HEADERS_TIMEOUT),
            // R7: a limit of one attempt that is not below the request's does not act.
            per_try: per_try.filter(|per_try| request.is_none_or(|request| *per_try < request)),
            connection_idle: timeouts.connection_idle.into(),
            stream_idle: timeouts.stream_idle.into(),
            max_connection: timeouts.max_connection.map(Duration::from),
            max_stream: timeouts.max_stream.map(Duration::from),
        }
    }
}

fn speaks_h2(spec: &PoolSpec) -> bool {
    let mut members = spec.refs.iter().flat_map(|reference| &reference.members);
    members.any(|member| member.identity.protocol == UpstreamProtocol::H2c)
}

fn same_routing(a: &State, b: &State) -> bool {
    a.gateways.len() == b.gateways.len()
        && a.routes.len() == b.routes.len()
        && a.gateways.values().zip(b.gateways.values()).all(|(a, b)| Arc::ptr_eq(a, b))
        && a.routes.values().zip(b.routes.values()).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests {
    use understudy_conf::{GatewayDuration, Policy};

    use super::*;

    fn limits(change: impl FnOnce(&mut Timeouts), per_try: Option<Duration>) -> Limits {
        let mut timeouts = Policy::default().timeouts;
        change(&mut timeouts);
        Limits::new(&timeouts, per_try)
    }

    #[test]
    fn without_a_timeout_headers_have_fifteen_seconds() {
        // G7, replaced: none after the headers.
        let unset = limits(|_| {}, None);
        assert_eq!((unset.headers, unset.request), (Some(Duration::from_secs(15)), None));
    }

    #[test]
    fn a_request_timeout_of_zero_is_none_at_all() {
        let none = limits(|timeouts| timeouts.request = Some(GatewayDuration::default()), None);
        assert_eq!((none.headers, none.request), (None, None));
    }

    #[test]
    fn r7_a_limit_of_one_attempt_that_is_not_below_the_requests_does_not_act() {
        let request = |timeouts: &mut Timeouts| timeouts.request = Some(GatewayDuration::from_secs(2));
        let second = Duration::from_secs(1);
        assert_eq!(limits(request, Some(second)).per_try, Some(second));
        assert_eq!(limits(request, Some(second * 2)).per_try, None);
        assert_eq!(limits(|_| {}, Some(second * 99)).per_try, Some(second * 99));
    }

    #[test]
    fn the_defaults_are_envoy_gateways() {
        // G3
        let unset = limits(|_| {}, None);
        assert_eq!(unset.connect, Duration::from_secs(10));
        assert_eq!(unset.connection_idle, Duration::from_secs(3600));
        assert_eq!(unset.stream_idle, Duration::from_secs(300));
        let policy = Policy::default();
        assert_eq!(policy.buffer_limit, 32 * 1024);
        assert_eq!((policy.dns.refresh_rate, policy.dns.respect_ttl), (GatewayDuration::from_secs(30), true));
    }
}
