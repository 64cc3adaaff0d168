//! Fourth stage: the graph in the words of the state.
//!
//! Inputs: a [`Graph`]. Outputs: a [`State`], in which every reference resolves. Pure: nothing is read, nothing
//! is reported, and the same graph always gives the same state.

mod backends;
mod gateways;
mod policies;
mod pools;
mod routes;

use understudy_conf::State;

use crate::graph::Graph;

/// Translates a graph. The version is left to who publishes it.
pub(crate) fn build_state(graph: &Graph) -> State {
    let mut state = State {
        gateways: gateways::build_gateways(graph),
        certificates: gateways::build_certificates(graph),
        ..State::default()
    };
    for route in &graph.routes {
        for group in routes::build_groups(graph, route) {
            let Some((route, pools)) = routes::build_route(graph, route, group) else { continue };
            for pool in pools {
                policies::add_policy(graph, &pool, &mut state.policies);
                backends::add_backends(graph, &pool, &mut state);
                state.pools.insert(pool.name.clone(), pool.into());
            }
            state.routes.insert(route.name.clone(), route.into());
        }
    }
    state
}
