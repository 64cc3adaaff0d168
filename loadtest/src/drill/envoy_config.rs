//! Envoy's static configuration for what a state asks for, as Envoy Gateway renders it. Pure.
//!
//! One cluster for each rule, with one locality for each reference and priority 1 for the fallback. Where Envoy
//! Gateway gives up priorities (references without endpoints, addresses beside names), each reference becomes a
//! cluster of its own and the rule a split by weight, as there.

use std::net::SocketAddr;

use serde_json::{Map, Value, json};
use understudy_conf::{
    Action, Backend, EndpointAddress, GatewayDuration, LoadBalancer, PassiveHealthCheck, PathMatch, Policy,
    Pool, PoolRef, RefTarget, Retry, Route, Rule, State,
};

/// Envoy Gateway's limit on retries under way at once.
const MAX_RETRIES: u32 = 1024;
/// Envoy Gateway's number of picks for an endpoint that was not tried yet.
const HOST_SELECTION_ATTEMPTS: u32 = 5;
/// Envoy's own panic threshold, which is not written.
const DEFAULT_PANIC_THRESHOLD: u8 = 50;

/// Why there is no configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RenderError {
    /// Something that no case of the drill uses.
    #[error("{0}: {1} is not rendered for Envoy; extend the drill's configuration of Envoy first")]
    Unsupported(String, &'static str),
    /// The state lacks something that it refers to.
    #[error("{0} is not in the state")]
    Missing(String),
}

/// Writes the configuration; names are resolved by this DNS server.
///
/// # Errors
/// [`RenderError`].
pub(crate) fn bootstrap(state: &State, dns: Option<SocketAddr>) -> Result<Value, RenderError> {
    let mut clusters = Vec::new();
    let mut listeners = Vec::new();
    for gateway in state.gateways.values() {
        for listener in &gateway.listeners {
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
                let mut routes = Vec::new();
                for rule in &route.rules {
                    let rendered = build_rule(state, route, rule)?;
                    clusters.extend(rendered.clusters);
                    routes.extend(rendered.routes);
                    buffer = buffer.max(rendered.buffer);
                }
                let mut domains: Vec<String> = attachment.hostnames.iter().map(ToString::to_string).collect();
                if domains.is_empty() {
                    domains.push("*".to_owned());
                }
                hosts.push(json!({"name": route.name.as_str(), "domains": domains, "routes": routes}));
            }
            let Some(bind) = listener.bind.first() else { continue };
            listeners.push(build_listener(listener.name.as_str(), *bind, buffer, &hosts));
        }
    }
    let mut bootstrap = json!({"static_resources": {"listeners": listeners, "clusters": clusters}});
    if let Some(dns) = dns {
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

fn build_rule(state: &State, route: &Route, rule: &Rule) -> Result<Rendered, RenderError> {
    let unsupported = |what| RenderError::Unsupported(route.name.to_string(), what);
    let Action::Forward(name) = &rule.action else { return Err(unsupported("an answer without a backend")) };
    if !rule.filters.is_empty() {
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
    let (clusters, mut action) = build_clusters(state, pool, &policy)?;
    let timeout = rule.timeouts.and_then(|timeouts| timeouts.request).or(policy.timeouts.request);
    if let Some(timeout) = timeout {
        action.insert("timeout".to_owned(), duration(timeout));
    }
    if let Some(retry) = rule.retry.as_ref().or(policy.retry.as_ref()) {
        action.insert("retry_policy".to_owned(), build_retry(retry));
    }
    let routes = rule
        .matches
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
        let localities: Vec<Value> =
            refs.iter().filter_map(|(reference, backend)| Some(locality(reference, (*backend)?))).collect();
        let cluster = build_cluster(pool.name.as_str(), policy, &refs, &localities)?;
        action.insert("cluster".to_owned(), json!(pool.name.as_str()));
        return Ok((vec![cluster], action));
    }
    let (mut clusters, mut shares) = (Vec::new(), Vec::new());
    for (index, (reference, backend)) in refs.iter().enumerate() {
        let name = format!("{}/backend/{index}", pool.name);
        shares.push(json!({"name": name, "weight": reference.weight}));
        // The share of an invalid reference goes to a cluster that does not exist.
        if let Some(backend) = backend {
            let localities: Vec<Value> =
                if backend.endpoints.is_empty() { Vec::new() } else { vec![locality(reference, backend)] };
            clusters.push(build_cluster(&name, policy, &[(*reference, Some(*backend))], &localities)?);
        }
    }
    action.insert("weighted_clusters".to_owned(), json!({"clusters": shares}));
    action.insert("cluster_not_found_response_code".to_owned(), json!("INTERNAL_SERVER_ERROR"));
    Ok((clusters, action))
}

type Resolved<'a> = (&'a PoolRef, Option<&'a Backend>);

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

fn has_names(backend: &Backend) -> bool {
    backend.endpoints.iter().any(|endpoint| matches!(endpoint.address, EndpointAddress::Fqdn { .. }))
}

fn locality(reference: &PoolRef, backend: &Backend) -> Value {
    let endpoints: Vec<Value> = backend
        .endpoints
        .iter()
        .map(|endpoint| {
            let address = match &endpoint.address {
                EndpointAddress::Ip { address, port } => socket_address(SocketAddr::new(*address, *port)),
                EndpointAddress::Fqdn { hostname, port } => {
                    json!({"socket_address": {"address": hostname, "port_value": port}})
                }
                EndpointAddress::Unix { path } => json!({"pipe": {"path": path}}),
            };
            json!({"endpoint": {"address": address}, "load_balancing_weight": 1})
        })
        .collect();
    json!({
        "locality": {"region": backend.name.as_str()},
        "priority": reference.priority,
        "load_balancing_weight": reference.weight,
        "lb_endpoints": endpoints,
    })
}

fn build_cluster(
    name: &str,
    policy: &Policy,
    refs: &[Resolved<'_>],
    localities: &[Value],
) -> Result<Value, RenderError> {
    // Written so that another balancer is an error here and not another one there.
    let balancer = if matches!(policy.load_balancer, LoadBalancer::RoundRobin) {
        "ROUND_ROBIN"
    } else if matches!(policy.load_balancer, LoadBalancer::LeastRequest) {
        "LEAST_REQUEST"
    } else {
        return Err(RenderError::Unsupported(name.to_owned(), "its load balancer"));
    };
    let named = refs.iter().any(|(_, backend)| backend.is_some_and(has_names));
    let mut common = json!({"locality_weighted_lb_config": {}});
    if policy.panic_threshold.get() != DEFAULT_PANIC_THRESHOLD {
        common["healthy_panic_threshold"] = json!({"value": policy.panic_threshold.get()});
    }
    let mut cluster = json!({
        "name": name,
        "type": if named { "STRICT_DNS" } else { "STATIC" },
        "connect_timeout": duration(policy.timeouts.connect),
        "per_connection_buffer_limit_bytes": policy.buffer_limit,
        "lb_policy": balancer,
        "common_lb_config": common,
        "ignore_health_on_host_removal": true,
        "circuit_breakers": {"thresholds": [{"max_retries": MAX_RETRIES}]},
        "load_assignment": {"cluster_name": name, "endpoints": localities},
    });
    if named {
        cluster["dns_refresh_rate"] = duration(policy.dns.refresh_rate);
        cluster["respect_dns_ttl"] = json!(policy.dns.respect_ttl);
        cluster["dns_lookup_family"] = json!("V4_PREFERRED");
    }
    if let Some(passive) = &policy.passive {
        cluster["outlier_detection"] = build_outlier_detection(passive);
    }
    Ok(cluster)
}

fn build_outlier_detection(passive: &PassiveHealthCheck) -> Value {
    let mut detection = json!({
        "interval": duration(passive.interval),
        "base_ejection_time": duration(passive.base_ejection_time),
        "consecutive_5xx": passive.consecutive_5xx_errors,
        "consecutive_gateway_failure": passive.consecutive_gateway_errors,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_local_origin_failure": passive.consecutive_local_origin_failures,
        "split_external_local_origin_errors": passive.split_external_local_origin_errors,
    });
    // 0 is not sent, and Envoy's own default is 10.
    if passive.max_ejection_percent.get() > 0 {
        detection["max_ejection_percent"] = json!(passive.max_ejection_percent.get());
    }
    detection
}

fn build_retry(retry: &Retry) -> Value {
    // Users and Envoy write triggers alike.
    let triggers: Vec<Value> = retry.triggers.iter().map(|trigger| json!(trigger)).collect();
    let names: Vec<&str> = triggers.iter().filter_map(Value::as_str).collect();
    let mut policy = json!({
        "retry_on": names.join(","),
        "num_retries": retry.num_retries,
        "retriable_status_codes": retry.status_codes,
        "host_selection_retry_max_attempts": HOST_SELECTION_ATTEMPTS,
        "retry_host_predicate": [{
            "name": "envoy.retry_host_predicates.previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
            },
        }],
    });
    if let Some(frequency) = retry.num_attempts_per_priority {
        policy["retry_priority"] = json!({
            "name": "envoy.retry_priorities.previous_priorities",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
                "update_frequency": frequency,
            },
        });
    }
    if let Some(timeout) = retry.per_try_timeout {
        policy["per_try_timeout"] = duration(timeout);
    }
    if retry.back_off != Retry::default().back_off {
        policy["retry_back_off"] = json!({
            "base_interval": duration(retry.back_off.base_interval),
            "max_interval": duration(retry.back_off.max_interval),
        });
    }
    policy
}

fn build_listener(name: &str, bind: SocketAddr, buffer: u64, hosts: &[Value]) -> Value {
    json!({
        "name": name,
        "address": socket_address(bind),
        "per_connection_buffer_limit_bytes": buffer,
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
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
            },
        }]}],
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// As protobuf writes durations in JSON.
fn duration(duration: GatewayDuration) -> Value {
    let millis = duration.as_millis();
    json!(format!("{}.{:03}s", millis / 1000, millis % 1000))
}

#[cfg(test)]
#[path = "envoy_config_tests.rs"]
mod tests;
