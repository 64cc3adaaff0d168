//! BackendTrafficPolicy: what it says without effect.

use std::collections::BTreeSet;

use understudy_crds::{BackendTrafficPolicy, BackendTrafficPolicySpec, ConsistentHashType, LoadBalancerType};

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};
use crate::watch::Kind;

/// More of a body than this is not kept for a retry.
const BUFFER_LIMIT: u64 = 64 * 1024;

/// Reports fields that have no effect, and fields that do not act yet.
pub(crate) fn report_policy(policy: &Object<BackendTrafficPolicy>, diagnostics: &mut Vec<Diagnostic>) {
    let spec = &policy.value.spec;
    for field in fields_not_acting(spec) {
        diagnostics
            .push(reasons::not_acting(&policy.at(&format!("spec.{field}")), "the field does not act yet"));
    }
    if spec.target_ref.is_some() {
        diagnostics.push(reasons::deprecated(&policy.at("spec.targetRef"), "targetRefs"));
    }
    if spec.compressor.is_some() {
        diagnostics.push(reasons::deprecated(&policy.at("spec.compressor"), "compression"));
    }
    let limit = spec.connection.as_ref().and_then(|connection| connection.buffer_limit.as_ref());
    if limit.and_then(|limit| limit.bytes().ok()).is_some_and(|bytes| bytes > BUFFER_LIMIT) {
        diagnostics.push(reasons::buffer_limit_capped(&policy.at("spec.connection.bufferLimit")));
    }
    let Some(passive) = spec.health_check.as_ref().and_then(|health| health.passive.as_ref()) else { return };
    let at = |field: &str| policy.at(&format!("spec.healthCheck.passive.{field}"));
    let split = passive.split_external_local_origin_errors.unwrap_or(false);
    if passive.consecutive_local_origin_failures.is_some() && !split {
        diagnostics.push(reasons::local_origin_without_split(&at("consecutiveLocalOriginFailures")));
    }
    if passive.always_eject_one_endpoint == Some(false) {
        diagnostics.push(reasons::first_ejection_always_allowed(&at("alwaysEjectOneEndpoint")));
    }
}

/// Reports what means nothing to routes of kinds that know no requests.
pub(crate) fn report_without_requests(
    policy: &Object<BackendTrafficPolicy>,
    kinds: &BTreeSet<Kind>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    if kinds.is_empty() {
        return;
    }
    let named = kinds.iter().map(|kind| format!("{kind}s")).collect::<Vec<_>>().join(" and ");
    let spec = &policy.value.spec;
    let retry_on = spec.retry.as_ref().and_then(|retry| retry.retry_on.as_ref());
    let http = spec.timeout.as_ref().and_then(|timeout| timeout.http.as_ref());
    let hash = spec.load_balancer.as_ref().and_then(|balancer| balancer.consistent_hash.as_ref());
    let checks = spec.health_check.as_ref().and_then(|health| health.active.as_ref());
    let fields = [
        ("retry.retryOn.httpStatusCodes", retry_on.is_some_and(|on| on.http_status_codes.is_some())),
        ("timeout.http.requestTimeout", http.is_some_and(|http| http.request_timeout.is_some())),
        ("timeout.http.maxStreamDuration", http.is_some_and(|http| http.max_stream_duration.is_some())),
        (
            "loadBalancer.consistentHash.type",
            hash.is_some_and(|hash| hash.kind != ConsistentHashType::SourceIP),
        ),
        ("http2", spec.http2.is_some()),
    ];
    for (field, _) in fields.into_iter().filter(|(_, is_given)| *is_given) {
        let message = format!("it means nothing to {named}, which know no requests");
        let place = policy.at(&format!("spec.{field}"));
        diagnostics.push(reasons::no_effect(&place, message, format!("Give {named} a policy without it.")));
    }
    if kinds.contains(&Kind::UdpRoute) && checks.is_some() {
        let message = "checks connect over TCP, which endpoints of UDPRoutes may not answer";
        let remedy = "Remove it, unless the endpoints listen on TCP as well.";
        diagnostics.push(reasons::no_effect(&policy.at("spec.healthCheck.active"), message, remedy));
    }
}

/// Fields that are accepted and do not act yet.
fn fields_not_acting(spec: &BackendTrafficPolicySpec) -> Vec<String> {
    let mut fields = Vec::new();
    let mut add = |field: &str, given: bool| {
        if given {
            fields.push(field.to_owned());
        }
    };
    if let Some(health) = &spec.health_check {
        let active = health.active.as_ref();
        let log = active.is_some_and(|active| active.health_check_log.is_some());
        add("healthCheck.active.healthCheckLog", log);
    }
    if let Some(balancer) = &spec.load_balancer {
        use LoadBalancerType as Type;
        add("loadBalancer.type", matches!(balancer.kind, Type::BackendUtilization | Type::DynamicModule));
        add("loadBalancer.zoneAware", balancer.zone_aware.is_some());
        add("loadBalancer.endpointOverride", balancer.endpoint_override.is_some());
    }
    if let Some(connection) = &spec.connection {
        add("connection.socketBufferLimit", connection.socket_buffer_limit.is_some());
        add("connection.preconnect", connection.preconnect.is_some());
    }
    if let Some(http2) = &spec.http2 {
        add("http2.onInvalidMessage", http2.on_invalid_message.is_some());
        if let Some(keepalive) = &http2.connection_keepalive {
            // Without an interval nothing is asked.
            let at = |field: &str| format!("http2.connectionKeepalive.{field}");
            add(&at("timeout"), keepalive.timeout.is_some() && keepalive.interval.is_none());
            add(&at("idleInterval"), keepalive.idle_interval.is_some());
            add(&at("intervalJitter"), keepalive.interval_jitter.is_some());
        }
    }
    add("proxyProtocol", spec.proxy_protocol.is_some());
    add("useClientProtocol", spec.use_client_protocol == Some(true));
    add("requestBuffer", spec.request_buffer.is_some());
    add("responseOverride", spec.response_override.is_some());
    add("faultInjection", spec.fault_injection.is_some());
    add("rateLimit", spec.rate_limit.is_some());
    add("compression", spec.compression.is_some());
    add("compressor", spec.compressor.is_some());
    add("admissionControl", spec.admission_control.is_some());
    add("bandwidthLimit", spec.bandwidth_limit.is_some());
    add("httpUpgrade", spec.http_upgrade.is_some());
    add("telemetry", spec.telemetry.is_some());
    add("routingType", spec.routing_type.is_some());
    fields
}
