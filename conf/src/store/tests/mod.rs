//! Tests of the store as a whole, on a real file system.

mod arbitrary;
mod damage;
mod kill;
mod private;
mod publish;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::*;

/// Every file below a folder, but the lock.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.ends_with("controller.lock") => {}
                false => found.push(path),
            }
        }
    }
    found.sort();
    found
}

/// So many routes, each with a pool, a backend and a policy that all share.
fn shops(count: usize) -> State {
    let mut state = State::default();
    let gateway = Gateway {
        name: GatewayName::new("gateway/default/eg").unwrap(),
        listeners: vec![Listener {
            name: ListenerName::new("http").unwrap(),
            port: 80,
            bind: vec!["127.0.0.1:10080".parse().unwrap()],
            protocol: Protocol::Http,
            hostname: None,
            tls: None,
        }],
    };
    let policy = Policy::unset(PolicyName::new("backendtrafficpolicy/default/failover").unwrap());
    for number in 0..count {
        add_shop(&mut state, number, &gateway, &policy.name);
    }
    state.gateways.insert(gateway.name.clone(), Arc::new(gateway));
    state.policies.insert(policy.name.clone(), Arc::new(policy));
    state
}

fn add_shop(state: &mut State, number: usize, gateway: &Gateway, policy: &PolicyName) {
    let backend = Backend {
        name: BackendName::new(format!("backend/default/shop-{number}")).unwrap(),
        protocol: UpstreamProtocol::Http1,
        tls: None,
        endpoints: vec![Endpoint::at(EndpointAddress::Ip { address: [10, 0, 0, 1].into(), port: 3000 })],
    };
    let pool = Pool {
        name: PoolName::new(format!("httproute/default/shop-{number}/rule/0")).unwrap(),
        policy: Some(policy.clone()),
        refs: vec![PoolRef {
            target: RefTarget::Backend(backend.name.clone()),
            priority: 0,
            weight: 1,
            filters: vec![],
        }],
    };
    let route = Route {
        name: RouteName::new(format!("httproute/default/shop-{number}")).unwrap(),
        kind: RouteKind::Http,
        created: 1_700_000_000,
        attachments: vec![Attachment {
            gateway: gateway.name.clone(),
            listener: gateway.listeners[0].name.clone(),
            hostnames: vec![Hostname::new(format!("shop-{number}.example.com")).unwrap()],
        }],
        rules: vec![Rule {
            name: None,
            matches: vec![HttpMatch {
                path: PathMatch::Prefix("/".to_owned()),
                method: None,
                headers: vec![],
                query: vec![],
            }],
            filters: vec![],
            timeouts: None,
            retry: None,
            action: Action::Forward(pool.name.clone()),
        }],
    };
    state.backends.insert(backend.name.clone(), Arc::new(backend));
    state.pools.insert(pool.name.clone(), Arc::new(pool));
    state.routes.insert(route.name.clone(), Arc::new(route));
}

/// Gives one shop's backend an endpoint of this port.
fn move_endpoint(state: &mut State, number: usize, port: u16) {
    let name = BackendName::new(format!("backend/default/shop-{number}")).unwrap();
    let mut backend = Backend::clone(&state.backends[&name]);
    backend.endpoints = vec![Endpoint::at(EndpointAddress::Ip { address: [10, 0, 0, 1].into(), port })];
    state.backends.insert(name, Arc::new(backend));
}

/// The same objects under another version.
fn versioned(state: &State, version: u64) -> State {
    State { version, ..state.clone() }
}

fn read_state(reader: &mut store::Reader) -> Arc<State> {
    match reader.read().unwrap() {
        store::Read::State(state) => state,
        store::Read::Unchanged => panic!("a new version was expected"),
    }
}
