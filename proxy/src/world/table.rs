//! What one rule's requests need, built of the state.

use std::sync::Arc;

use understudy_conf::{Action, PoolName, State, UpstreamProtocol};
use understudy_engine::PoolSpec;
use understudy_router::{CompiledFilters, CompiledRule};

use super::pool_spec::{self, Refusals, SharedChecks, SpecBuilder};
use super::{Limits, Making, MirrorTable, Mirrors, PoolTable, RuleTable};
use crate::access_log::PlaceText;
use crate::service::RequestHash;
use crate::service::connecting::Connectors;

/// Pingora keeps no more of a body for a retry.
const MAX_BUFFER: u64 = 64 * 1024;

/// Builds tables of one state.
pub(super) struct TableBuilder<'a> {
    state: &'a State,
    making: &'a Making<'a>,
    specs: SpecBuilder<'a>,
    refusals: &'a Refusals,
}

impl<'a> TableBuilder<'a> {
    pub(super) fn new(
        state: &'a State,
        making: &'a Making<'a>,
        checks: &'a SharedChecks,
        refusals: &'a Refusals,
    ) -> Self {
        let specs = SpecBuilder::new(state, making.outside, checks, refusals);
        Self { state, making, specs, refusals }
    }

    /// The table of a rule, and what of it cannot act.
    pub(super) fn build(&self, rule: &Arc<CompiledRule>) -> (Arc<RuleTable>, Vec<String>) {
        let refused_before = self.refusals.count();
        let mut problems = Vec::new();
        let pool = match &rule.action {
            Action::Forward(name) => self.build_pool(rule, name, false, &mut problems),
            Action::Redirect(_) | Action::Respond(_) => None,
        };
        let mut mirrors_of = |filters: &CompiledFilters| -> Vec<Arc<MirrorTable>> {
            let tables = filters.mirrors().iter().filter_map(|mirror| {
                let table = self.build_pool(rule, &mirror.pool, true, &mut problems)?;
                Some(Arc::new(MirrorTable { mirror: mirror.clone(), table }))
            });
            tables.collect()
        };
        let mirrors = pool.as_ref().map(|pool| Mirrors {
            of_rule: mirrors_of(&rule.filters),
            of_refs: pool.filters.iter().map(&mut mirrors_of).collect(),
        });
        let table = RuleTable {
            rule: rule.clone(),
            mirrors: mirrors.filter(|mirrors| !mirrors.is_empty()).map(Arc::new),
            pool: pool.map(Arc::new),
            metrics: self.making.metrics.rule(&rule.label),
            is_unsettled: self.refusals.count() > refused_before || !problems.is_empty(),
        };
        (Arc::new(table), problems)
    }

    fn build_pool(
        &self,
        rule: &CompiledRule,
        name: &PoolName,
        is_mirror: bool,
        problems: &mut Vec<String>,
    ) -> Option<PoolTable> {
        let pool = self.state.pools.get(name)?;
        let (effective, mut spec) = self.specs.resolve_pool(pool, rule);
        if is_mirror {
            spec = pool_spec::of_mirror(spec);
        }
        let filters = pool.refs.iter().map(|reference| {
            let (filters, of_filters) = CompiledFilters::build(&reference.filters);
            problems.extend(of_filters);
            filters
        });
        let pool_at_work = self.making.engine.build_pool(spec, self.making.now);
        let spec = pool_at_work.spec();
        Some(PoolTable {
            connectors: Connectors::new(pool_at_work.members().len()),
            places: pool_at_work.members().iter().map(|_| PlaceText::default()).collect(),
            metrics: self.making.metrics.pool(pool.name.as_str()),
            limits: Limits::new(&effective.timeouts, effective.per_try),
            tcp_keepalive: effective.tcp_keepalive,
            checked: effective.checked,
            http2: effective.http2,
            speaks_h2: speaks_h2(spec),
            buffer_limit: effective.buffer_limit.min(MAX_BUFFER),
            hash: RequestHash::build(&spec.load_balancer),
            tls: pool_spec::tls_of_refs(pool, self.making.outside.tls),
            filters: filters.collect(),
            pool: pool_at_work,
        })
    }
}

fn speaks_h2(spec: &PoolSpec) -> bool {
    let mut members = spec.refs.iter().flat_map(|reference| reference.members.iter());
    members.any(|member| member.identity.protocol == UpstreamProtocol::H2c)
}
