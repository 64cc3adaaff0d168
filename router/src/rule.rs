//! A rule of a route, ready to be applied.

use std::sync::Arc;

use understudy_conf::{Action, Retry, RouteKind, RouteName, RuleTimeouts};

use crate::filters::CompiledFilters;

/// A rule of a route, ready to be applied.
#[derive(Debug)]
pub struct CompiledRule {
    /// Its place in [`Router::rules`](crate::Router::rules), for tables that hold one entry per rule. It keeps it in
    /// the routers that follow, until its route changes.
    pub id: usize,
    /// The route that it belongs to.
    pub route: RouteName,
    /// What the route matches.
    pub kind: RouteKind,
    /// Its place in the route, from 0.
    pub rule_index: usize,
    /// Its own name, if it has one.
    pub name: Option<String>,
    /// What happens with the request. A rule that could not be compiled answers 500.
    pub action: Action,
    /// Timeouts of the route itself.
    pub timeouts: Option<RuleTimeouts>,
    /// Retries of the route itself.
    pub retry: Option<Box<Retry>>,
    /// What is changed on the way.
    pub filters: CompiledFilters,
    /// Its name in logs and metrics: `httproute/default/shop/rule/0`.
    pub label: Arc<str>,
}
