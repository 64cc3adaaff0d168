//! BackendTrafficPolicy: what it says without effect.

use understudy_crds::{BackendTrafficPolicy, BackendTrafficPolicySpec, LoadBalancerType};

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};

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
