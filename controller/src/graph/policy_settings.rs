//! BackendTrafficPolicy: its settings with every default filled in.

use std::sync::Arc;

use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, BackOff, CircuitBreaker, Dns, GatewayDuration, GrpcProbe, Http2,
    Http2Keepalive, HttpProbe, PassiveHealthCheck, Payload, Percent, Policy, PolicyName, Retry, RetryBudget,
    TcpKeepalive, TcpProbe, Timeouts,
};
use understudy_crds::{
    ActiveHealthCheck as ActiveSpec, ActiveHealthCheckType, BackendTrafficPolicySpec, DurationText,
    HttpCheck, PassiveHealthCheck as PassiveSpec, Payload as PayloadSpec, Quantity, Retry as RetrySpec,
};

use crate::graph::policy_balancer::{build_load_balancer, build_slow_start};

/// Builds the policy of settings that `validate()` has checked.
pub(crate) fn build_policy(name: PolicyName, spec: &BackendTrafficPolicySpec) -> Policy {
    let unset = Policy::unset(name);
    let health = spec.health_check.as_ref();
    Policy {
        passive: health.and_then(|health| health.passive.as_ref()).map(build_passive),
        active: health.and_then(|health| health.active.as_ref()).map(build_active).map(Arc::new),
        panic_threshold: percent(health.and_then(|health| health.panic_threshold), unset.panic_threshold),
        retry: spec.retry.as_ref().map(build_retry),
        timeouts: build_timeouts(spec),
        circuit_breaker: build_circuit_breaker(spec),
        load_balancer: build_load_balancer(spec.load_balancer.as_ref()),
        slow_start: build_slow_start(spec.load_balancer.as_ref()),
        dns: build_dns(spec),
        buffer_limit: spec
            .connection
            .as_ref()
            .and_then(|connection| connection.buffer_limit.as_ref())
            .and_then(|limit| limit.bytes().ok())
            .unwrap_or(unset.buffer_limit),
        tcp_keepalive: spec.tcp_keepalive.as_ref().map(|keepalive| TcpKeepalive {
            probes: count(keepalive.probes, 9),
            idle_time: DurationText::or(keepalive.idle_time.as_ref(), GatewayDuration::from_secs(7200)),
            interval: DurationText::or(keepalive.interval.as_ref(), GatewayDuration::from_secs(75)),
        }),
        http2: build_http2(spec),
        ..unset
    }
}

fn build_http2(spec: &BackendTrafficPolicySpec) -> Http2 {
    let unset = Http2::default();
    let Some(http2) = &spec.http2 else { return unset };
    let window = |size: Option<&Quantity>, default: u32| {
        size.and_then(|size| size.bytes().ok()).and_then(|bytes| u32::try_from(bytes).ok()).unwrap_or(default)
    };
    let keepalive = http2.connection_keepalive.as_ref().and_then(|keepalive| {
        let duration = |text: &DurationText| text.parse().ok().filter(|text| !text.is_zero());
        let interval: GatewayDuration = keepalive.interval.as_ref().and_then(duration)?;
        let half = GatewayDuration::from_millis(interval.as_millis() / 2);
        let timeout = keepalive.timeout.as_ref().and_then(duration).unwrap_or(half);
        Some(Http2Keepalive { interval, timeout })
    });
    Http2 {
        max_concurrent_streams: count(http2.max_concurrent_streams, unset.max_concurrent_streams).max(1),
        initial_stream_window_size: window(
            http2.initial_stream_window_size.as_ref(),
            unset.initial_stream_window_size,
        ),
        initial_connection_window_size: window(
            http2.initial_connection_window_size.as_ref(),
            unset.initial_connection_window_size,
        ),
        keepalive,
    }
}

fn build_passive(passive: &PassiveSpec) -> PassiveHealthCheck {
    PassiveHealthCheck {
        base_ejection_time: passive.base_ejection_time(),
        interval: passive.interval(),
        max_ejection_percent: percent(
            Some(passive.max_ejection_percent()),
            PassiveHealthCheck::default().max_ejection_percent,
        ),
        consecutive_5xx_errors: count(passive.consecutive_5xx_errors, 5),
        consecutive_gateway_errors: count(passive.consecutive_gateway_errors, 0),
        consecutive_local_origin_failures: count(passive.consecutive_local_origin_failures, 5),
        split_external_local_origin_errors: passive.split_external_local_origin_errors.unwrap_or(false),
        failure_percentage_threshold: passive
            .failure_percentage_threshold
            .and_then(|threshold| Percent::new(threshold).ok()),
    }
}

fn build_active(source: &ActiveSpec) -> ActiveHealthCheck {
    let payload = |payload: &Option<PayloadSpec>| payload.as_ref().and_then(build_payload);
    let probe = match source.kind {
        ActiveHealthCheckType::Http => {
            ActiveProbe::Http(build_http(&source.http.clone().unwrap_or_default()))
        }
        ActiveHealthCheckType::Tcp => {
            let tcp = source.tcp.clone().unwrap_or_default();
            ActiveProbe::Tcp(TcpProbe { send: payload(&tcp.send), receive: payload(&tcp.receive) })
        }
        ActiveHealthCheckType::Grpc => {
            let service = source.grpc.as_ref().and_then(|grpc| grpc.service.clone());
            ActiveProbe::Grpc(GrpcProbe { service: service.unwrap_or_default() })
        }
    };
    let unset = ActiveHealthCheck::new(probe);
    ActiveHealthCheck {
        interval: DurationText::or(source.interval.as_ref(), unset.interval),
        timeout: DurationText::or(source.timeout.as_ref(), unset.timeout),
        initial_jitter: DurationText::or(source.initial_jitter.as_ref(), unset.initial_jitter),
        unhealthy_threshold: count(source.unhealthy_threshold, unset.unhealthy_threshold),
        healthy_threshold: count(source.healthy_threshold, unset.healthy_threshold),
        port: source
            .overrides
            .as_ref()
            .and_then(|overrides| overrides.port)
            .and_then(|port| u16::try_from(port).ok()),
        ..unset
    }
}

fn build_http(source: &HttpCheck) -> HttpProbe {
    let path = if source.path.starts_with('/') { source.path.clone() } else { format!("/{}", source.path) };
    let unset = HttpProbe::get(path);
    let statuses = |statuses: &Option<Vec<i64>>| {
        statuses.iter().flatten().filter_map(|status| u16::try_from(*status).ok()).collect()
    };
    HttpProbe {
        method: source.method.as_deref().map_or(unset.method, str::to_ascii_uppercase),
        hostname: source.hostname.clone(),
        expected_statuses: match source.expected_statuses.as_deref() {
            None | Some([]) => unset.expected_statuses,
            Some(_) => statuses(&source.expected_statuses),
        },
        retriable_statuses: statuses(&source.retriable_statuses),
        expected_response: source.expected_response.as_ref().and_then(build_payload),
        request_body: source.request_body.as_ref().and_then(build_payload),
        ..unset
    }
}

fn build_payload(source: &PayloadSpec) -> Option<Payload> {
    source.bytes().map(Payload::from)
}

fn build_retry(source: &RetrySpec) -> Retry {
    let mut retry = Retry::default();
    retry.num_retries = count(source.num_retries, retry.num_retries);
    retry.num_attempts_per_priority =
        Some(count(source.num_attempts_per_priority, 0)).filter(|attempts| *attempts > 0);
    if let Some(retry_on) = &source.retry_on {
        if let Some(triggers) = retry_on.triggers.as_ref().filter(|triggers| !triggers.is_empty()) {
            retry.triggers = triggers.iter().copied().collect();
        }
        // Statuses replace the default ones even when there are none.
        let codes = retry_on.http_status_codes.iter().flatten();
        retry.status_codes = codes.filter_map(|code| u16::try_from(*code).ok()).collect();
    }
    if let Some(per_retry) = &source.per_retry {
        retry.per_try_timeout = per_retry
            .timeout
            .as_ref()
            .and_then(|timeout| timeout.parse().ok())
            .filter(|timeout| !timeout.is_zero());
        if let Some(back_off) = &per_retry.back_off {
            let (base_interval, max_interval) = back_off.bounds();
            retry.back_off = BackOff { base_interval, max_interval };
        }
    }
    retry
}

fn build_timeouts(spec: &BackendTrafficPolicySpec) -> Timeouts {
    let unset = Timeouts::default();
    let tcp = spec.timeout.as_ref().and_then(|timeout| timeout.tcp.as_ref());
    let http = spec.timeout.as_ref().and_then(|timeout| timeout.http.as_ref());
    // 0s is no limit.
    let longest = |text: Option<&DurationText>| {
        text.and_then(|text| text.parse().ok()).filter(|longest: &GatewayDuration| !longest.is_zero())
    };
    Timeouts {
        connect: DurationText::or(tcp.and_then(|tcp| tcp.connect_timeout.as_ref()), unset.connect),
        request: http.and_then(|http| http.request_timeout.as_ref()).and_then(|timeout| timeout.parse().ok()),
        connection_idle: DurationText::or(
            http.and_then(|http| http.connection_idle_timeout.as_ref()),
            unset.connection_idle,
        ),
        stream_idle: DurationText::or(
            http.and_then(|http| http.stream_idle_timeout.as_ref()),
            unset.stream_idle,
        ),
        max_connection: longest(http.and_then(|http| http.max_connection_duration.as_ref())),
        max_stream: longest(http.and_then(|http| http.max_stream_duration.as_ref())),
    }
}

fn build_circuit_breaker(spec: &BackendTrafficPolicySpec) -> CircuitBreaker {
    let unset = CircuitBreaker::default();
    let Some(breaker) = &spec.circuit_breaker else { return unset };
    let per_endpoint = breaker.per_endpoint.as_ref();
    let per_connection = count(breaker.max_requests_per_connection, 0);
    CircuitBreaker {
        max_connections: count(breaker.max_connections, unset.max_connections),
        max_pending_requests: count(breaker.max_pending_requests, unset.max_pending_requests),
        max_parallel_requests: count(breaker.max_parallel_requests, unset.max_parallel_requests),
        max_requests_per_connection: Some(per_connection).filter(|requests| *requests > 0),
        max_connections_per_endpoint: per_endpoint.map(|endpoint| count(endpoint.max_connections, 1024)),
        overflow: unset.overflow,
        max_parallel_retries: count(breaker.max_parallel_retries, unset.max_parallel_retries),
        retry_budget: breaker.retry_budget.as_ref().map(|budget| RetryBudget {
            numerator: count(Some(budget.percent.numerator), 0),
            denominator: count(budget.percent.denominator, 100).max(1),
            min_retry_concurrency: count(budget.min_retry_concurrency, 3),
        }),
    }
}

fn build_dns(spec: &BackendTrafficPolicySpec) -> Dns {
    let unset = Dns::default();
    let Some(dns) = &spec.dns else { return unset };
    Dns {
        refresh_rate: DurationText::or(dns.dns_refresh_rate.as_ref(), unset.refresh_rate),
        respect_ttl: dns.respect_dns_ttl.unwrap_or(unset.respect_ttl),
        lookup_family: dns.lookup_family.unwrap_or(unset.lookup_family),
    }
}

fn count(number: Option<i64>, default: u32) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
}

fn percent(number: Option<i64>, default: Percent) -> Percent {
    number.and_then(|number| Percent::new(number).ok()).unwrap_or(default)
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_conf::RetryTrigger;

    fn policy(spec: &str) -> Policy {
        let spec: BackendTrafficPolicySpec = serde_yaml::from_str(spec).unwrap();
        build_policy(PolicyName::new("p").unwrap(), &spec)
    }

    #[test]
    fn an_empty_policy_sets_nothing() {
        assert_eq!(policy("{}"), Policy::unset(PolicyName::new("p").unwrap()));
    }

    #[test]
    fn an_empty_passive_block_switches_detection_on_with_its_defaults() {
        // G4
        assert_eq!(policy("healthCheck: {passive: {}}").passive, Some(PassiveHealthCheck::default()));
        assert_eq!(policy("healthCheck: {panicThreshold: 0}").passive, None);
        assert_eq!(policy("healthCheck: {panicThreshold: 0}").panic_threshold.get(), 0);
        let zero = policy("healthCheck: {passive: {maxEjectionPercent: 0}}").passive.unwrap();
        assert_eq!(zero.max_ejection_percent.get(), 0);
        let share = policy("healthCheck: {passive: {failurePercentageThreshold: 85}}").passive.unwrap();
        assert_eq!(share.failure_percentage_threshold, Percent::new(85).ok());
    }

    #[test]
    fn h8_an_active_check_has_envoy_gateways_defaults() {
        let check = policy("healthCheck: {active: {type: HTTP, http: {path: healthz}}}").active.unwrap();
        assert_eq!(*check, ActiveHealthCheck::new(ActiveProbe::Http(HttpProbe::get("/healthz"))));
        assert_eq!(
            (check.timeout, check.interval),
            (GatewayDuration::from_secs(1), GatewayDuration::from_secs(3))
        );
        assert_eq!((check.unhealthy_threshold, check.healthy_threshold), (3, 1));
        let tcp = policy("healthCheck: {active: {type: TCP, tcp: {}}}").active.unwrap();
        assert_eq!(tcp.probe, ActiveProbe::Tcp(TcpProbe::default()));
    }

    #[test]
    fn every_field_of_an_active_check_is_taken_over() {
        let check = policy(
            "healthCheck: {active: {type: HTTP, interval: 1s, timeout: 500ms, initialJitter: 200ms, \
             healthyThreshold: 2, unhealthyThreshold: 4, overrides: {port: 9090}, http: {path: /h, method: post, \
             hostname: a.example.com, expectedStatuses: [200, 204], retriableStatuses: [503], \
             expectedResponse: {type: Text, text: ok}, requestBody: {type: Binary, binary: /wA=}}}}",
        );
        let expected = ActiveHealthCheck {
            probe: ActiveProbe::Http(HttpProbe {
                method: "POST".to_owned(),
                path: "/h".to_owned(),
                hostname: Some("a.example.com".to_owned()),
                expected_statuses: [200, 204].into(),
                retriable_statuses: [503].into(),
                expected_response: Some(Payload::Text("ok".to_owned())),
                request_body: Some(Payload::Binary(vec![0xff, 0])),
            }),
            interval: GatewayDuration::from_secs(1),
            timeout: GatewayDuration::from_millis(500),
            initial_jitter: GatewayDuration::from_millis(200),
            unhealthy_threshold: 4,
            healthy_threshold: 2,
            port: Some(9090),
        };
        assert_eq!(check.active.as_deref(), Some(&expected));
    }

    #[test]
    fn an_empty_retry_block_switches_retries_on_with_their_defaults() {
        // G5
        assert_eq!(policy("retry: {}").retry, Some(Retry::default()));
    }

    #[test]
    fn statuses_replace_the_default_even_when_left_out_and_triggers_only_when_given() {
        // G5
        let only_triggers = policy("retry: {retryOn: {triggers: [reset]}}").retry.unwrap();
        assert_eq!(only_triggers.triggers, [RetryTrigger::Reset].into());
        assert_eq!(only_triggers.status_codes, [].into());
        let only_codes = policy("retry: {retryOn: {httpStatusCodes: [500], triggers: []}}").retry.unwrap();
        assert_eq!(only_codes.triggers, Retry::default().triggers);
        assert_eq!(only_codes.status_codes, [500].into());
    }

    #[test]
    fn back_off_and_attempts_per_priority_follow_the_policy() {
        let retry = policy(
            "retry: {numRetries: 5, numAttemptsPerPriority: 1, perRetry: {timeout: 250ms, backOff: {baseInterval: 100ms}}}",
        )
        .retry
        .unwrap();
        assert_eq!((retry.num_retries, retry.num_attempts_per_priority), (5, Some(1)));
        assert_eq!(retry.per_try_timeout, Some(GatewayDuration::from_millis(250)));
        assert_eq!(retry.back_off.max_interval, GatewayDuration::from_secs(1));
    }

    #[test]
    fn a_request_timeout_of_zero_is_unlimited_and_an_unset_one_is_not() {
        assert_eq!(
            policy("timeout: {http: {requestTimeout: 0s}}").timeouts.request,
            Some(GatewayDuration::default())
        );
        assert_eq!(policy("timeout: {tcp: {connectTimeout: 1s}}").timeouts.request, None);
    }

    #[test]
    fn lengths_of_zero_are_no_limit() {
        let timeouts = |text| policy(&format!("timeout: {{http: {text}}}")).timeouts;
        let limited = timeouts("{maxConnectionDuration: 5m, maxStreamDuration: 1h}");
        let seconds = |seconds| Some(GatewayDuration::from_secs(seconds));
        assert_eq!((limited.max_connection, limited.max_stream), (seconds(300), seconds(3600)));
        assert_eq!(timeouts("{maxConnectionDuration: 0s, maxStreamDuration: 0s}"), Timeouts::default());
    }

    #[test]
    fn limits_are_1024_where_a_block_leaves_them_out() {
        // B1
        assert_eq!(policy("circuitBreaker: {}").circuit_breaker, CircuitBreaker::default());
        let breaker = policy(
            "circuitBreaker: {maxConnections: 1, maxPendingRequests: 0, maxParallelRequests: 3, \
             maxRequestsPerConnection: 4, perEndpoint: {maxConnections: 5}}",
        )
        .circuit_breaker;
        assert_eq!((breaker.max_connections, breaker.max_pending_requests), (1, 0));
        assert_eq!((breaker.max_parallel_requests, breaker.max_requests_per_connection), (3, Some(4)));
        assert_eq!(breaker.max_connections_per_endpoint, Some(5));
        let empty = policy("circuitBreaker: {maxRequestsPerConnection: 0, perEndpoint: {}}").circuit_breaker;
        assert_eq!(
            (empty.max_requests_per_connection, empty.max_connections_per_endpoint),
            (None, Some(1024))
        );
    }

    #[test]
    fn http2_has_envoy_gateways_defaults_and_takes_what_is_given() {
        assert_eq!(policy("http2: {}").http2, Http2::default());
        let http2 = policy(
            "http2: {maxConcurrentStreams: 7, initialStreamWindowSize: 128Ki, \
             initialConnectionWindowSize: 2Mi, connectionKeepalive: {interval: 10s}}",
        )
        .http2;
        assert_eq!((http2.max_concurrent_streams, http2.initial_stream_window_size), (7, 128 * 1024));
        assert_eq!(http2.initial_connection_window_size, 2 * 1024 * 1024);
        let keepalive = http2.keepalive.unwrap();
        assert_eq!(keepalive.interval, GatewayDuration::from_secs(10));
        assert_eq!(keepalive.timeout, GatewayDuration::from_secs(5));
        assert_eq!(policy("http2: {connectionKeepalive: {timeout: 1s}}").http2.keepalive, None);
    }

    #[test]
    fn a_retry_budget_and_keepalive_have_their_own_defaults() {
        let policy = policy("{circuitBreaker: {retryBudget: {percent: {numerator: 20}}}, tcpKeepalive: {}}");
        let budget = policy.circuit_breaker.retry_budget.unwrap();
        assert_eq!((budget.numerator, budget.denominator, budget.min_retry_concurrency), (20, 100, 3));
        let keepalive = policy.tcp_keepalive.unwrap();
        assert_eq!((keepalive.probes, keepalive.interval), (9, GatewayDuration::from_secs(75)));
    }
}
