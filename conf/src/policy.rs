//! Policies: detection, retries, timeouts, balancing. Defaults are those of Envoy Gateway's
//! `BackendTrafficPolicy`, already filled in: the proxy knows no unset field.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{ActiveHealthCheck, GatewayDuration, PolicyName};

/// Why a number is no percentage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a percentage from 0 to 100")]
pub struct PercentError(pub i64);

/// A whole percentage from 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub struct Percent(u8);

impl Percent {
    /// All of it.
    pub const HUNDRED: Self = Self(100);

    /// Parses a percentage.
    ///
    /// # Errors
    /// [`PercentError`] below 0 and above 100.
    pub fn new(percent: i64) -> Result<Self, PercentError> {
        match u8::try_from(percent) {
            Ok(small) if small <= 100 => Ok(Self(small)),
            _ => Err(PercentError(percent)),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<i64> for Percent {
    type Error = PercentError;
    fn try_from(percent: i64) -> Result<Self, PercentError> {
        Self::new(percent)
    }
}

impl From<Percent> for i64 {
    fn from(percent: Percent) -> Self {
        percent.0.into()
    }
}

/// What a `BackendTrafficPolicy` asks for. Evidence of status, reset and timeout is shared among the pools
/// under the same policy object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// `backendtrafficpolicy/NAMESPACE/NAME`.
    pub name: PolicyName,
    /// Passive health checks (outlier detection); `None`: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passive: Option<PassiveHealthCheck>,
    /// Active health checks; `None`: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active: Option<Arc<ActiveHealthCheck>>,
    /// Below this percentage of healthy endpoints all are used (rules P7, P9); 0 turns it off.
    pub panic_threshold: Percent,
    /// Retries; `None`: only those of requests of which nothing was sent yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Limits.
    pub circuit_breaker: CircuitBreaker,
    /// How an endpoint is chosen within a reference.
    pub load_balancer: LoadBalancer,
    /// Time over which the share of an endpoint that joins or returns grows to its full size; `None`: one that
    /// joins has its full share at once, one that returns has the ramp (rule L6).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<GatewayDuration>,
    /// How names are resolved.
    pub dns: Dns,
    /// How many bytes of a request's body are kept for a retry; at most 65,536 act.
    pub buffer_limit: u64,
    /// TCP keep-alive towards the endpoints; `None`: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// HTTP/2 to the endpoints that speak it.
    #[serde(default, skip_serializing_if = "Http2::is_default")]
    pub http2: Http2,
}

impl Default for Policy {
    /// What governs a pool without a policy.
    fn default() -> Self {
        Self::unset(PolicyName::literal("none"))
    }
}

impl Policy {
    /// The policy of a pool that has none: no detection, default timeouts.
    #[must_use]
    pub fn unset(name: PolicyName) -> Self {
        Self {
            name,
            passive: None,
            active: None,
            panic_threshold: Percent(50),
            retry: None,
            timeouts: Timeouts::default(),
            circuit_breaker: CircuitBreaker::default(),
            load_balancer: LoadBalancer::LeastRequest,
            slow_start: None,
            dns: Dns::default(),
            buffer_limit: 32 * 1024,
            tcp_keepalive: None,
            http2: Http2::default(),
        }
    }
}

/// Passive health checks: which failures eject an endpoint, and for how long.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PassiveHealthCheck {
    /// Ejection time of the first ejection; it grows with each further one (rule O20).
    pub base_ejection_time: GatewayDuration,
    /// Time between connection attempts of an endpoint on trial, and length of a ramp's step.
    pub interval: GatewayDuration,
    /// The share of a pool's endpoints that may be ejected at once.
    pub max_ejection_percent: Percent,
    /// Failures in a row (5xx, and local failures unless split) that eject; 0: off.
    pub consecutive_5xx_errors: u32,
    /// 502, 503 and 504 in a row that eject; 0: off.
    pub consecutive_gateway_errors: u32,
    /// Local failures in a row that eject, when split; 0: off.
    pub consecutive_local_origin_failures: u32,
    /// Count local failures (connect, reset, timeout) apart from answers (rule O4).
    pub split_external_local_origin_errors: bool,
    /// The share of an endpoint's requests within an interval that ejects it, judged at the interval's end where
    /// at least five endpoints of a pool had 50 requests each (rule O17); `None` and 0: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percentage_threshold: Option<Percent>,
}

impl Default for PassiveHealthCheck {
    fn default() -> Self {
        Self {
            base_ejection_time: GatewayDuration::from_secs(30),
            interval: GatewayDuration::from_secs(3),
            max_ejection_percent: Percent(10),
            consecutive_5xx_errors: 5,
            consecutive_gateway_errors: 0,
            consecutive_local_origin_failures: 5,
            split_external_local_origin_errors: false,
            failure_percentage_threshold: None,
        }
    }
}

/// When a failed attempt is made again elsewhere (rules R1–R11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// Retries after the first attempt; 0 turns off the safe retry too.
    pub num_retries: u32,
    /// After so many attempts in a priority the next one is taken; `None`: when no untried endpoint is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_attempts_per_priority: Option<u32>,
    /// What is retried.
    pub triggers: BTreeSet<RetryTrigger>,
    /// Statuses that [`RetryTrigger::RetriableStatusCodes`] retries.
    #[serde(default)]
    pub status_codes: BTreeSet<u16>,
    /// Limit of one attempt, connecting included; `None`: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_try_timeout: Option<GatewayDuration>,
    /// Waiting before a retry.
    pub back_off: BackOff,
}

impl Default for Retry {
    fn default() -> Self {
        use RetryTrigger as T;
        Self {
            num_retries: 2,
            num_attempts_per_priority: None,
            triggers: [
                T::ConnectFailure,
                T::RefusedStream,
                T::Unavailable,
                T::Cancelled,
                T::RetriableStatusCodes,
            ]
            .into(),
            status_codes: [503].into(),
            per_try_timeout: None,
            back_off: BackOff::default(),
        }
    }
}

/// Waiting before retry n: uniform in [0, min(max, base × 2^(n-1))) (rule R6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackOff {
    /// The first retry's bound.
    pub base_interval: GatewayDuration,
    /// The bound of all.
    pub max_interval: GatewayDuration,
}

impl Default for BackOff {
    fn default() -> Self {
        Self {
            base_interval: GatewayDuration::from_millis(25),
            max_interval: GatewayDuration::from_millis(250),
        }
    }
}

/// What makes an attempt worth repeating (`retryOn.triggers`, rules R3 and R4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryTrigger {
    /// Any 5xx, and every failure before the answer's headers.
    #[serde(rename = "5xx")]
    Status5xx,
    /// 502, 503, 504, and every failure before the answer's headers.
    GatewayError,
    /// Every failure before the answer's headers.
    Reset,
    /// A failure before any byte of the request was sent.
    ResetBeforeRequest,
    /// A failure to connect.
    ConnectFailure,
    /// 409.
    #[serde(rename = "retriable-4xx")]
    Retriable4xx,
    /// An HTTP/2 stream that the endpoint refused.
    RefusedStream,
    /// A status of [`Retry::status_codes`].
    RetriableStatusCodes,
    /// gRPC status 1 in the headers.
    Cancelled,
    /// gRPC status 4 in the headers.
    DeadlineExceeded,
    /// gRPC status 13 in the headers.
    Internal,
    /// gRPC status 8 in the headers.
    ResourceExhausted,
    /// gRPC status 14 in the headers.
    Unavailable,
}

/// Timeouts; `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Timeouts {
    /// Until a TCP connection stands.
    pub connect: GatewayDuration,
    /// The whole request, all attempts included. `None`: 15 s until the answer's headers; zero: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// An idle pooled connection is closed after this.
    pub connection_idle: GatewayDuration,
    /// A stream without a byte in either direction is cut after this; zero: never.
    pub stream_idle: GatewayDuration,
    /// A connection older than this carries no further request; `None`: whatever its age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connection: Option<GatewayDuration>,
    /// A request with its answer, or an upgraded connection, is cut after this; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_stream: Option<GatewayDuration>,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: GatewayDuration::from_secs(10),
            request: None,
            connection_idle: GatewayDuration::from_secs(3600),
            stream_idle: GatewayDuration::from_secs(300),
            max_connection: None,
            max_stream: None,
        }
    }
}

/// Limits (rules B1–B3 and R8). The primary pool and the fallback pool of a rule have each their own count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Connections of a pool that may be in use at once; beyond it requests wait.
    #[serde(default = "limit", skip_serializing_if = "is_default_limit")]
    pub max_connections: u32,
    /// Requests that may wait for a connection of a pool; beyond it they overflow.
    #[serde(default = "limit", skip_serializing_if = "is_default_limit")]
    pub max_pending_requests: u32,
    /// Requests of a pool that may be under way at once; beyond it they overflow.
    #[serde(default = "limit", skip_serializing_if = "is_default_limit")]
    pub max_parallel_requests: u32,
    /// Requests that one connection carries before it is closed; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_requests_per_connection: Option<u32>,
    /// Connections to one endpoint of a pool that may be in use at once; `None`: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections_per_endpoint: Option<u32>,
    /// What becomes of a request that overflows.
    #[serde(default, skip_serializing_if = "Overflow::is_default")]
    pub overflow: Overflow,
    /// Retries of a pool that may be under way at once (rule R8).
    pub max_parallel_retries: u32,
    /// Retries as a share of the requests under way; replaces `max_parallel_retries`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            max_connections: limit(),
            max_pending_requests: limit(),
            max_parallel_requests: limit(),
            max_requests_per_connection: None,
            max_connections_per_endpoint: None,
            overflow: Overflow::default(),
            max_parallel_retries: 1024,
            retry_budget: None,
        }
    }
}

const fn limit() -> u32 {
    1024
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_default_limit(number: &u32) -> bool {
    *number == limit()
}

/// What becomes of a request that a pool has no room for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Overflow {
    /// It goes to the next pool that has room at once, else it is answered 503.
    #[default]
    Fallback,
    /// It is answered 503, as Envoy does.
    Reject,
}

impl Overflow {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Retries as a share of the requests under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryBudget {
    /// Numerator of the share.
    pub numerator: u32,
    /// Denominator of the share, not 0.
    pub denominator: u32,
    /// So many retries are always allowed.
    pub min_retry_concurrency: u32,
}

/// How an endpoint is chosen within a reference.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoadBalancer {
    /// Two at random, the one with fewer requests under way (rule L2).
    #[default]
    LeastRequest,
    /// One after the other (rule L1).
    RoundRobin,
    /// At random (rule L3).
    Random,
    /// By a hash of the request, so that equal requests go to the same endpoint (rule L5).
    ConsistentHash(ConsistentHash),
}

/// Choosing by a hash of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ConsistentHash {
    /// What is hashed. A request that has none of it goes anywhere.
    pub by: HashKey,
    /// Size of the table that maps hashes to the endpoints of a reference; a prime number.
    pub table_size: u32,
}

/// What of a request is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HashKey {
    /// The client's address, without the port.
    SourceIp,
    /// The values of these headers, names in lower case.
    Headers(Vec<String>),
    /// A cookie's value.
    Cookie(HashCookie),
    /// The values of these query parameters.
    QueryParams(Vec<String>),
}

/// A cookie that is hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// Where given, a client without the cookie gets one that lives so long; zero: as long as its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<GatewayDuration>,
    /// Further attributes of the cookie that is set; one without a value is a flag.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// How names are resolved (rules D1–D5).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Dns {
    /// Time between look-ups where no TTL says otherwise.
    pub refresh_rate: GatewayDuration,
    /// Look up again when the records' TTL is over.
    pub respect_ttl: bool,
    /// Which addresses are used.
    pub lookup_family: LookupFamily,
}

impl Default for Dns {
    fn default() -> Self {
        Self {
            refresh_rate: GatewayDuration::from_secs(30),
            respect_ttl: true,
            lookup_family: LookupFamily::IPv4Preferred,
        }
    }
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LookupFamily {
    /// IPv4 only.
    IPv4,
    /// IPv6 only.
    IPv6,
    /// IPv4, or IPv6 if there is none.
    #[default]
    IPv4Preferred,
    /// IPv6, or IPv4 if there is none.
    IPv6Preferred,
    /// Both.
    IPv4AndIPv6,
}

/// TCP keep-alive towards the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpKeepalive {
    /// Probes without an answer until the connection is given up.
    pub probes: u32,
    /// Silence until the first probe.
    pub idle_time: GatewayDuration,
    /// Time between probes.
    pub interval: GatewayDuration,
}

/// HTTP/2 to the endpoints that speak it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http2 {
    /// Requests that one connection carries at once, not 0. An endpoint may allow fewer.
    pub max_concurrent_streams: u32,
    /// Bytes of an answer that may be on their way; from 65,535 to 2,147,483,647.
    pub initial_stream_window_size: u32,
    /// Bytes of all answers on a connection that may be on their way; from 65,535 to 2,147,483,647.
    pub initial_connection_window_size: u32,
    /// Asks whether the endpoint is still there; `None`: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive: Option<Http2Keepalive>,
}

impl Default for Http2 {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 100,
            initial_stream_window_size: 64 * 1024,
            initial_connection_window_size: 1024 * 1024,
            keepalive: None,
        }
    }
}

impl Http2 {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Keep-alive of HTTP/2 connections by PING.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Http2Keepalive {
    /// Time between two PINGs, not 0.
    pub interval: GatewayDuration,
    /// A connection whose PING has no answer after this is given up.
    pub timeout: GatewayDuration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_end_at_zero_and_hundred() {
        assert_eq!(Percent::new(0).map(Percent::get), Ok(0));
        assert_eq!(Percent::new(100).map(Percent::get), Ok(100));
        assert_eq!(Percent::new(101), Err(PercentError(101)));
        assert_eq!(Percent::new(-1), Err(PercentError(-1)));
    }

    #[test]
    fn triggers_are_written_as_users_write_them() {
        let text = serde_json::to_string(&[
            RetryTrigger::Status5xx,
            RetryTrigger::Retriable4xx,
            RetryTrigger::ResetBeforeRequest,
            RetryTrigger::RetriableStatusCodes,
        ])
        .unwrap();
        assert_eq!(text, r#"["5xx","retriable-4xx","reset-before-request","retriable-status-codes"]"#);
    }
}
