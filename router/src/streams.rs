//! Routes of listeners that carry no HTTP: TCP, TLS and UDP.
//!
//! Inputs: the gateways and routes of a state, and the rules that were compiled of them. Outputs: for each such listener
//! which rule its connections belong to. A route of these kinds has one rule and matches nothing but the server name.

use std::net::SocketAddr;
use std::sync::Arc;

use ahash::AHashMap;
use understudy_conf::{
    Attachment, GatewayName, Hostname, Listener, ListenerName, Protocol, Route, RouteKind, RouteName, State,
};

use crate::host::{HostBuffer, HostMap, normalise_host};
use crate::rule::CompiledRule;
use crate::table::ListenerKey;

/// Whether a route of this kind carries bytes or datagrams as they are, rather than requests.
pub(crate) fn is_stream(kind: RouteKind) -> bool {
    match kind {
        RouteKind::Http | RouteKind::Grpc => false,
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => true,
    }
}

/// Whether a listener of this protocol carries routes of this kind. What a TLS listener decrypted is a TCP connection.
fn carries(protocol: Protocol, kind: RouteKind) -> bool {
    matches!(
        (protocol, kind),
        (Protocol::Tcp, RouteKind::Tcp)
            | (Protocol::Udp, RouteKind::Udp)
            | (Protocol::Tls, RouteKind::Tls | RouteKind::Tcp)
    )
}

/// The rules of one listener, by server name.
#[derive(Debug, Default)]
pub struct StreamTable {
    hosts: HostMap<Arc<CompiledRule>>,
}

impl StreamTable {
    /// The rule of a connection. The name is that of its ClientHello, if it has one; of several that fit, the most
    /// specific one wins, and the oldest route where there are several for one name.
    #[must_use]
    pub fn find(&self, server_name: Option<&str>) -> Option<&Arc<CompiledRule>> {
        let mut buffer: HostBuffer = [0; _];
        let name = server_name.and_then(|name| normalise_host(name, &mut buffer));
        self.hosts.find_map(name, Some)
    }

    /// Adds a rule, which gets what the rules before it leave.
    fn add(&mut self, attachment: &Attachment, rule: &Arc<CompiledRule>) {
        let mut add = |hostname: Option<&Hostname>| {
            if self.hosts.get(hostname).is_none() {
                self.hosts.set(hostname, Some(Arc::clone(rule)));
            }
        };
        if attachment.hostnames.is_empty() {
            add(None);
        }
        attachment.hostnames.iter().map(Some).for_each(&mut add);
    }
}

/// The tables of all listeners of one state.
#[derive(Debug, Default)]
pub(crate) struct StreamTables {
    tcp: AHashMap<SocketAddr, Arc<StreamTable>>,
    udp: AHashMap<SocketAddr, Arc<StreamTable>>,
    tls: AHashMap<ListenerKey, Arc<StreamTable>>,
    problems: Vec<String>,
}

impl StreamTables {
    pub(crate) fn build(state: &State, rules: &[Option<Arc<CompiledRule>>]) -> Self {
        let mut built = Self::default();
        let listeners = state.gateways.values().flat_map(|gateway| {
            gateway
                .listeners
                .iter()
                .map(move |listener| ((gateway.name.clone(), listener.name.clone()), listener))
        });
        let listeners: AHashMap<ListenerKey, &Listener> = listeners.collect();
        let mut tables: AHashMap<&ListenerKey, StreamTable> = listeners
            .iter()
            .filter(|(_, listener)| {
                matches!(listener.protocol, Protocol::Tcp | Protocol::Tls | Protocol::Udp)
            })
            .map(|(key, _)| (key, StreamTable::default()))
            .collect();
        for (route, rule) in oldest_first(state, rules) {
            for attachment in &route.attachments {
                let key = (attachment.gateway.clone(), attachment.listener.clone());
                let listener = listeners.get(&key).filter(|listener| carries(listener.protocol, route.kind));
                match tables.get_mut(&key).filter(|_| listener.is_some()) {
                    Some(table) => table.add(attachment, rule),
                    None => built.problems.push(format!(
                        "{} is attached to listener {} of {}, which carries no such routes: it gets nothing there",
                        route.name, attachment.listener, attachment.gateway
                    )),
                }
            }
        }
        let tables: AHashMap<&ListenerKey, Arc<StreamTable>> =
            tables.into_iter().map(|(key, table)| (key, Arc::new(table))).collect();
        // In the state's order, so that of two listeners on one socket always the same one has it.
        for gateway in state.gateways.values() {
            for listener in &gateway.listeners {
                let key = (gateway.name.clone(), listener.name.clone());
                if let Some(table) = tables.get(&key) {
                    built.bind(key, listener, table);
                }
            }
        }
        built
    }

    fn bind(&mut self, key: ListenerKey, listener: &Listener, table: &Arc<StreamTable>) {
        let sockets = match listener.protocol {
            Protocol::Tcp => &mut self.tcp,
            Protocol::Udp => &mut self.udp,
            Protocol::Tls | Protocol::Http | Protocol::Https => {
                self.tls.insert(key, Arc::clone(table));
                return;
            }
        };
        for address in &listener.bind {
            if sockets.contains_key(address) {
                self.problems.push(format!(
                    "listener {} of {} gets nothing on {address}: another listener has the socket",
                    key.1, key.0
                ));
            }
            sockets.entry(*address).or_insert_with(|| Arc::clone(table));
        }
    }

    pub(crate) fn tcp(&self, bound: &SocketAddr) -> Option<&Arc<StreamTable>> {
        self.tcp.get(bound)
    }

    pub(crate) fn udp(&self, bound: &SocketAddr) -> Option<&Arc<StreamTable>> {
        self.udp.get(bound)
    }

    pub(crate) fn tls(&self, gateway: &GatewayName, listener: &ListenerName) -> Option<&Arc<StreamTable>> {
        self.tls.get(&(gateway.clone(), listener.clone()))
    }

    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }
}

/// The routes with their only rule, the oldest first, then by name.
fn oldest_first<'a>(
    state: &'a State,
    rules: &'a [Option<Arc<CompiledRule>>],
) -> Vec<(&'a Route, &'a Arc<CompiledRule>)> {
    let first_rules = rules.iter().flatten().filter(|rule| is_stream(rule.kind) && rule.rule_index == 0);
    let rules: AHashMap<&RouteName, &Arc<CompiledRule>> =
        first_rules.map(|rule| (&rule.route, rule)).collect();
    let routes = state.routes.values().filter(|route| is_stream(route.kind));
    let mut found: Vec<(&Route, &Arc<CompiledRule>)> =
        routes.filter_map(|route| Some((&**route, *rules.get(&route.name)?))).collect();
    let age = |route: &Route| if route.created == 0 { i64::MAX } else { route.created };
    found.sort_by(|(a, _), (b, _)| (age(a), &a.name).cmp(&(age(b), &b.name)));
    found
}
