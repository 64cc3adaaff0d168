//! `BackendTrafficPolicy`: detection, retries, timeouts and balancing of the routes that it targets.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::extras::validate_response_overrides;
use crate::problem::Checker;
use crate::schema;
use crate::target::validate_target;
use crate::{
    CircuitBreaker, Compression, Connection, Dns, FaultInjection, HealthCheck, Http2, LoadBalancer,
    LoadBalancerType, OpaqueBlock, PolicyTarget, PolicyTargetSelector, Problem, ProxyProtocol, RequestBuffer,
    Retry, TcpKeepalive, Timeout,
};

/// How the traffic of the targeted routes reaches its endpoints (short name `btp`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackendTrafficPolicy {
    /// [`crate::API_VERSION`].
    pub api_version: String,
    /// `BackendTrafficPolicy`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: BackendTrafficPolicySpec,
    /// What a controller reported; ignored here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<OpaqueBlock>,
}

/// What a [`BackendTrafficPolicy`] asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!(has(self.targetRef) && has(self.targetRefs) && size(self.targetRefs) > 0)", "targetRef is deprecated and excludes targetRefs"),
    ("has(self.targetRef) || (has(self.targetRefs) && size(self.targetRefs) > 0) || (has(self.targetSelectors) && size(self.targetSelectors) > 0)", "the policy has no target; name a Gateway or a route in targetRefs"),
    ("!has(self.mergeType) || ((!has(self.targetRef) || self.targetRef.kind.endsWith('Route')) && (!has(self.targetRefs) || self.targetRefs.all(t, t.kind.endsWith('Route'))) && (!has(self.targetSelectors) || self.targetSelectors.all(t, t.kind.endsWith('Route'))))", "mergeType needs targets that are routes"),
    ("!(has(self.requestBuffer) && has(self.httpUpgrade))", "requestBuffer and httpUpgrade exclude each other"),
    ("!(has(self.compression) && has(self.compressor))", "compression and compressor exclude each other"),
    ("!has(self.connection) || !has(self.connection.preconnect) || !has(self.connection.preconnect.predictivePercent) || (has(self.loadBalancer) && self.loadBalancer.type in ['Random', 'RoundRobin'])", "connection.preconnect.predictivePercent needs a load balancer of type Random or RoundRobin"),
])))]
pub struct BackendTrafficPolicySpec {
    /// The one target; deprecated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<PolicyTarget>,
    /// The targets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub target_refs: Option<Vec<PolicyTarget>>,
    /// The targets by label.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub target_selectors: Option<Vec<PolicyTargetSelector>>,
    /// `StrategicMerge` or `JSONMerge`: merge with the parent's policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["StrategicMerge", "JSONMerge"]))]
    pub merge_type: Option<String>,
    /// Health checks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
    /// Retries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Timeouts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How an endpoint is chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load_balancer: Option<LoadBalancer>,
    /// Buffers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// TCP keep-alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Name resolution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    /// HTTP/2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http2: Option<Http2>,
    /// PROXY protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Speak what the client speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_client_protocol: Option<bool>,
    /// Buffer the whole request first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_buffer: Option<RequestBuffer>,
    /// Answers that are replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaques")]
    pub response_override: Option<Vec<OpaqueBlock>>,
    /// Faults on purpose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault_injection: Option<FaultInjection>,
    /// Rate limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub rate_limit: Option<OpaqueBlock>,
    /// Compression of answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<Vec<Compression>>,
    /// Compression of answers, by its other name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compressor: Option<Vec<Compression>>,
    /// Refusal of requests when too many fail.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub admission_control: Option<OpaqueBlock>,
    /// Limits of bandwidth.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub bandwidth_limit: Option<OpaqueBlock>,
    /// Upgrades that are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaques")]
    pub http_upgrade: Option<Vec<OpaqueBlock>>,
    /// Tracing and metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub telemetry: Option<OpaqueBlock>,
    /// `Endpoint` or `Service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Endpoint", "Service"]))]
    pub routing_type: Option<String>,
}

impl BackendTrafficPolicySpec {
    /// The targets by name with the field that each stands in, the deprecated single one first.
    #[must_use]
    pub fn targets(&self) -> Vec<(String, &PolicyTarget)> {
        let single = self.target_ref.iter().map(|target| ("spec.targetRef".to_owned(), target));
        let list = self.target_refs.iter().flatten().enumerate();
        single.chain(list.map(|(index, target)| (format!("spec.targetRefs[{index}]"), target))).collect()
    }
}

impl BackendTrafficPolicy {
    /// Everything that is wrong with it, in the order of its fields.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = Checker::new(&mut problems, "spec");
        self.spec.validate_targets(&mut check);
        self.spec.validate_settings(&mut check);
        self.spec.validate_extras(&mut check);
        problems
    }
}

impl BackendTrafficPolicySpec {
    fn validate_targets(&self, check: &mut Checker<'_>) {
        let refs = self.target_refs.as_ref().is_some_and(|refs| !refs.is_empty());
        let selectors = self.target_selectors.as_ref().is_some_and(|selectors| !selectors.is_empty());
        if self.target_ref.is_some() && refs {
            check.problem(
                "targetRef",
                "it stands beside targetRefs",
                "Keep targetRefs; targetRef is deprecated.",
            );
        }
        if self.target_ref.is_none() && !refs && !selectors {
            check.problem(
                "targetRefs",
                "the policy has no target",
                "Name a Gateway or a route in targetRefs, in the policy's own namespace.",
            );
        }
        if let Some(target) = &self.target_ref {
            validate_target(&target.group, &target.kind, &mut check.at("targetRef"));
        }
        for (index, target) in self.target_refs.iter().flatten().enumerate() {
            validate_target(&target.group, &target.kind, &mut check.item("targetRefs", index));
        }
        for (index, selector) in self.target_selectors.iter().flatten().enumerate() {
            selector.validate(&mut check.item("targetSelectors", index));
        }
        let routes_only = self.targets().iter().all(|(_, target)| target.kind.ends_with("Route"))
            && self.target_selectors.iter().flatten().all(|selector| selector.kind.ends_with("Route"));
        match self.merge_type.as_deref() {
            Some("StrategicMerge" | "JSONMerge") if routes_only => {}
            Some("StrategicMerge" | "JSONMerge") => check.problem(
                "mergeType",
                "only a policy on routes can be merged with its parent's",
                "Remove it, or target routes only.",
            ),
            Some(other) => {
                check.problem(
                    "mergeType",
                    format!("{other:?} is unknown"),
                    "Use StrategicMerge or JSONMerge.",
                );
            }
            None => {}
        }
    }

    fn validate_settings(&self, check: &mut Checker<'_>) {
        if let Some(health) = &self.health_check {
            health.validate(&mut check.at("healthCheck"));
        }
        if let Some(retry) = &self.retry {
            retry.validate(&mut check.at("retry"));
        }
        if let Some(timeout) = &self.timeout {
            timeout.validate(&mut check.at("timeout"));
        }
        if let Some(breaker) = &self.circuit_breaker {
            breaker.validate(&mut check.at("circuitBreaker"));
        }
        if let Some(balancer) = &self.load_balancer {
            balancer.validate(&mut check.at("loadBalancer"));
        }
        if let Some(connection) = &self.connection {
            use LoadBalancerType as Type;
            let kind = self.load_balancer.as_ref().map(|balancer| balancer.kind);
            let predictive = matches!(kind, Some(Type::Random | Type::RoundRobin));
            connection.validate(&mut check.at("connection"), predictive);
        }
        if let Some(keepalive) = &self.tcp_keepalive {
            keepalive.validate(&mut check.at("tcpKeepalive"));
        }
        if let Some(dns) = &self.dns {
            dns.validate(&mut check.at("dns"));
        }
        if let Some(http2) = &self.http2 {
            http2.validate(&mut check.at("http2"));
        }
    }

    fn validate_extras(&self, check: &mut Checker<'_>) {
        if let Some(buffer) = &self.request_buffer {
            check.quantity("requestBuffer.limit", buffer.limit.as_ref());
            if self.http_upgrade.is_some() {
                check.problem("requestBuffer", "it excludes httpUpgrade", "Keep one of the two.");
            }
        }
        if let Some(overrides) = &self.response_override {
            validate_response_overrides(overrides, check);
        }
        if let Some(fault) = &self.fault_injection {
            fault.validate(&mut check.at("faultInjection"));
        }
        if self.compression.is_some() && self.compressor.is_some() {
            check.problem("compressor", "it stands beside compression", "Keep compression.");
        }
        if let Some(routing) = self.routing_type.as_deref()
            && !["Endpoint", "Service"].contains(&routing)
        {
            check.problem("routingType", format!("{routing:?} is unknown"), "Use Endpoint or Service.");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(spec: &str) -> Vec<String> {
        let target = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]";
        let text = if spec.contains("target") {
            format!("spec: {{{spec}}}")
        } else {
            format!("spec: {{{target}, {spec}}}")
        };
        let policy: BackendTrafficPolicy = serde_yaml::from_str(&text).unwrap();
        policy.validate().into_iter().map(|problem| problem.field).collect()
    }

    #[test]
    fn a_policy_has_target_refs_or_a_target_ref_or_selectors() {
        let target = "{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}";
        assert_eq!(fields(&format!("targetRef: {target}")), [""; 0]);
        assert_eq!(fields(&format!("targetRefs: [{target}]")), [""; 0]);
        assert_eq!(fields("targetSelectors: [{kind: HTTPRoute, matchLabels: {a: b}}]"), [""; 0]);
        assert_eq!(fields("targetRefs: []"), ["spec.targetRefs"]);
        assert_eq!(fields(&format!("targetRef: {target}, targetRefs: [{target}]")), ["spec.targetRef"]);
        assert_eq!(
            fields("targetRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: a}]"),
            ["spec.targetRefs[0].group", "spec.targetRefs[0].kind"]
        );
    }

    #[test]
    fn each_rule_of_the_schema_names_its_field() {
        for (spec, field) in [
            ("healthCheck: {passive: {baseEjectionTime: 1.5s}}", "spec.healthCheck.passive.baseEjectionTime"),
            (
                "healthCheck: {passive: {maxEjectionPercent: 101}}",
                "spec.healthCheck.passive.maxEjectionPercent",
            ),
            (
                "healthCheck: {passive: {consecutive5XxErrors: -1}}",
                "spec.healthCheck.passive.consecutive5XxErrors",
            ),
            ("healthCheck: {panicThreshold: 200}", "spec.healthCheck.panicThreshold"),
            ("healthCheck: {active: {type: HTTP}}", "spec.healthCheck.active.http"),
            ("healthCheck: {active: {type: TCP, tcp: {}, http: {path: /}}}", "spec.healthCheck.active.http"),
            (
                "healthCheck: {active: {type: TCP, tcp: {send: {type: Text}}}}",
                "spec.healthCheck.active.tcp.send",
            ),
            (
                "healthCheck: {active: {type: HTTP, http: {path: /, requestBody: {type: Text, text: a}}}}",
                "spec.healthCheck.active.http.requestBody",
            ),
            (
                "healthCheck: {active: {type: GRPC, unhealthyThreshold: 0}}",
                "spec.healthCheck.active.unhealthyThreshold",
            ),
            ("retry: {numRetries: -1}", "spec.retry.numRetries"),
            ("retry: {retryOn: {httpStatusCodes: [503, 999]}}", "spec.retry.retryOn.httpStatusCodes[1]"),
            ("retry: {perRetry: {backOff: {baseInterval: 0s}}}", "spec.retry.perRetry.backOff.baseInterval"),
            (
                "retry: {perRetry: {backOff: {baseInterval: 1s, maxInterval: 10ms}}}",
                "spec.retry.perRetry.backOff.maxInterval",
            ),
            ("timeout: {tcp: {connectTimeout: soon}}", "spec.timeout.tcp.connectTimeout"),
            ("timeout: {http: {requestTimeout: 1d}}", "spec.timeout.http.requestTimeout"),
            ("circuitBreaker: {maxConnections: -1}", "spec.circuitBreaker.maxConnections"),
            (
                "circuitBreaker: {retryBudget: {percent: {numerator: 200}}}",
                "spec.circuitBreaker.retryBudget.percent.numerator",
            ),
            ("loadBalancer: {type: ConsistentHash}", "spec.loadBalancer.consistentHash"),
            (
                "loadBalancer: {type: Random, consistentHash: {type: SourceIP}}",
                "spec.loadBalancer.consistentHash",
            ),
            (
                "loadBalancer: {type: ConsistentHash, consistentHash: {type: SourceIP, tableSize: 65536}}",
                "spec.loadBalancer.consistentHash.tableSize",
            ),
            ("loadBalancer: {type: Random, slowStart: {window: 1s}}", "spec.loadBalancer.slowStart"),
            (
                "loadBalancer: {type: ConsistentHash, consistentHash: {type: Header}}",
                "spec.loadBalancer.consistentHash.header",
            ),
            ("connection: {bufferLimit: much}", "spec.connection.bufferLimit"),
            (
                "connection: {preconnect: {predictivePercent: 150}}",
                "spec.connection.preconnect.predictivePercent",
            ),
            ("tcpKeepalive: {probes: 0}", "spec.tcpKeepalive.probes"),
            ("dns: {dnsRefreshRate: 0s}", "spec.dns.dnsRefreshRate"),
            (
                "http2: {connectionKeepalive: {interval: 1s, timeout: 2s}}",
                "spec.http2.connectionKeepalive.timeout",
            ),
            ("http2: {initialStreamWindowSize: 1Ki}", "spec.http2.initialStreamWindowSize"),
            ("http2: {initialConnectionWindowSize: 2Gi}", "spec.http2.initialConnectionWindowSize"),
            ("faultInjection: {}", "spec.faultInjection"),
            ("faultInjection: {abort: {httpStatus: 500, grpcStatus: 1}}", "spec.faultInjection.abort"),
            ("responseOverride: [{match: {}, response: {}}]", "spec.responseOverride[0].match"),
            ("mergeType: Deep", "spec.mergeType"),
            ("requestBuffer: {limit: 1Ki}, httpUpgrade: [{type: websocket}]", "spec.requestBuffer"),
            ("compression: [{type: Gzip}], compressor: [{type: Gzip}]", "spec.compressor"),
            ("routingType: Pod", "spec.routingType"),
        ] {
            assert_eq!(fields(spec), [field], "{spec}");
        }
    }

    #[test]
    fn back_off_ends_at_ten_times_its_base() {
        let policy: BackendTrafficPolicy =
            serde_yaml::from_str("spec: {retry: {perRetry: {backOff: {baseInterval: 100ms}}}}").unwrap();
        let back_off = policy.spec.retry.unwrap().per_retry.unwrap().back_off.unwrap();
        assert_eq!(back_off.bounds().1.to_string(), "1s");
    }
}
