//! Retries.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use understudy_conf::{GatewayDuration, RetryTrigger};

use crate::DurationText;
use crate::problem::Checker;
use crate::schema;

/// When a failed attempt is made again elsewhere. An empty block switches it on with its defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// Retries after the first attempt; default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub num_retries: Option<i64>,
    /// After so many attempts in a priority the next one is taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2147483647))]
    pub num_attempts_per_priority: Option<i64>,
    /// What is retried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_on: Option<RetryOn>,
    /// Limits of each attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_retry: Option<PerRetry>,
}

/// What is retried.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RetryOn {
    /// Kinds of failures; where given and not empty they replace the default list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::triggers")]
    pub triggers: Option<Vec<Trigger>>,
    /// Statuses; where `retryOn` is given they replace the default list, even when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(inner(range(min = 100, max = 599)))]
    pub http_status_codes: Option<Vec<i64>>,
}

/// A kind of failure.
pub type Trigger = RetryTrigger;

/// Limits of each attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PerRetry {
    /// Length of one attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Waiting before a retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub back_off: Option<BackOff>,
}

/// Waiting before a retry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!has(self.baseInterval) || duration(self.baseInterval) > duration('0s')", "baseInterval must be longer than 0s"),
    ("!has(self.baseInterval) || !has(self.maxInterval) || duration(self.maxInterval) >= duration(self.baseInterval)", "maxInterval must be at least as long as baseInterval"),
])))]
pub struct BackOff {
    /// Bound of the first wait; default 25ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_interval: Option<DurationText>,
    /// Bound of every wait; default ten times the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_interval: Option<DurationText>,
}

impl BackOff {
    /// Both bounds with their defaults: the base, and the maximum.
    #[must_use]
    pub fn bounds(&self) -> (GatewayDuration, GatewayDuration) {
        let base = DurationText::or(self.base_interval.as_ref(), GatewayDuration::from_millis(25));
        let ten = GatewayDuration::from_millis(base.as_millis().saturating_mul(10));
        (base, DurationText::or(self.max_interval.as_ref(), ten))
    }
}

impl Retry {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        check.range("numRetries", self.num_retries, 0, u32::MAX.into());
        check.range("numAttemptsPerPriority", self.num_attempts_per_priority, 0, i32::MAX.into());
        if let Some(retry_on) = &self.retry_on {
            for (index, status) in retry_on.http_status_codes.iter().flatten().enumerate() {
                check.range(&format!("retryOn.httpStatusCodes[{index}]"), Some(*status), 100, 599);
            }
        }
        let Some(per_retry) = &self.per_retry else { return };
        let mut check = check.at("perRetry");
        check.duration("timeout", per_retry.timeout.as_ref());
        if let Some(back_off) = &per_retry.back_off {
            let mut check = check.at("backOff");
            check.positive_duration("baseInterval", back_off.base_interval.as_ref());
            check.positive_duration("maxInterval", back_off.max_interval.as_ref());
            let (base, max) = back_off.bounds();
            if max < base {
                check.problem(
                    "maxInterval",
                    format!("{max} is below the base interval of {base}"),
                    "Make it at least as long as baseInterval.",
                );
            }
        }
    }
}
