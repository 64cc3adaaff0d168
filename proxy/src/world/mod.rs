//! One consistent world: what a request is served with, from its first line to its last byte.
//!
//! Purpose: join the state, the router and the engine's pools. Inputs: a [`State`], the addresses of names, the world
//! before. Outputs: a [`World`], swapped in at once. A request takes its rule's [`RuleTable`] and keeps it.
//!
//! A world is built at the price of what changed: everything else is taken over from the world before. Routes whose new
//! endpoints are not known yet are held back as they were, so that nothing else waits for them.

mod affected;
mod held;
mod pool_spec;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use understudy_conf::{Http2, RefusedTarget, RouteName, State, TcpKeepalive, Timeouts};
use understudy_engine::{Engine, Instant, Pool};
use understudy_router::{CompiledFilters, CompiledMirror, CompiledRule, Router};

use crate::access_log::PlaceText;
use crate::metrics::{Metrics, PoolMetrics, RuleMetrics};
use crate::service::RequestHash;
use crate::service::connecting::Connectors;
use crate::upstream_tls::{UpstreamTls, UpstreamTlsTable};
use affected::Affected;
pub(crate) use pool_spec::{Addresses, Outside, names};
use pool_spec::{Refusals, SharedChecks};
use table::TableBuilder;

/// How long headers may take where nothing else is said.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(15);

/// Everything that is served, at one version.
pub(crate) struct World {
    pub(crate) version: u64,
    pub(crate) router: Arc<Router>,
    /// By [`CompiledRule::id`].
    pub(crate) rules: Vec<Option<Arc<RuleTable>>>,
    /// What could not act, for the acknowledgement.
    pub(crate) degraded: Vec<String>,
    /// Endpoints that the target guard refused.
    pub(crate) refused: Arc<BTreeSet<RefusedTarget>>,
    /// Routes that are served as before, or not at all, until the endpoints of their newest version are known.
    pub(crate) held: BTreeMap<RouteName, Instant>,
    /// What they will be served with: their endpoints are checked meanwhile.
    _awaited: Vec<Arc<RuleTable>>,
    /// Tables that were not taken over from the world before.
    built: Vec<Arc<RuleTable>>,
    /// What all this was built of; held routes stand in it as they are served.
    state: Arc<State>,
    addresses: Arc<Addresses>,
    checks: SharedChecks,
    tls: Arc<UpstreamTlsTable>,
}

/// What a rule's requests need.
pub(crate) struct RuleTable {
    pub(crate) rule: Arc<CompiledRule>,
    /// For rules that forward.
    pub(crate) pool: Option<Arc<PoolTable>>,
    /// Who gets copies of its requests; `None`: nobody.
    pub(crate) mirrors: Option<Arc<Mirrors>>,
    pub(crate) metrics: RuleMetrics,
    /// Built anew with each world: some of its endpoints were refused, or something of it cannot act.
    pub(crate) is_unsettled: bool,
}

impl RuleTable {
    /// Its pool, and those of its mirrors.
    fn pools(&self) -> impl Iterator<Item = &PoolTable> {
        let mirrors = self.mirrors.iter().flat_map(|mirrors| {
            mirrors.of_rule.iter().chain(mirrors.of_refs.iter().flatten()).map(|mirror| &mirror.table)
        });
        self.pool.as_deref().into_iter().chain(mirrors)
    }
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
    /// How the log names its members.
    pub(crate) places: Box<[PlaceText]>,
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

/// What a world is built for, besides its state.
pub(crate) struct Making<'a> {
    pub(crate) outside: Outside<'a>,
    pub(crate) engine: &'a Engine,
    pub(crate) metrics: &'a Metrics,
    pub(crate) now: Instant,
    /// How long a route may be held back for a check of its endpoints that has no result; `None`: no route is.
    pub(crate) patience: Option<Duration>,
}

impl World {
    /// A world that serves nothing.
    pub(crate) fn empty() -> Self {
        Self {
            version: 0,
            router: Arc::default(),
            rules: Vec::new(),
            degraded: Vec::new(),
            refused: Arc::default(),
            held: BTreeMap::new(),
            _awaited: Vec::new(),
            built: Vec::new(),
            state: Arc::default(),
            addresses: Arc::default(),
            checks: SharedChecks::default(),
            tls: Arc::default(),
        }
    }

    /// Builds the world of a state.
    pub(crate) fn build(state: &Arc<State>, before: &Self, making: &Making<'_>) -> Self {
        let mut held = BTreeMap::new();
        before.hold(held::by_names(state, making.outside.addresses), making, &mut held);
        let mut awaited = Vec::new();
        loop {
            let world = Self::build_holding(state, before, making, &held);
            let awaiting: Vec<_> =
                world.built.iter().filter(|table| held::by_checks(table, making)).cloned().collect();
            if !before.hold(awaiting.iter().map(|table| table.rule.route.clone()), making, &mut held) {
                return Self { held, _awaited: awaited, ..world };
            }
            awaited.extend(awaiting);
        }
    }

    /// Adds routes to those that are held, but none for longer than [`Making::patience`], however often it gets endpoints
    /// that are not known yet. Says whether any was added.
    fn hold(
        &self,
        routes: impl IntoIterator<Item = RouteName>,
        making: &Making<'_>,
        held: &mut BTreeMap<RouteName, Instant>,
    ) -> bool {
        let known = held.len();
        for route in routes {
            let since = self.held.get(&route).copied().unwrap_or(making.now);
            if making.patience.is_some_and(|patience| making.now.since(since) < patience) {
                held.entry(route).or_insert(since);
            }
        }
        held.len() > known
    }

    /// Builds a world in which these routes are as before.
    fn build_holding(
        target: &Arc<State>,
        before: &Self,
        making: &Making<'_>,
        held: &BTreeMap<RouteName, Instant>,
    ) -> Self {
        let state = held::hold(target, &before.state, held);
        let outside = making.outside;
        let checks = pool_spec::shared_checks(&state, &before.checks);
        let affected = Affected::by_changes(before, &state, outside, &checks);
        let router = Arc::new(before.router.update(&before.state, &state));
        let refusals = Refusals::default();
        let builder = TableBuilder::new(&state, making, &checks, &refusals);
        let mut problems: Vec<String> = router.problems().cloned().collect();
        let mut built = Vec::new();
        let table_of = |(id, rule): (usize, &Option<Arc<CompiledRule>>)| {
            let rule = rule.as_ref()?;
            let known = before.rules.get(id).and_then(Option::as_ref);
            let known = known.filter(|known| Arc::ptr_eq(&known.rule, rule));
            let stays = |known: &&Arc<RuleTable>| {
                let route = &rule.route;
                let was_held = !before.held.is_empty() && before.held.contains_key(route);
                let is_held = !held.is_empty() && held.contains_key(route);
                is_held || !(was_held || known.is_unsettled || affected.contains(known))
            };
            let recompiled = || held.contains_key(&rule.route).then(|| before.recompiled(rule)).flatten();
            Some(known.filter(stays).cloned().or_else(recompiled).unwrap_or_else(|| {
                let (table, mut of_table) = builder.build(rule);
                problems.append(&mut of_table);
                built.push(table.clone());
                table
            }))
        };
        let rules = router.rules().iter().enumerate().map(table_of).collect();
        problems.sort();
        problems.dedup();
        Self {
            version: target.version,
            router,
            rules,
            degraded: problems,
            refused: Arc::new(refusals.into_targets()),
            held: BTreeMap::new(),
            _awaited: Vec::new(),
            built,
            state,
            addresses: outside.addresses.clone(),
            checks,
            tls: outside.tls.clone(),
        }
    }

    /// The table of a rule that is the same as before, but was compiled anew, as all are when a gateway changes.
    fn recompiled(&self, rule: &Arc<CompiledRule>) -> Option<Arc<RuleTable>> {
        let is_same = |known: &&Arc<RuleTable>| {
            known.rule.route == rule.route && known.rule.rule_index == rule.rule_index
        };
        let known = self.tables().find(is_same)?;
        Some(Arc::new(RuleTable {
            rule: rule.clone(),
            pool: known.pool.clone(),
            mirrors: known.mirrors.clone(),
            metrics: known.metrics.clone(),
            is_unsettled: known.is_unsettled,
        }))
    }

    /// Lets the pools that are new in this world serve.
    pub(crate) fn adopt_pools(&self, engine: &Engine) {
        engine.adopt(self.built.iter().flat_map(|table| table.pools()).map(|table| &table.pool));
    }

    /// The rules that requests can get.
    pub(crate) fn tables(&self) -> impl Iterator<Item = &Arc<RuleTable>> {
        self.rules.iter().flatten()
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
