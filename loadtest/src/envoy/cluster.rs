//! Envoy's clusters: endpoints, and the fields of a policy that Envoy takes there, as Envoy Gateway renders them.
//! Pure.
//!
//! Policies are taken apart field by field, so that a new one does not compile until it is rendered or refused.

use std::net::SocketAddr;

use serde_json::{Value, json};
use understudy_conf::{
    Backend, CircuitBreaker, ConsistentHash, Dns, EndpointAddress, LoadBalancer, LookupFamily,
    PassiveHealthCheck, Policy, PoolRef, RetryBudget, TcpKeepalive, Timeouts, UpstreamProtocol,
};

use super::config::{RenderError, duration, socket_address};
use super::health_check;

/// Envoy's own panic threshold, which is not written.
const DEFAULT_PANIC_THRESHOLD: u8 = 50;
const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// A reference with its backend; `None` where there is none.
pub(crate) type Resolved<'a> = (&'a PoolRef, Option<&'a Backend>);

/// A cluster of these references under a policy; `host` is the route's own hostname, for active checks.
///
/// # Errors
/// [`RenderError::Unsupported`] for what Envoy cannot do, or the configuration does not write yet.
pub(crate) fn build(
    name: &str,
    policy: &Policy,
    refs: &[Resolved<'_>],
    host: Option<&str>,
) -> Result<Value, RenderError> {
    let Policy {
        name: _,
        passive,
        active,
        panic_threshold,
        // Of the route.
        retry: _,
        timeouts:
            Timeouts { connect, request: _, connection_idle, stream_idle: _, max_connection, max_stream },
        circuit_breaker,
        load_balancer,
        slow_start,
        dns,
        buffer_limit,
        tcp_keepalive,
        // Of HTTP/2 to a backend, which is refused below.
        http2: _,
    } = policy;
    let unsupported = |what| RenderError::Unsupported(name.to_owned(), what);
    let backends: Vec<&Backend> = refs.iter().filter_map(|(_, backend)| *backend).collect();
    if backends.iter().any(|backend| backend.protocol != UpstreamProtocol::Http1) {
        return Err(unsupported("another protocol than HTTP/1.1 to a backend"));
    }
    if backends.iter().any(|backend| backend.tls.is_some()) {
        return Err(unsupported("TLS to a backend"));
    }
    let check_port = active.as_ref().and_then(|check| check.port);
    let localities: Vec<Value> = refs
        .iter()
        .filter_map(|(reference, backend)| Some(locality(reference, (*backend)?, check_port)))
        .collect();
    let named = backends.iter().any(|backend| has_names(backend));
    let mut common = json!({"locality_weighted_lb_config": {}});
    if panic_threshold.get() != DEFAULT_PANIC_THRESHOLD {
        common["healthy_panic_threshold"] = json!({"value": panic_threshold.get()});
    }
    let mut cluster = json!({
        "name": name,
        "type": if named { "STRICT_DNS" } else { "STATIC" },
        "connect_timeout": duration(*connect),
        "per_connection_buffer_limit_bytes": buffer_limit,
        "common_lb_config": common,
        "ignore_health_on_host_removal": true,
        "circuit_breakers": build_circuit_breakers(circuit_breaker),
        "load_assignment": {"cluster_name": name, "endpoints": localities},
    });
    if named {
        let Dns { refresh_rate, respect_ttl, lookup_family } = dns;
        cluster["dns_refresh_rate"] = duration(*refresh_rate);
        cluster["respect_dns_ttl"] = json!(respect_ttl);
        cluster["dns_lookup_family"] = json!(match lookup_family {
            LookupFamily::IPv4 => "V4_ONLY",
            LookupFamily::IPv6 => "V6_ONLY",
            LookupFamily::IPv4Preferred => "V4_PREFERRED",
            LookupFamily::IPv6Preferred => "AUTO",
            LookupFamily::IPv4AndIPv6 => "ALL",
        });
    }
    if let Some(passive) = passive {
        cluster["outlier_detection"] = build_outlier_detection(passive);
    }
    if let Some(active) = active {
        cluster["health_checks"] = json!([health_check::build(name, active, host)?]);
    }
    let slow_start = slow_start.map(|window| json!({"slow_start_window": duration(window)}));
    match (load_balancer, slow_start) {
        (LoadBalancer::RoundRobin, slow) => {
            cluster["lb_policy"] = json!("ROUND_ROBIN");
            if let Some(slow) = slow {
                cluster["round_robin_lb_config"] = json!({"slow_start_config": slow});
            }
        }
        (LoadBalancer::LeastRequest, slow) => {
            cluster["lb_policy"] = json!("LEAST_REQUEST");
            if let Some(slow) = slow {
                cluster["least_request_lb_config"] = json!({"slow_start_config": slow});
            }
        }
        (LoadBalancer::Random | LoadBalancer::ConsistentHash(_), Some(_)) => {
            return Err(unsupported("a slow start with a load balancer that has none"));
        }
        (LoadBalancer::Random, None) => cluster["lb_policy"] = json!("RANDOM"),
        (LoadBalancer::ConsistentHash(ConsistentHash { by: _, table_size }), None) => {
            cluster["lb_policy"] = json!("MAGLEV");
            cluster["maglev_lb_config"] = json!({"table_size": table_size});
        }
    }
    let mut http = json!({});
    if *connection_idle != Timeouts::default().connection_idle {
        http["idle_timeout"] = duration(*connection_idle);
    }
    for (name, limit) in [("max_connection_duration", max_connection), ("max_stream_duration", max_stream)] {
        if let Some(limit) = limit {
            http[name] = duration(*limit);
        }
    }
    if let Some(requests) = circuit_breaker.max_requests_per_connection {
        http["max_requests_per_connection"] = json!(requests);
    }
    if http != json!({}) {
        cluster["typed_extension_protocol_options"] = json!({HTTP_OPTIONS: {
            "@type": format!("type.googleapis.com/{HTTP_OPTIONS}"),
            "common_http_protocol_options": http,
            "explicit_http_config": {"http_protocol_options": {}},
        }});
    }
    if let Some(TcpKeepalive { probes, idle_time, interval }) = tcp_keepalive {
        let whole = |time: understudy_conf::GatewayDuration| time.as_millis().div_ceil(1000);
        cluster["upstream_connection_options"] = json!({"tcp_keepalive": {
            "keepalive_probes": probes,
            "keepalive_time": whole(*idle_time),
            "keepalive_interval": whole(*interval),
        }});
    }
    Ok(cluster)
}

/// Whether an endpoint of it has to be resolved.
pub(crate) fn has_names(backend: &Backend) -> bool {
    backend.endpoints.iter().any(|endpoint| matches!(endpoint.address, EndpointAddress::Fqdn { .. }))
}

fn locality(reference: &PoolRef, backend: &Backend, check_port: Option<u16>) -> Value {
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
            let mut rendered = json!({"address": address});
            if let Some(port) = check_port {
                rendered["health_check_config"] = json!({"port_value": port});
            }
            json!({"endpoint": rendered, "load_balancing_weight": 1})
        })
        .collect();
    json!({
        "locality": {"region": backend.name.as_str()},
        "priority": reference.priority,
        "load_balancing_weight": reference.weight,
        "lb_endpoints": endpoints,
    })
}

fn build_circuit_breakers(limits: &CircuitBreaker) -> Value {
    let CircuitBreaker {
        max_connections,
        max_pending_requests,
        max_parallel_requests,
        // Among the options of HTTP.
        max_requests_per_connection: _,
        max_connections_per_endpoint,
        // Understudy's own; Envoy always answers 503.
        overflow: _,
        max_parallel_retries,
        retry_budget,
    } = limits;
    let unset = CircuitBreaker::default();
    let mut threshold = json!({"max_retries": max_parallel_retries});
    for (field, limit, default) in [
        ("max_connections", max_connections, unset.max_connections),
        ("max_pending_requests", max_pending_requests, unset.max_pending_requests),
        ("max_requests", max_parallel_requests, unset.max_parallel_requests),
    ] {
        if *limit != default {
            threshold[field] = json!(limit);
        }
    }
    if let Some(RetryBudget { numerator, denominator, min_retry_concurrency }) = retry_budget {
        threshold["retry_budget"] = json!({
            "budget_percent": {"value": f64::from(*numerator) * 100.0 / f64::from(*denominator)},
            "min_retry_concurrency": min_retry_concurrency,
        });
    }
    let mut breakers = json!({"thresholds": [threshold]});
    if let Some(connections) = max_connections_per_endpoint {
        breakers["per_host_thresholds"] = json!([{"max_connections": connections}]);
    }
    breakers
}

fn build_outlier_detection(passive: &PassiveHealthCheck) -> Value {
    let PassiveHealthCheck {
        base_ejection_time,
        interval,
        max_ejection_percent,
        consecutive_5xx_errors,
        consecutive_gateway_errors,
        consecutive_local_origin_failures,
        split_external_local_origin_errors,
        failure_percentage_threshold,
    } = passive;
    let mut detection = json!({
        "interval": duration(*interval),
        "base_ejection_time": duration(*base_ejection_time),
        "consecutive_5xx": consecutive_5xx_errors,
        "consecutive_gateway_failure": consecutive_gateway_errors,
        "enforcing_consecutive_gateway_failure": 100,
        "consecutive_local_origin_failure": consecutive_local_origin_failures,
        "split_external_local_origin_errors": split_external_local_origin_errors,
    });
    if let Some(threshold) = failure_percentage_threshold {
        detection["failure_percentage_threshold"] = json!(threshold.get());
        detection["enforcing_failure_percentage"] = json!(100);
    }
    // 0 is not sent, and Envoy's own default is 10.
    if max_ejection_percent.get() > 0 {
        detection["max_ejection_percent"] = json!(max_ejection_percent.get());
    }
    detection
}
