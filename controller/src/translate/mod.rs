//! Fourth stage: the graph in the words of the state.
//!
//! Inputs: a [`Graph`], and the one before. Outputs: a [`State`], in which every reference resolves: the same as if there
//! had been no graph before. Nothing is read, nothing is reported. An object of the state that is equal to what it was is
//! the same [`Arc`], so that whoever writes the state need not compare more.

mod backends;
mod gateways;
mod policies;
mod pools;
mod routes;
mod uses;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use understudy_conf::{Guard, GuardName, PoolName, RouteName, State, differences};

use crate::graph::{BuiltRoute, Graph};
use crate::translate::uses::Uses;
use crate::watch::ObjectId;

/// Translates graphs. Versions are left to who publishes states.
#[derive(Debug, Default)]
pub(crate) struct Translator {
    graph: Arc<Graph>,
    /// What each route became.
    routes: BTreeMap<ObjectId, Names>,
    uses: Uses,
    state: Arc<State>,
}

/// The names of what a route became.
#[derive(Debug, Default)]
struct Names {
    routes: Vec<RouteName>,
    pools: Vec<PoolName>,
}

impl Translator {
    /// Translates a graph.
    pub(crate) fn translate(
        &mut self,
        graph: &Arc<Graph>,
        guards: BTreeMap<GuardName, Arc<Guard>>,
    ) -> Arc<State> {
        let mut state = std::mem::take(&mut self.state);
        // Whoever looked at the last one has done so by now: nothing is copied.
        self.update(graph, Arc::make_mut(&mut state));
        let guards = keep_objects(&state.guards, guards);
        if guards != state.guards {
            Arc::make_mut(&mut state).guards = guards;
        }
        self.state = state.clone();
        state
    }

    fn update(&mut self, graph: &Arc<Graph>, state: &mut State) {
        let last = std::mem::replace(&mut self.graph, graph.clone());
        let same_gateways = Arc::ptr_eq(&last.gateways, &graph.gateways);
        let same_policies = Arc::ptr_eq(&last.policies, &graph.policies);
        if !same_gateways {
            let gateways = gateways::build_gateways(graph);
            state.gateways = keep_objects(&state.gateways, gateways);
        }
        if same_gateways && same_policies {
            if !Arc::ptr_eq(&last.routes, &graph.routes) {
                for (key, _, after) in differences(&last.routes, &graph.routes, Arc::ptr_eq) {
                    self.replace_route(graph, state, key, after);
                }
            }
        } else {
            // The names of listeners and the policies of rules may be others on every route.
            let gone = last.routes.keys().filter(|key| !graph.routes.contains_key(key));
            gone.for_each(|key| self.replace_route(graph, state, key, None));
            graph.routes.iter().for_each(|(key, route)| self.replace_route(graph, state, key, Some(route)));
        }
        let used = self.uses.take();
        if same_policies {
            policies::update_policies(graph, &used.policies, &self.uses, state);
        } else {
            let all: BTreeSet<_> = state.policies.keys().cloned().chain(used.policies).collect();
            policies::update_policies(graph, &all, &self.uses, state);
        }
        let mut doubtful = used.backends;
        doubtful.extend(backends::differing(&last, graph));
        if !doubtful.is_empty() || !same_gateways {
            backends::update_backends(graph, &doubtful, &self.uses, state);
            backends::update_authorities(graph, state);
        }
    }

    /// Puts what became of a route in place of what became of it before.
    fn replace_route(
        &mut self,
        graph: &Graph,
        state: &mut State,
        id: &ObjectId,
        route: Option<&Arc<BuiltRoute>>,
    ) {
        let Names { routes: mut old_routes, pools: mut old_pools } =
            self.routes.remove(id).unwrap_or_default();
        for pool in old_pools.iter().filter_map(|name| state.pools.get(name)) {
            self.uses.remove(pool);
        }
        let mut names = Names::default();
        if let Some(node) = route.and_then(|route| route.node.as_ref()) {
            for group in routes::build_groups(graph, node) {
                let Some((route, pools)) = routes::build_route(graph, node, group) else { continue };
                for pool in pools {
                    self.uses.add(&pool);
                    names.pools.push(pool.name.clone());
                    keep_object(&mut state.pools, pool.name.clone(), pool);
                }
                names.routes.push(route.name.clone());
                keep_object(&mut state.routes, route.name.clone(), route);
            }
        }
        old_routes.retain(|name| !names.routes.contains(name));
        old_pools.retain(|name| !names.pools.contains(name));
        old_routes.iter().for_each(|name| drop(state.routes.remove(name)));
        old_pools.iter().for_each(|name| drop(state.pools.remove(name)));
        if !names.routes.is_empty() {
            self.routes.insert(id.clone(), names);
        }
    }
}

/// Puts an object into its place, unless an equal one is there.
fn keep_object<N: Ord, T: PartialEq>(objects: &mut BTreeMap<N, Arc<T>>, name: N, object: T) {
    if objects.get(&name).is_none_or(|known| **known != object) {
        objects.insert(name, object.into());
    }
}

/// Objects, each the one that was there if that is equal.
fn keep_objects<N: Ord, T: PartialEq>(
    before: &BTreeMap<N, Arc<T>>,
    mut now: BTreeMap<N, Arc<T>>,
) -> BTreeMap<N, Arc<T>> {
    for (name, object) in &mut now {
        if let Some(known) = before.get(name).filter(|known| *known == object) {
            *object = known.clone();
        }
    }
    now
}
