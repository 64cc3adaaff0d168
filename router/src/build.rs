//! Builds the router from a state.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::AHashMap;
use understudy_conf::{
    Action, Gateway, GatewayName, Hostname, Listener, ListenerName, Protocol, Route, Rule, State,
};

use crate::conditions::Conditions;
use crate::filters::CompiledFilters;
use crate::host::HostMap;
use crate::path::{Entry, Path, PathTable};
use crate::pattern::Patterns;
use crate::redirect::validate_redirect;
use crate::rule::CompiledRule;
use crate::table::{ListenerInfo, ListenerTable, Router, SocketTable, socket_key};

impl Router {
    /// Builds the router of a state, and names what could not act.
    ///
    /// A rule with an expression, a header or a path that is not valid answers 500, and of its matches those
    /// that can be compiled decide which requests it gets: what cannot be evaluated matches nothing. A listener
    /// whose socket or hostname another one has is left out.
    #[must_use]
    pub fn build(state: &State) -> (Self, Vec<String>) {
        let mut builder = Builder::default();
        let mut hosts: Listeners<'_> = state
            .gateways
            .values()
            .flat_map(|gateway| gateway.listeners.iter().map(move |listener| (gateway, listener)))
            .filter(|(_, listener)| matches!(listener.protocol, Protocol::Http | Protocol::Https))
            .map(|(gateway, listener)| ((&gateway.name, &listener.name), HostMap::default()))
            .collect();
        for route in state.routes.values() {
            builder.add_route(route, &mut hosts);
        }
        for gateway in state.gateways.values() {
            for listener in &gateway.listeners {
                if let Some(paths) = hosts.remove(&(&gateway.name, &listener.name)) {
                    builder.add_listener(gateway, listener, paths);
                }
            }
        }
        builder.finish()
    }
}

/// The tables of the listeners, by gateway and listener.
type Listeners<'a> = AHashMap<(&'a GatewayName, &'a ListenerName), HostMap<PathTable>>;

#[derive(Default)]
struct Builder {
    patterns: Patterns,
    rules: Vec<Arc<CompiledRule>>,
    sockets: AHashMap<(IpAddr, u16), Socket>,
    degraded: Vec<String>,
}

#[derive(Default)]
struct Socket {
    gateway: Option<GatewayName>,
    listeners: AHashMap<Option<Hostname>, ListenerName>,
    table: SocketTable,
}

impl Builder {
    fn add_route<'a>(&mut self, route: &'a Route, hosts: &mut Listeners<'a>) {
        let entries: Vec<Arc<Entry>> = route
            .rules
            .iter()
            .enumerate()
            .flat_map(|(index, rule)| self.compile_rule(route, index, rule))
            .map(Arc::new)
            .collect();
        for attachment in &route.attachments {
            let Some(table) = hosts.get_mut(&(&attachment.gateway, &attachment.listener)) else {
                self.degraded.push(format!(
                    "{} is attached to listener {} of {}, which serves no HTTP: it gets nothing there",
                    route.name, attachment.listener, attachment.gateway
                ));
                continue;
            };
            let mut insert = |hostname: Option<&Hostname>| {
                let paths = table.entry(hostname, PathTable::default);
                entries.iter().for_each(|entry| paths.insert(Arc::clone(entry)));
            };
            if attachment.hostnames.is_empty() {
                insert(None);
            }
            attachment.hostnames.iter().map(Some).for_each(insert);
        }
    }

    fn compile_rule(&mut self, route: &Route, rule_index: usize, rule: &Rule) -> Vec<Entry> {
        let label: Arc<str> = format!("{}/rule/{rule_index}", route.name).into();
        let (filters, mut problems) = CompiledFilters::build(&rule.filters);
        if let Action::Redirect(redirect) = &rule.action
            && let Err(problem) = validate_redirect(redirect)
        {
            problems.push(problem);
        }
        let mut matches = Vec::new();
        for (index, http_match) in rule.matches.iter().enumerate() {
            let path = Path::compile(&http_match.path, &mut self.patterns);
            match (path, Conditions::compile(http_match, &mut self.patterns)) {
                (Ok(path), Ok(conditions)) => matches.push((index, path, conditions)),
                (Err(problem), _) | (_, Err(problem)) => problems.push(format!("match {index}: {problem}")),
            }
        }
        let action = if problems.is_empty() { rule.action.clone() } else { Action::Respond(500) };
        self.degraded.extend(problems.iter().map(|problem| format!("{label} answers 500: {problem}")));
        let compiled = Arc::new(CompiledRule {
            id: self.rules.len(),
            route: route.name.clone(),
            rule_index,
            name: rule.name.clone(),
            action,
            timeouts: rule.timeouts,
            retry: rule.retry.clone(),
            filters,
            label,
        });
        self.rules.push(Arc::clone(&compiled));
        let created = route.created;
        let entry = |(match_index, path, conditions)| {
            let rule = Arc::clone(&compiled);
            Entry { path, conditions, created, match_index, rule }
        };
        matches.into_iter().map(entry).collect()
    }

    fn add_listener(&mut self, gateway: &Gateway, listener: &Listener, mut hosts: HostMap<PathTable>) {
        hosts.values_mut().for_each(PathTable::sort);
        let info = ListenerInfo {
            gateway: gateway.name.clone(),
            listener: listener.name.clone(),
            port: listener.port,
            protocol: listener.protocol,
        };
        let table = Arc::new(ListenerTable { info, hosts });
        for address in &listener.bind {
            self.bind_listener(address, gateway, listener, &table);
        }
    }

    fn bind_listener(
        &mut self,
        address: &SocketAddr,
        gateway: &Gateway,
        listener: &Listener,
        table: &Arc<ListenerTable>,
    ) {
        let socket = self.sockets.entry(socket_key(address)).or_default();
        let owner = socket.gateway.get_or_insert_with(|| gateway.name.clone());
        if *owner != gateway.name {
            self.degraded.push(format!(
                "listener {} of {} gets nothing on {address}: the socket belongs to {owner}",
                listener.name, gateway.name
            ));
            return;
        }
        if let Some(other) = socket.listeners.get(&listener.hostname) {
            if *other != listener.name {
                self.degraded.push(format!(
                    "listener {} of {} gets nothing on {address}: listener {other} has the same hostname there",
                    listener.name, gateway.name
                ));
            }
            return;
        }
        socket.listeners.insert(listener.hostname.clone(), listener.name.clone());
        socket.table.listeners.entry(listener.hostname.as_ref(), || Arc::clone(table));
    }

    fn finish(self) -> (Router, Vec<String>) {
        let sockets = self.sockets.into_iter().map(|(key, socket)| (key, Arc::new(socket.table))).collect();
        (Router { sockets, rules: self.rules }, self.degraded)
    }
}
