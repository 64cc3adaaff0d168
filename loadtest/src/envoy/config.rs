//! Envoy's static configuration for what a state asks for, as Envoy Gateway renders it. Pure.
//!
//! One cluster for each rule, with one locality for each reference and priority 1 for the fallback. Where Envoy
//! Gateway gives up priorities (references without endpoints, addresses beside names), each reference becomes a
//! cluster of its own and the rule a split by weight, as there.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Map, Value, json};
use understudy_conf::{
    Action, BackOff, Backend, ConsistentHash, GatewayDuration, HashCookie, HashKey, LoadBalancer, PathMatch,
    Policy, Pool, PoolRef, Protocol, RefTarget, Retry, Route, Rule, RuleTimeouts, State, Timeouts,
};

use super::cluster::{self, Resolved, has_names};

/// Envoy Gateway's number of picks for an endpoint that was not tried yet.
const HOST_SELECTION_ATTEMPTS: u32 = 5;

/// Why there is no configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenderError {
    /// Something that the configuration does not write yet, or that Envoy cannot do.
    #[error("{0}: {1} is not rendered for Envoy; extend loadtest/src/envoy first")]
    Unsupported(String, &'static str),
    /// The state lacks something that it refers to.
    #[error("{0} is not in the state")]
    Missing(String),
}

/// What a configuration has beside what the state asks for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extras<'a> {
    /// Names are resolved by this DNS server instead of the system's.
    pub(crate) dns: Option<SocketAddr>,
    /// One line for each request goes to this file.
    pub(crate) access_log: Option<&'a Path>,
    /// Where statistics can be read.
    pub(crate) admin: Option<SocketAddr>,
}

/// Writes the configuration.
///
/// # Errors
/// [`RenderError`].
pub(crate) fn bootstrap(state: &State, extras: Extras<'_>) -> Result<Value, RenderError> {
    let mut clusters = Vec::new();
    let mut listeners = Vec::new();
    for gateway in state.gateways.values() {
        for listener in &gateway.listeners {
            if listener.protocol != Protocol::Http {
                let name = format!("{}/{}", gateway.name, listener.name);
                return Err(RenderError::Unsupported(name, "another protocol than HTTP"));
            }
            let mut hosts = Vec::new();
            let mut buffer = Policy::default().buffer_limit;
            for route in state.routes.values() {
                let Some(attachment) = route
                    .attachments
                    .iter()
                    .find(|to| to.gateway == gateway.name && to.listener == listener.name)
                else {
                    continue;
                };
                let mut domains: Vec<String> = attachment.hostnames.iter().map(ToString::to_string).collect();
                let exact = domains.iter().find(|name| !name.starts_with('*')).cloned();
                let mut routes = Vec::new();
                for rule in &route.rules {
                    let rendered = build_rule(state, route, rule, exact.as_deref())?;
                    clusters.extend(rendered.clusters);
                    routes.extend(rendered.routes);
                    buffer = buffer.max(rendered.buffer);
                }
                if domains.is_empty() {
                    domains.push("*".to_owned());
                }
                hosts.push(json!({"name": route.name.as_str(), "domains": domains, "routes": routes}));
            }
            let Some(bind) = listener.bind.first() else { continue };
            listeners.push(build_listener(listener.name.as_str(), *bind, buffer, &hosts, extras.access_log));
        }
    }
    let mut bootstrap = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    if let Some(admin) = extras.admin {
        bootstrap["admin"] = json!({"address": socket_address(admin)});
    }
    if let Some(dns) = extras.dns {
        bootstrap["typed_dns_resolver_config"] = json!({
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
                "resolvers": [socket_address(dns)],
                "dns_resolver_options": {"no_default_search_domain": true},
            },
        });
    }
    Ok(bootstrap)
}

/// What a rule comes to.
struct Rendered {
    clusters: Vec<Value>,
    routes: Vec<Value>,
    /// How many bytes of a request its policy keeps for a retry, which Envoy limits by listener.
    buffer: u64,
}

fn build_rule(
    state: &State,
    route: &Route,
    rule: &Rule,
    host: Option<&str>,
) -> Result<Rendered, RenderError> {
    let unsupported = |what| RenderError::Unsupported(route.name.to_string(), what);
    let Rule { name: _, matches, filters, timeouts, retry, action } = rule;
    let Action::Forward(name) = action else { return Err(unsupported("an answer without a backend")) };
    if !filters.is_empty() {
        return Err(unsupported("a filter"));
    }
    let pool = state.pools.get(name).ok_or_else(|| RenderError::Missing(name.to_string()))?;
    let policy = match &pool.policy {
        Some(name) => state
            .policies
            .get(name)
            .map(|policy| Policy::clone(policy))
            .ok_or_else(|| RenderError::Missing(name.to_string()))?,
        None => Policy::default(),
    };
    let (clusters, mut action) = build_clusters(state, pool, &policy, host)?;
    let own = timeouts.unwrap_or(RuleTimeouts { request: None, backend_request: None });
    if own.backend_request.is_some() {
        return Err(unsupported("a timeout of one attempt on the route itself"));
    }
    if let Some(timeout) = own.request.or(policy.timeouts.request) {
        action.insert("timeout".to_owned(), duration(timeout));
    }
    if policy.timeouts.stream_idle != Timeouts::default().stream_idle {
        action.insert("idle_timeout".to_owned(), duration(policy.timeouts.stream_idle));
    }
    if let LoadBalancer::ConsistentHash(ConsistentHash { by, table_size: _ }) = &policy.load_balancer {
        action.insert("hash_policy".to_owned(), json!(build_hash(by)));
    }
    if let Some(retry) = retry.as_ref().or(policy.retry.as_ref()) {
        action.insert("retry_policy".to_owned(), build_retry(retry));
    }
    let routes = matches
        .iter()
        .map(|matched| {
            if matched.method.is_some() || !matched.headers.is_empty() || !matched.query.is_empty() {
                return Err(unsupported("a match on more than the path"));
            }
            let path = match &matched.path {
                PathMatch::Exact(path) => json!({"path": path}),
                PathMatch::Prefix(prefix) if prefix == "/" => json!({"prefix": "/"}),
                PathMatch::Prefix(prefix) => json!({"path_separated_prefix": prefix}),
                PathMatch::Regex(_) => return Err(unsupported("a regular expression")),
            };
            Ok(json!({"match": path, "route": action}))
        })
        .collect::<Result<_, _>>()?;
    Ok(Rendered { clusters, routes, buffer: policy.buffer_limit })
}

/// The clusters of a pool, and the part of the route's action that names them.
fn build_clusters(
    state: &State,
    pool: &Pool,
    policy: &Policy,
    host: Option<&str>,
) -> Result<(Vec<Value>, Map<String, Value>), RenderError> {
    let mut refs = Vec::new();
    for reference in pool.refs.iter().filter(|reference| reference.weight > 0) {
        if !reference.filters.is_empty() {
            return Err(RenderError::Unsupported(pool.name.to_string(), "a filter of a backend"));
        }
        refs.push((reference, backend_of(state, reference)?));
    }
    let mut action = Map::new();
    if !needs_split(&refs) {
        let cluster = cluster::build(pool.name.as_str(), policy, &refs, host)?;
        action.insert("cluster".to_owned(), json!(pool.name.as_str()));
        return Ok((vec![cluster], action));
    }
    let (mut clusters, mut shares) = (Vec::new(), Vec::new());
    for (index, (reference, backend)) in refs.iter().enumerate() {
        let name = format!("{}/backend/{index}", pool.name);
        shares.push(json!({"name": name, "weight": reference.weight}));
        // The share of an invalid reference goes to a cluster that does not exist.
        if let Some(backend) = backend {
            // Without an endpoint there is no locality either.
            let shown = Some(*backend).filter(|backend| !backend.endpoints.is_empty());
            clusters.push(cluster::build(&name, policy, &[(*reference, shown)], host)?);
        }
    }
    action.insert("weighted_clusters".to_owned(), json!({"clusters": shares}));
    action.insert("cluster_not_found_response_code".to_owned(), json!("INTERNAL_SERVER_ERROR"));
    Ok((clusters, action))
}

fn backend_of<'a>(state: &'a State, reference: &PoolRef) -> Result<Option<&'a Backend>, RenderError> {
    match &reference.target {
        RefTarget::Backend(name) => {
            let backend = state.backends.get(name).ok_or_else(|| RenderError::Missing(name.to_string()))?;
            Ok(Some(backend))
        }
        RefTarget::Invalid(_) => Ok(None),
    }
}

/// Whether Envoy Gateway gives up priorities and splits by weight.
fn needs_split(refs: &[Resolved<'_>]) -> bool {
    let lacking = refs.iter().any(|(_, backend)| backend.is_none_or(|backend| backend.endpoints.is_empty()));
    let named = refs.iter().any(|(_, backend)| backend.is_some_and(has_names));
    let plain = refs.iter().any(|(_, backend)| backend.is_some_and(|backend| !has_names(backend)));
    lacking || (named && plain)
}

fn build_hash(by: &HashKey) -> Vec<Value> {
    match by {
        HashKey::SourceIp => vec![json!({"connection_properties": {"source_ip": true}})],
        HashKey::Headers(names) => {
            names.iter().map(|name| json!({"header": {"header_name": name}})).collect()
        }
        HashKey::QueryParams(names) => {
            names.iter().map(|name| json!({"query_parameter": {"name": name}})).collect()
        }
        HashKey::Cookie(HashCookie { name, ttl, attributes }) => {
            let mut cookie = json!({"name": name});
            if let Some(ttl) = ttl {
                cookie["ttl"] = duration(*ttl);
            }
            if !attributes.is_empty() {
                let all: Vec<Value> =
                    attributes.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                cookie["attributes"] = json!(all);
            }
            vec![json!({"cookie": cookie})]
        }
    }
}

fn build_retry(retry: &Retry) -> Value {
    let Retry { num_retries, num_attempts_per_priority, triggers, status_codes, per_try_timeout, back_off } =
        retry;
    // Users and Envoy write triggers alike.
    let triggers: Vec<Value> = triggers.iter().map(|trigger| json!(trigger)).collect();
    let names: Vec<&str> = triggers.iter().filter_map(Value::as_str).collect();
    let mut policy = json!({
        "retry_on": names.join(","),
        "num_retries": num_retries,
        "retriable_status_codes": status_codes,
        "host_selection_retry_max_attempts": HOST_SELECTION_ATTEMPTS,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
    });
    if let Some(frequency) = num_attempts_per_priority {
        policy["retry_priority"] = json!({
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": frequency,
            },
        });
    }
    if let Some(timeout) = per_try_timeout {
        policy["per_try_timeout"] = duration(*timeout);
    }
    if *back_off != BackOff::default() {
        policy["retry_back_off"] = json!({
            "base_interval": duration(back_off.base_interval),
            "max_interval": duration(back_off.max_interval),
        });
    }
    policy
}

fn build_listener(
    name: &str,
    bind: SocketAddr,
    buffer: u64,
    hosts: &[Value],
    access_log: Option<&Path>,
) -> Value {
    let mut manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "use_remote_address": true,
        "normalize_path": true,
        "merge_slashes": true,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "name": name,
            "validate_clusters": false,
            "ignore_port_in_host_matching": true,
            "virtual_hosts": hosts,
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
                "suppress_envoy_headers": true,
            },
        }],
    });
    if let Some(file) = access_log {
        manager["access_log"] = json!([{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": file,
            },
        }]);
    }
    json!({
        "name": name,
        "address": socket_address(bind),
        "per_connection_buffer_limit_bytes": buffer,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": manager,
        }]}],
    })
}

pub(crate) fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// As protobuf writes durations in JSON.
pub(crate) fn duration(duration: GatewayDuration) -> Value {
    let millis = duration.as_millis();
    json!(format!("{}.{:03}s", millis / 1000, millis % 1000))
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
