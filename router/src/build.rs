//! Builds the router of a state: from nothing, or from the router of the state before.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ahash::{AHashMap, AHashSet};
use understudy_conf::{
    Action, Change, Gateway, GatewayName, Hostname, Listener, ListenerName, Protocol, Route, RouteName, Rule,
    State, changes,
};

use crate::conditions::Conditions;
use crate::filters::CompiledFilters;
use crate::host::HostMap;
use crate::path::{Entry, Path, PathTable};
use crate::redirect::validate_redirect;
use crate::rule::CompiledRule;
use crate::streams::{StreamTables, is_stream};
use crate::table::{ListenerInfo, ListenerKey, ListenerTable, Router, SocketTable, socket_key};

impl Router {
    /// Builds the router of a state, and names what could not act.
    ///
    /// A rule with an expression, a header or a path that is not valid answers 500, and of its matches those
    /// that can be compiled decide which requests it gets: what cannot be evaluated matches nothing. A listener
    /// whose socket or hostname another one has is left out.
    #[must_use]
    pub fn build(state: &State) -> (Self, Vec<String>) {
        let router = Self::default().update(&State::default(), state);
        let problems = router.problems().cloned().collect();
        (router, problems)
    }

    /// Builds the router of the state `after` from this one, which is that of the state `before`. Only routes that
    /// changed are compiled, and only the tables of their hostnames are built; after a change of a gateway all are.
    #[must_use]
    pub fn update(&self, before: &State, after: &State) -> Self {
        let same_gateways = changes(&before.gateways, &after.gateways).next().is_none();
        let (nothing, empty) = (Self::default(), State::default());
        let (known, before) = if same_gateways { (self, before) } else { (&nothing, &empty) };
        let changed: Vec<_> = changes(&before.routes, &after.routes).collect();
        let mut builder = Builder::following(known, &changed, after);
        for change in &changed {
            if let Some(route) = change.before {
                builder.remove_route(route);
            }
            if let Some(route) = change.after {
                builder.add_route(route);
            }
        }
        for (gateway, listener) in served(after) {
            builder.add_listener(gateway, listener);
        }
        for (gateway, listener) in served(after) {
            builder.bind_listener(gateway, listener);
        }
        for (gateway, listener) in listeners(after).filter(|(_, listener)| listener.protocol == Protocol::Tls)
        {
            builder.keep_from_http(gateway, listener);
        }
        let mut is_of_streams =
            changed.iter().flat_map(|change| change.before.into_iter().chain(change.after));
        builder.router.streams = match same_gateways && !is_of_streams.any(|route| is_stream(route.kind)) {
            true => Arc::clone(&self.streams),
            false => Arc::new(StreamTables::build(after, &builder.router.rules)),
        };
        builder.finish()
    }
}

fn listeners(state: &State) -> impl Iterator<Item = (&Gateway, &Listener)> {
    state.gateways.values().flat_map(|gateway| {
        let gateway: &Gateway = gateway;
        gateway.listeners.iter().map(move |listener| (gateway, listener))
    })
}

/// The listeners that requests can come from.
fn served(state: &State) -> impl Iterator<Item = (&Gateway, &Listener)> {
    listeners(state).filter(|(_, listener)| matches!(listener.protocol, Protocol::Http | Protocol::Https))
}

fn info_of(gateway: &Gateway, listener: &Listener) -> ListenerInfo {
    let demand = listener.tls.as_ref().and_then(|tls| tls.client_demand());
    ListenerInfo {
        gateway: gateway.name.clone(),
        listener: listener.name.clone(),
        port: listener.port,
        protocol: listener.protocol,
        client_demand: demand.map(String::into_boxed_str),
    }
}

fn key_of(gateway: &Gateway, listener: &Listener) -> ListenerKey {
    (gateway.name.clone(), listener.name.clone())
}

/// By hostname of a listener whose routes changed: the matches that it gets.
type Additions = AHashMap<Option<Hostname>, Vec<Arc<Entry>>>;

struct Builder<'a> {
    known: &'a Router,
    changed: AHashSet<&'a RouteName>,
    router: Router,
    /// Places of rules that are gone.
    free: Vec<usize>,
    additions: AHashMap<ListenerKey, Additions>,
    sockets: AHashMap<(IpAddr, u16), Socket>,
}

#[derive(Default)]
struct Socket {
    gateway: Option<GatewayName>,
    listeners: AHashMap<Option<Hostname>, ListenerName>,
    table: SocketTable,
}

impl<'a> Builder<'a> {
    fn following(known: &'a Router, changed: &[Change<'a, RouteName, Route>], after: &State) -> Self {
        let changed: AHashSet<&RouteName> = changed.iter().map(|change| change.name).collect();
        let stays = |rule: &&Arc<CompiledRule>| !changed.contains(&rule.route);
        let rules: Vec<_> =
            known.rules.iter().map(|rule| rule.as_ref().filter(stays).map(Arc::clone)).collect();
        // The first place is taken first.
        let free = rules.iter().enumerate().rev().filter(|(_, rule)| rule.is_none()).map(|(at, _)| at);
        let mut of_routes = known.of_routes.clone();
        of_routes.retain(|route, _| !changed.contains(route));
        Self {
            free: free.collect(),
            known,
            router: Router { rules, patterns: known.patterns.in_use(), of_routes, ..Router::default() },
            additions: served(after)
                .map(|(gateway, listener)| (key_of(gateway, listener), Additions::default()))
                .collect(),
            sockets: AHashMap::default(),
            changed,
        }
    }

    fn remove_route(&mut self, route: &Route) {
        if is_stream(route.kind) {
            return;
        }
        self.attach(route, &[], &mut Vec::new());
    }

    fn add_route(&mut self, route: &Route) {
        let mut problems = Vec::new();
        let entries: Vec<Arc<Entry>> = route
            .rules
            .iter()
            .enumerate()
            .flat_map(|(index, rule)| self.compile_rule(route, index, rule, &mut problems))
            .map(Arc::new)
            .collect();
        if !is_stream(route.kind) {
            self.attach(route, &entries, &mut problems);
        }
        if !problems.is_empty() {
            self.router.of_routes.insert(route.name.clone(), problems.into());
        }
    }

    /// Adds matches to the hostnames of a route. Without any, the hostnames lose those that they had of it.
    fn attach(&mut self, route: &Route, entries: &[Arc<Entry>], problems: &mut Vec<String>) {
        for attachment in &route.attachments {
            let key = (attachment.gateway.clone(), attachment.listener.clone());
            let Some(additions) = self.additions.get_mut(&key) else {
                problems.push(format!(
                    "{} is attached to listener {} of {}, which serves no HTTP: it gets nothing there",
                    route.name, attachment.listener, attachment.gateway
                ));
                continue;
            };
            let mut add = |hostname: Option<Hostname>| {
                additions.entry(hostname).or_default().extend(entries.iter().map(Arc::clone));
            };
            if attachment.hostnames.is_empty() {
                add(None);
            }
            attachment.hostnames.iter().cloned().map(Some).for_each(add);
        }
    }

    fn compile_rule(
        &mut self,
        route: &Route,
        rule_index: usize,
        rule: &Rule,
        of_route: &mut Vec<String>,
    ) -> Vec<Entry> {
        let label: Arc<str> = format!("{}/rule/{rule_index}", route.name).into();
        let (filters, mut problems) = CompiledFilters::build(&rule.filters);
        if let Action::Redirect(redirect) = &rule.action
            && let Err(problem) = validate_redirect(redirect)
        {
            problems.push(problem);
        }
        let mut matches = Vec::new();
        let patterns = &mut self.router.patterns;
        for (index, http_match) in rule.matches.iter().enumerate() {
            let path = Path::compile(&http_match.path, patterns);
            match (path, Conditions::compile(http_match, patterns)) {
                (Ok(path), Ok(conditions)) => matches.push((index, path, conditions)),
                (Err(problem), _) | (_, Err(problem)) => problems.push(format!("match {index}: {problem}")),
            }
        }
        let action = if problems.is_empty() { rule.action.clone() } else { Action::Respond(500) };
        of_route.extend(problems.iter().map(|problem| format!("{label} answers 500: {problem}")));
        let rules = &mut self.router.rules;
        let id = self.free.pop().unwrap_or_else(|| {
            rules.push(None);
            rules.len() - 1
        });
        let compiled = Arc::new(CompiledRule {
            id,
            route: route.name.clone(),
            kind: route.kind,
            rule_index,
            name: rule.name.clone(),
            action,
            timeouts: rule.timeouts,
            retry: rule.retry.clone().map(Box::new),
            filters,
            label,
        });
        rules[id] = Some(Arc::clone(&compiled));
        let created = route.created;
        let entry = |(match_index, path, conditions)| {
            let rule = Arc::clone(&compiled);
            Entry { path, conditions, created, match_index, rule }
        };
        matches.into_iter().map(entry).collect()
    }

    /// Builds the table of a listener, or takes it over where none of its routes changed.
    fn add_listener(&mut self, gateway: &Gateway, listener: &Listener) {
        let key = key_of(gateway, listener);
        let additions = self.additions.remove(&key).unwrap_or_default();
        let table = match self.known.listeners.get(&key) {
            Some(known) if additions.is_empty() => Arc::clone(known),
            known => {
                let info = info_of(gateway, listener);
                let hosts = known.map(|known| known.hosts.clone()).unwrap_or_default();
                Arc::new(ListenerTable { info, hosts: self.add_to_hosts(hosts, additions) })
            }
        };
        self.router.listeners.insert(key, table);
    }

    fn add_to_hosts(
        &self,
        mut hosts: HostMap<Arc<PathTable>>,
        additions: Additions,
    ) -> HostMap<Arc<PathTable>> {
        for (hostname, added) in additions {
            let before = hosts.get(hostname.as_ref());
            let stay = before.into_iter().flat_map(|paths| paths.entries());
            let stay = stay.filter(|entry| !self.changed.contains(&entry.rule.route)).map(Arc::clone);
            let mut entries = stay.chain(added).peekable();
            let paths = entries.peek().is_some().then(|| Arc::new(PathTable::build(entries)));
            hosts.set(hostname.as_ref(), paths);
        }
        hosts
    }

    fn bind_listener(&mut self, gateway: &Gateway, listener: &Listener) {
        let Some(table) = self.router.listeners.get(&key_of(gateway, listener)).map(Arc::clone) else {
            return;
        };
        for address in &listener.bind {
            if let Err(problem) = self.bind_address(address, gateway, listener, &table) {
                self.router.of_listeners.push(problem);
            }
        }
    }

    /// The names of a TLS listener are none of those that share its socket and carry HTTP: a request for one of them has
    /// come over the wrong connection.
    fn keep_from_http(&mut self, gateway: &Gateway, listener: &Listener) {
        for address in &listener.bind {
            let Some(socket) = self.sockets.get_mut(&socket_key(address)) else { continue };
            if socket.gateway.as_ref() == Some(&gateway.name)
                && !socket.listeners.contains_key(&listener.hostname)
            {
                let table = ListenerTable { info: info_of(gateway, listener), hosts: HostMap::default() };
                socket.listeners.insert(listener.hostname.clone(), listener.name.clone());
                socket.table.listeners.set(listener.hostname.as_ref(), Some(Arc::new(table)));
            }
        }
    }

    fn bind_address(
        &mut self,
        address: &SocketAddr,
        gateway: &Gateway,
        listener: &Listener,
        table: &Arc<ListenerTable>,
    ) -> Result<(), String> {
        let socket = self.sockets.entry(socket_key(address)).or_default();
        let owner = socket.gateway.get_or_insert_with(|| gateway.name.clone());
        if *owner != gateway.name {
            return Err(format!(
                "listener {} of {} gets nothing on {address}: the socket belongs to {owner}",
                listener.name, gateway.name
            ));
        }
        match socket.listeners.get(&listener.hostname) {
            Some(other) if *other == listener.name => Ok(()),
            Some(other) => Err(format!(
                "listener {} of {} gets nothing on {address}: listener {other} has the same hostname there",
                listener.name, gateway.name
            )),
            None => {
                socket.listeners.insert(listener.hostname.clone(), listener.name.clone());
                socket.table.listeners.set(listener.hostname.as_ref(), Some(Arc::clone(table)));
                Ok(())
            }
        }
    }

    fn finish(mut self) -> Router {
        let sockets = self.sockets.into_iter();
        self.router.sockets = sockets.map(|(key, socket)| (key, Arc::new(socket.table))).collect();
        self.router
    }
}
