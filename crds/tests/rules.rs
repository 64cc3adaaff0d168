//! The rules of the schemas, evaluated as an API server does.

#![allow(clippy::unwrap_used, reason = "tests end there")]

mod definition;

use definition::{definition, kinds};
use kube_cel::{Validator, compile_schema, estimate_rule_cost};
use serde_json::Value;
use understudy_crds::{Backend, BackendTrafficPolicy};

fn schema(kind: &str) -> Value {
    let kind = kinds().into_iter().find(|known| known.kind == kind).unwrap();
    definition(&kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// What the rules say of an object, and how many problems `validate()` finds.
fn messages(kind: &str, spec: &str) -> (Vec<String>, usize) {
    let object: Value =
        serde_yaml::from_str(&format!("{{metadata: {{name: a}}, spec: {{{spec}}}}}")).unwrap();
    let problems = match kind {
        "Backend" => serde_json::from_value::<Backend>(object.clone()).unwrap().validate(),
        _ => serde_json::from_value::<BackendTrafficPolicy>(object.clone()).unwrap().validate(),
    };
    let found = Validator::new().validate(&schema(kind), &object, None);
    let messages = found.err().into_iter().flatten().map(|error| error.message);
    (messages.collect(), problems.len())
}

const IP: &str = "{ip: {address: 10.0.0.1, port: 80}}";
const TARGET: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}]";

#[test]
fn every_rule_compiles_and_costs_little() {
    fn walk(schema: &Value, rules: &mut usize) {
        let compiled = compile_schema(schema);
        assert!(!compiled.has_errors(), "{:?}", compiled.compilation_errors());
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            let rule = rule["rule"].as_str().unwrap();
            let warnings = estimate_rule_cost(rule, &compiled);
            assert!(warnings.is_empty(), "{rule}: {warnings:?}");
            *rules += 1;
        }
        match schema {
            Value::Object(fields) => fields.values().for_each(|below| walk(below, rules)),
            Value::Array(items) => items.iter().for_each(|below| walk(below, rules)),
            _ => {}
        }
    }
    let mut rules = 0;
    for kind in kinds() {
        walk(&schema(kind.kind), &mut rules);
    }
    assert!(rules > 40, "{rules}");
}

#[test]
fn what_the_rules_refuse_is_refused_by_validate_too() {
    for (kind, spec, message) in [
        (
            "Backend",
            format!("type: DynamicResolver, endpoints: [{IP}]"),
            "a DynamicResolver has no endpoints",
        ),
        ("Backend", "endpoints: [{zone: a}]".to_owned(), "exactly one of fqdn, ip and unix"),
        (
            "Backend",
            "endpoints: [{ip: {address: '::1', port: 80}, unix: {path: /a}}]".to_owned(),
            "exactly one of fqdn, ip and unix",
        ),
        (
            "Backend",
            format!(
                "endpoints: [{IP}], tls: {{insecureSkipVerify: true, autoSNIFromEndpointHostname: true}}"
            ),
            "needs a hostname at every ip",
        ),
        (
            "Backend",
            "tls: {insecureSkipVerify: true, wellKnownCACertificates: System}".to_owned(),
            "insecureSkipVerify excludes",
        ),
        (
            "Backend",
            "tls: {insecureSkipVerify: true, minVersion: '1.3', maxVersion: '1.2'}".to_owned(),
            "minVersion is above",
        ),
        (
            "Backend",
            "tls: {insecureSkipVerify: true, minVersion: '1.3', ciphers: [a]}".to_owned(),
            "no choice of ciphers",
        ),
        ("BackendTrafficPolicy", "targetRefs: []".to_owned(), "the policy has no target"),
        (
            "BackendTrafficPolicy",
            format!("{TARGET}, targetRef: {{group: gateway.networking.k8s.io, kind: HTTPRoute, name: a}}"),
            "targetRef is deprecated",
        ),
        (
            "BackendTrafficPolicy",
            "mergeType: JSONMerge, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: a}]"
                .to_owned(),
            "mergeType needs targets",
        ),
    ] {
        let (messages, problems) = messages(kind, &spec);
        assert!(messages.iter().any(|found| found.contains(message)), "{spec}: {messages:?}");
        assert!(problems > 0, "{spec}");
    }
    for (settings, message) in [
        ("healthCheck: {active: {type: HTTP}}", "http belongs to type HTTP"),
        ("healthCheck: {active: {type: TCP, tcp: {}, http: {path: /}}}", "http belongs to type HTTP"),
        ("healthCheck: {active: {type: TCP, tcp: {send: {type: Text}}}}", "type Text takes text"),
        (
            "healthCheck: {active: {type: HTTP, http: {path: /, requestBody: {type: Text, text: a}}}}",
            "requestBody needs method POST",
        ),
        ("retry: {perRetry: {backOff: {baseInterval: 0s}}}", "longer than 0s"),
        ("retry: {perRetry: {backOff: {baseInterval: 1s, maxInterval: 10ms}}}", "at least as long as"),
        ("circuitBreaker: {retryBudget: {percent: {numerator: 200}}}", "at most the denominator"),
        ("loadBalancer: {type: ConsistentHash}", "consistentHash belongs to"),
        ("loadBalancer: {type: Random, slowStart: {window: 1s}}", "slowStart needs"),
        ("loadBalancer: {type: ConsistentHash, consistentHash: {type: Header}}", "header belongs to"),
        ("connection: {preconnect: {predictivePercent: 150}}", "predictivePercent needs"),
        ("http2: {connectionKeepalive: {interval: 1s, timeout: 2s}}", "timeout must be shorter"),
        ("faultInjection: {}", "delay or abort"),
        ("faultInjection: {abort: {httpStatus: 500, grpcStatus: 1}}", "exactly one of httpStatus"),
        ("requestBuffer: {limit: 1Ki}, httpUpgrade: [{type: websocket}]", "exclude each other"),
        ("compression: [{type: Gzip}], compressor: [{type: Gzip}]", "exclude each other"),
    ] {
        let (messages, problems) = messages("BackendTrafficPolicy", &format!("{TARGET}, {settings}"));
        assert!(messages.iter().any(|found| found.contains(message)), "{settings}: {messages:?}");
        assert!(problems > 0, "{settings}");
    }
}

#[test]
fn what_is_valid_passes_every_rule() {
    for (kind, spec) in [
        ("Backend", format!("fallback: true, endpoints: [{IP}]")),
        ("Backend", "type: DynamicResolver".to_owned()),
        (
            "Backend",
            "endpoints: [{fqdn: {hostname: a.example.com, port: 443}}], tls: {wellKnownCACertificates: System, autoSNIFromEndpointHostname: true, minVersion: '1.2', maxVersion: '1.3'}"
                .to_owned(),
        ),
        (
            "BackendTrafficPolicy",
            format!(
                "{TARGET}, retry: {{numRetries: 3, perRetry: {{backOff: {{baseInterval: 100ms, maxInterval: 10s}}, timeout: 250ms}}, \
                 retryOn: {{httpStatusCodes: [500], triggers: [connect-failure, retriable-status-codes]}}}}, \
                 healthCheck: {{passive: {{baseEjectionTime: 10s, interval: 2s, maxEjectionPercent: 100, \
                 consecutive5XxErrors: 1, consecutiveGatewayErrors: 0, consecutiveLocalOriginFailures: 1, \
                 splitExternalLocalOriginErrors: false}}, active: {{type: GRPC}}}}, loadBalancer: {{type: LeastRequest}}"
            ),
        ),
        ("BackendTrafficPolicy", "targetSelectors: [{kind: HTTPRoute, matchLabels: {a: b}}], mergeType: StrategicMerge".to_owned()),
    ] {
        assert_eq!(messages(kind, &spec), (Vec::new(), 0), "{spec}");
    }
}
