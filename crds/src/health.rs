//! Passive and active health checks.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use understudy_conf::GatewayDuration;

use crate::DurationText;
use crate::problem::Checker;
use crate::schema;

/// Health checks of the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HealthCheck {
    /// Requests of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active: Option<ActiveHealthCheck>,
    /// Outlier detection; `None`: off. An empty block switches it on with its defaults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// Percentage of healthy endpoints below which all are used; default 50, 0 turns it off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub panic_threshold: Option<i64>,
}

/// Outlier detection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PassiveHealthCheck {
    /// Length of the first ejection; default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ejection_time: Option<DurationText>,
    /// Time between trials; default 3s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// Percentage of a pool that may be ejected; default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub max_ejection_percent: Option<i64>,
    /// 5xx in a row that eject; default 5, 0 off.
    #[serde(rename = "consecutive5XxErrors", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub consecutive_5xx_errors: Option<i64>,
    /// 502, 503 and 504 in a row that eject; unset and 0: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub consecutive_gateway_errors: Option<i64>,
    /// Local failures in a row that eject, when split; default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub consecutive_local_origin_failures: Option<i64>,
    /// Count local failures apart; default false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_external_local_origin_errors: Option<bool>,
    /// Always allow one ejection; without effect here, where the first is always allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub always_eject_one_endpoint: Option<bool>,
    /// Percentage of failures that ejects.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub failure_percentage_threshold: Option<i64>,
}

impl PassiveHealthCheck {
    /// [`Self::base_ejection_time`] with its default.
    #[must_use]
    pub fn base_ejection_time(&self) -> GatewayDuration {
        DurationText::or(self.base_ejection_time.as_ref(), GatewayDuration::from_secs(30))
    }

    /// [`Self::interval`] with its default.
    #[must_use]
    pub fn interval(&self) -> GatewayDuration {
        DurationText::or(self.interval.as_ref(), GatewayDuration::from_secs(3))
    }

    /// [`Self::max_ejection_percent`] with its default.
    #[must_use]
    pub fn max_ejection_percent(&self) -> i64 {
        self.max_ejection_percent.unwrap_or(10)
    }
}

/// A health check by requests of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.type == 'HTTP' ? has(self.http) : !has(self.http)", "http belongs to type HTTP, which needs it"),
    ("self.type == 'TCP' ? has(self.tcp) : !has(self.tcp)", "tcp belongs to type TCP, which needs it"),
    ("self.type == 'GRPC' || !has(self.grpc)", "grpc belongs to type GRPC"),
])))]
pub struct ActiveHealthCheck {
    /// Which of the blocks applies.
    #[serde(rename = "type")]
    pub kind: ActiveHealthCheckType,
    /// Time between checks; default 3s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// Length of one check; default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Greatest delay of the first check; default 0s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_jitter: Option<DurationText>,
    /// Passes in a row that make healthy; default 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = schema::U32))]
    pub healthy_threshold: Option<i64>,
    /// Failures in a row that make unhealthy; default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = schema::U32))]
    pub unhealthy_threshold: Option<i64>,
    /// For type HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpCheck>,
    /// For type TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpCheck>,
    /// For type GRPC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcCheck>,
    /// What differs from the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overrides: Option<ActiveOverrides>,
    /// A log of checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub health_check_log: Option<serde_json::Value>,
}

/// What an active check speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ActiveHealthCheckType {
    /// An HTTP request.
    #[serde(rename = "HTTP")]
    Http,
    /// A connection, with optional bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// `grpc.health.v1.Health`.
    #[serde(rename = "GRPC")]
    Grpc,
}

/// An HTTP check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!has(self.requestBody) || (has(self.method) && self.method in ['POST', 'PUT'])", "requestBody needs method POST or PUT"),
])))]
#[schemars(extend("required" = ["path"]))]
pub struct HttpCheck {
    /// The path that is asked for.
    #[schemars(length(min = 1, max = 1024))]
    pub path: String,
    /// The method; default GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub method: Option<String>,
    /// The Host header.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub hostname: Option<String>,
    /// Statuses that pass; default 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 100, max = 599)))]
    pub expected_statuses: Option<Vec<i64>>,
    /// Statuses that count only towards the threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 100, max = 599)))]
    pub retriable_statuses: Option<Vec<i64>>,
    /// What the body must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_response: Option<Payload>,
    /// What is sent; only with POST and PUT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_body: Option<Payload>,
}

/// A TCP check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TcpCheck {
    /// What is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send: Option<Payload>,
    /// What must come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive: Option<Payload>,
}

/// A gRPC check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct GrpcCheck {
    /// The service that is asked about; empty: the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// What differs from the endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ActiveOverrides {
    /// The port that is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i64>,
}

/// Text or bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.type == 'Text' ? has(self.text) && !has(self.binary) : has(self.binary) && !has(self.text)", "type Text takes text, and type Binary takes binary"),
])))]
pub struct Payload {
    /// Which of the two.
    #[serde(rename = "type")]
    pub kind: PayloadType,
    /// The text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The bytes, in Base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<String>,
}

/// What a [`Payload`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PayloadType {
    /// Text.
    Text,
    /// Bytes.
    Binary,
}

const U32: i64 = u32::MAX as i64;

impl HealthCheck {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        if let Some(active) = &self.active {
            active.validate(&mut check.at("active"));
        }
        if let Some(passive) = &self.passive {
            passive.validate(&mut check.at("passive"));
        }
        check.range("panicThreshold", self.panic_threshold, 0, 100);
    }
}

impl PassiveHealthCheck {
    fn validate(&self, check: &mut Checker<'_>) {
        check.positive_duration("baseEjectionTime", self.base_ejection_time.as_ref());
        check.positive_duration("interval", self.interval.as_ref());
        check.range("maxEjectionPercent", self.max_ejection_percent, 0, 100);
        check.range("consecutive5XxErrors", self.consecutive_5xx_errors, 0, U32);
        check.range("consecutiveGatewayErrors", self.consecutive_gateway_errors, 0, U32);
        check.range("consecutiveLocalOriginFailures", self.consecutive_local_origin_failures, 0, U32);
        check.range("failurePercentageThreshold", self.failure_percentage_threshold, 0, 100);
    }
}

impl ActiveHealthCheck {
    fn validate(&self, check: &mut Checker<'_>) {
        check.positive_duration("interval", self.interval.as_ref());
        check.positive_duration("timeout", self.timeout.as_ref());
        check.duration("initialJitter", self.initial_jitter.as_ref());
        check.range("healthyThreshold", self.healthy_threshold, 1, U32);
        check.range("unhealthyThreshold", self.unhealthy_threshold, 1, U32);
        use ActiveHealthCheckType as Type;
        for (field, given, wanted, required) in [
            ("http", self.http.is_some(), self.kind == Type::Http, true),
            ("tcp", self.tcp.is_some(), self.kind == Type::Tcp, true),
            ("grpc", self.grpc.is_some(), self.kind == Type::Grpc, false),
        ] {
            let kind = field.to_uppercase();
            if given && !wanted {
                check.problem(
                    field,
                    "the block does not belong to the type",
                    format!("Set type: {kind}, or remove it."),
                );
            } else if wanted && required && !given {
                check.problem(
                    field,
                    format!("type {kind} needs the block"),
                    format!("Add {field}, or change the type."),
                );
            }
        }
        if let Some(http) = &self.http {
            http.validate(&mut check.at("http"));
        }
        if let Some(tcp) = &self.tcp {
            for (field, payload) in [("send", &tcp.send), ("receive", &tcp.receive)] {
                if let Some(payload) = payload {
                    payload.validate(&mut check.at("tcp").at(field));
                }
            }
        }
        if let Some(overrides) = &self.overrides {
            check.range("overrides.port", overrides.port, 1, 65_535);
        }
    }
}

impl HttpCheck {
    fn validate(&self, check: &mut Checker<'_>) {
        check.length("path", &self.path, 1, 1024);
        if self.path.bytes().any(|byte| !byte.is_ascii_graphic()) {
            check.problem(
                "path",
                "it has a space, a control character or a letter outside ASCII",
                "Write such characters in percent-encoding, as in %20.",
            );
        }
        if let Some(method) = &self.method {
            check.length("method", method, 1, 16);
            if !is_method(method) || method.eq_ignore_ascii_case("CONNECT") {
                check.problem(
                    "method",
                    format!("{method:?} cannot be used in a check"),
                    "Use GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE or PATCH.",
                );
            }
        }
        if let Some(hostname) = &self.hostname {
            check.dns_name("hostname", hostname);
        }
        for (field, statuses) in
            [("expectedStatuses", &self.expected_statuses), ("retriableStatuses", &self.retriable_statuses)]
        {
            for (index, status) in statuses.iter().flatten().enumerate() {
                check.range(&format!("{field}[{index}]"), Some(*status), 100, 599);
            }
        }
        if let Some(response) = &self.expected_response {
            response.validate(&mut check.at("expectedResponse"));
        }
        if let Some(body) = &self.request_body {
            body.validate(&mut check.at("requestBody"));
            if !matches!(self.method.as_deref(), Some("POST" | "PUT")) {
                check.problem(
                    "requestBody",
                    "only POST and PUT carry a body",
                    "Set method: POST, or remove it.",
                );
            }
        }
    }
}

/// Whether a text may stand as a method in a request line.
fn is_method(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-')
}

impl Payload {
    /// The bytes that are meant; `None` where the text is no Base64.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self.kind {
            PayloadType::Text => self.text.as_ref().map(|text| text.clone().into_bytes()),
            PayloadType::Binary => {
                let text = serde_json::Value::String(self.binary.clone()?);
                serde_json::from_value::<k8s_openapi::ByteString>(text).ok().map(|bytes| bytes.0)
            }
        }
    }

    fn validate(&self, check: &mut Checker<'_>) {
        let right = match self.kind {
            PayloadType::Text => self.text.is_some() && self.binary.is_none(),
            PayloadType::Binary => self.binary.is_some() && self.text.is_none(),
        };
        if !right {
            check.problem(
                "",
                format!("type {:?} does not fit the fields given", self.kind),
                "Give text for type Text, and binary (Base64) for type Binary.",
            );
        } else if self.bytes().is_none() {
            check.problem("binary", "it is not Base64", "Encode the bytes in Base64, or use type Text.");
        }
    }
}
