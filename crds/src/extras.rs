//! Fields that are accepted and do not act yet. Those with rules of their own are typed as far as the rules
//! reach; the rest is kept as it was written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DurationText;
use crate::problem::Checker;
use crate::schema;

/// A block that is kept as it was written.
pub type OpaqueBlock = serde_json::Value;

/// Faults on purpose.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("has(self.delay) || has(self.abort)", "delay or abort must be given"),
])))]
pub struct FaultInjection {
    /// Requests that are held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<FaultDelay>,
    /// Requests that are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort: Option<FaultAbort>,
}

/// Requests that are held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FaultDelay {
    /// How long.
    pub fixed_delay: DurationText,
    /// How many of a hundred; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<f64>,
}

/// Requests that are refused.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("has(self.httpStatus) != has(self.grpcStatus)", "exactly one of httpStatus and grpcStatus must be given"),
])))]
pub struct FaultAbort {
    /// With this status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 200, max = 600))]
    pub http_status: Option<i64>,
    /// With this gRPC status.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 16))]
    pub grpc_status: Option<i64>,
    /// How many of a hundred; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub percentage: Option<f64>,
}

/// Compression of answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// The method.
    #[serde(rename = "type")]
    pub kind: CompressionKind,
    /// For type Brotli.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub brotli: Option<OpaqueBlock>,
    /// For type Gzip.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub gzip: Option<OpaqueBlock>,
    /// For type Zstd.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub zstd: Option<OpaqueBlock>,
    /// Shorter answers stay as they are; default 30 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_content_length: Option<crate::Quantity>,
}

/// A method of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CompressionKind {
    /// gzip.
    Gzip,
    /// Brotli.
    Brotli,
    /// Zstandard.
    Zstd,
}

impl FaultInjection {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        if self.delay.is_none() && self.abort.is_none() {
            check.problem("", "it has neither delay nor abort", "Give one of them, or remove it.");
        }
        if let Some(delay) = &self.delay {
            check.duration("delay.fixedDelay", Some(&delay.fixed_delay));
        }
        if let Some(abort) = &self.abort {
            check.range("abort.httpStatus", abort.http_status, 200, 600);
            check.range("abort.grpcStatus", abort.grpc_status, 0, 16);
            if abort.http_status.is_some() == abort.grpc_status.is_some() {
                check.problem(
                    "abort",
                    "it needs exactly one of httpStatus and grpcStatus",
                    "Keep one of the two.",
                );
            }
        }
    }
}

/// The rules of `responseOverride[]`.
pub(crate) fn validate_response_overrides(overrides: &[OpaqueBlock], check: &mut Checker<'_>) {
    for (index, block) in overrides.iter().enumerate() {
        let mut check = check.item("responseOverride", index);
        match block.get("match") {
            None => check.problem("match", "it is missing", "Say which answers are replaced."),
            Some(matched)
                if matched.get("statusCodes").is_none() && matched.get("responseHeaders").is_none() =>
            {
                check.problem("match", "it is empty", "Give statusCodes or responseHeaders.");
            }
            Some(_) => {}
        }
        if block.get("response").is_some() == block.get("redirect").is_some() {
            check.problem("", "it needs exactly one of response and redirect", "Keep one of the two.");
        }
    }
}
