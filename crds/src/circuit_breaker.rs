//! Limits of a pool.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Checker;
use crate::schema;

/// Limits of a pool, 1024 each where the block is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreaker {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub max_connections: Option<i64>,
    /// Requests that wait for a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub max_pending_requests: Option<i64>,
    /// Requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub max_parallel_requests: Option<i64>,
    /// Retries under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub max_parallel_retries: Option<i64>,
    /// Requests on one connection; unset: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub max_requests_per_connection: Option<i64>,
    /// Limits of each endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_endpoint: Option<PerEndpointCircuitBreaker>,
    /// Retries as a share of the requests under way; replaces `maxParallelRetries`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

/// Limits of each endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PerEndpointCircuitBreaker {
    /// Connections; default 1024.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub max_connections: Option<i64>,
}

/// Retries as a share of the requests under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// The share.
    pub percent: Fraction,
    /// So many retries are always allowed; default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = schema::U32))]
    pub min_retry_concurrency: Option<i64>,
}

/// A fraction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.numerator <= (has(self.denominator) ? self.denominator : 100)", "the numerator is at most the denominator"),
])))]
pub struct Fraction {
    /// At most the denominator.
    #[schemars(range(min = 0, max = schema::U32))]
    pub numerator: i64,
    /// Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = schema::U32))]
    pub denominator: Option<i64>,
}

impl CircuitBreaker {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        let max = i64::from(u32::MAX);
        check.range("maxConnections", self.max_connections, 0, max);
        check.range("maxPendingRequests", self.max_pending_requests, 0, max);
        check.range("maxParallelRequests", self.max_parallel_requests, 0, max);
        check.range("maxParallelRetries", self.max_parallel_retries, 0, max);
        check.range("maxRequestsPerConnection", self.max_requests_per_connection, 0, max);
        if let Some(per_endpoint) = &self.per_endpoint {
            check.range("perEndpoint.maxConnections", per_endpoint.max_connections, 0, max);
        }
        if let Some(budget) = &self.retry_budget {
            let mut check = check.at("retryBudget");
            check.range("minRetryConcurrency", budget.min_retry_concurrency, 0, max);
            let denominator = budget.percent.denominator.unwrap_or(100);
            check.range("percent.numerator", Some(budget.percent.numerator), 0, max);
            check.range("percent.denominator", Some(denominator), 1, max);
            if budget.percent.numerator > denominator {
                check.problem(
                    "percent.numerator",
                    format!("{} is above the denominator of {denominator}", budget.percent.numerator),
                    "Make it at most the denominator.",
                );
            }
        }
    }
}
