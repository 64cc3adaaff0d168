//! The router and its tables: what requests are looked up in.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ahash::AHashMap;
use http::HeaderMap;
use understudy_conf::{GatewayName, ListenerName, Protocol, RouteName};

use crate::host::{HostBuffer, HostMap, normalise_host};
use crate::path::PathTable;
use crate::pattern::Patterns;
use crate::rule::CompiledRule;
use crate::streams::{StreamTable, StreamTables};

/// All tables of one state. It never changes: a new state gets a new one, which shares what stayed.
#[derive(Debug, Default)]
pub struct Router {
    pub(crate) sockets: AHashMap<(IpAddr, u16), Arc<SocketTable>>,
    pub(crate) rules: Vec<Option<Arc<CompiledRule>>>,
    /// By gateway and listener, bound or not.
    pub(crate) listeners: AHashMap<ListenerKey, Arc<ListenerTable>>,
    pub(crate) patterns: Patterns,
    /// What could not act, of routes that have such problems.
    pub(crate) of_routes: BTreeMap<RouteName, Arc<[String]>>,
    /// What could not act, of listeners.
    pub(crate) of_listeners: Vec<String>,
    /// What is no HTTP.
    pub(crate) streams: Arc<StreamTables>,
}

/// A listener of a gateway.
pub(crate) type ListenerKey = (GatewayName, ListenerName);

impl Router {
    /// Every rule, by [`CompiledRule::id`]. Where a rule was before a change there may be none.
    #[must_use]
    pub fn rules(&self) -> &[Option<Arc<CompiledRule>>] {
        &self.rules
    }

    /// What could not act, in a sentence each.
    pub fn problems(&self) -> impl Iterator<Item = &String> {
        let of_routes = self.of_routes.values().flat_map(|problems| problems.iter());
        of_routes.chain(&self.of_listeners).chain(self.streams.problems())
    }

    /// The routes of the listener that has a socket of TCP, by the address that was asked for when it was bound.
    #[must_use]
    pub fn tcp(&self, bound: &SocketAddr) -> Option<&Arc<StreamTable>> {
        self.streams.tcp(bound)
    }

    /// The same for UDP.
    #[must_use]
    pub fn udp(&self, bound: &SocketAddr) -> Option<&Arc<StreamTable>> {
        self.streams.udp(bound)
    }

    /// The routes of a TLS listener.
    #[must_use]
    pub fn tls(&self, gateway: &GatewayName, listener: &ListenerName) -> Option<&Arc<StreamTable>> {
        self.streams.tls(gateway, listener)
    }

    /// The table of the socket that took a connection, by the socket's own address. The address may be the one
    /// that the socket is bound to or the one that the client connected to: where nothing is bound to exactly
    /// that address, a socket that is bound to all addresses took it.
    #[must_use]
    pub fn socket(&self, address: &SocketAddr) -> Option<&Arc<SocketTable>> {
        let (ip, port) = socket_key(address);
        let all: &[IpAddr] = match ip {
            IpAddr::V4(_) => &[IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
            IpAddr::V6(_) => &[IpAddr::V6(Ipv6Addr::UNSPECIFIED)],
        };
        std::iter::once(&ip).chain(all).find_map(|ip| self.sockets.get(&(*ip, port)))
    }
}

/// An address without what does not belong to its identity: scope, flow, and the IPv6 form of an IPv4 address.
pub(crate) fn socket_key(address: &SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// What is known of a request when its rule is searched.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// The authority or the `Host` header: a port, a trailing dot and capitals do not matter. Empty if there is
    /// none.
    pub host: &'a str,
    /// The path as it was received, without the query.
    pub path: &'a str,
    /// The query as it was received, without `?`.
    pub query: Option<&'a str>,
    /// The method, in upper case.
    pub method: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// The listener that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerInfo {
    /// Its gateway.
    pub gateway: GatewayName,
    /// Its name in the gateway.
    pub listener: ListenerName,
    /// The port that clients see.
    pub port: u16,
    /// What is spoken on it: HTTP or HTTPS.
    pub protocol: Protocol,
    /// What its clients must have proved when they connected (see [`understudy_conf::ListenerTls::client_demand`]);
    /// `None`: nothing.
    pub client_demand: Option<Box<str>>,
}

/// The rule that a request belongs to.
#[derive(Debug, Clone, Copy)]
pub struct RuleMatch<'a> {
    /// The rule.
    pub rule: &'a Arc<CompiledRule>,
    /// The listener.
    pub listener: &'a ListenerInfo,
    /// The prefix that fitted, without trailing slash, if the path was matched by one: for `/` it is empty. The
    /// request's path begins with it.
    pub matched_prefix: Option<&'a str>,
}

/// The listeners of one bound socket.
#[derive(Debug, Default)]
pub struct SocketTable {
    pub(crate) listeners: HostMap<Arc<ListenerTable>>,
}

#[derive(Debug)]
pub(crate) struct ListenerTable {
    pub(crate) info: ListenerInfo,
    pub(crate) hosts: HostMap<Arc<PathTable>>,
}

impl SocketTable {
    /// The rule that a request belongs to; `None` means 404. A request belongs to the one listener whose
    /// hostname fits best, and only to routes of that listener.
    #[must_use]
    pub fn lookup<'a>(&'a self, request: &RequestParts<'_>) -> Option<RuleMatch<'a>> {
        let mut buffer: HostBuffer = [0; _];
        let host = normalise_host(request.host, &mut buffer);
        let listener = self.listeners.find_map(host, Some)?;
        let entry = listener.hosts.find_map(host, |paths| paths.find(request))?;
        Some(RuleMatch { rule: &entry.rule, listener: &listener.info, matched_prefix: entry.prefix() })
    }

    /// The listener that a host belongs to, whether a route serves it or not.
    #[must_use]
    pub fn listener(&self, host: &str) -> Option<&ListenerInfo> {
        let mut buffer: HostBuffer = [0; _];
        self.listeners.find_map(normalise_host(host, &mut buffer), |listener| Some(&listener.info))
    }
}
