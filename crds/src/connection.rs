//! Connections to the endpoints: buffers, keep-alive, name resolution, HTTP/2.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Checker;
use crate::schema;
use crate::{DurationText, Quantity};

/// Connections to the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Connection {
    /// Bytes of a request that are kept for a retry; default 32Ki.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub buffer_limit: Option<Quantity>,
    /// Size of the socket's buffers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket_buffer_limit: Option<Quantity>,
    /// Connections made ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preconnect: Option<Preconnect>,
}

/// Connections made ahead.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Preconnect {
    /// 100 to 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 300))]
    pub per_endpoint_percent: Option<i64>,
    /// At least 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100))]
    pub predictive_percent: Option<i64>,
}

/// TCP keep-alive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpKeepalive {
    /// Probes without an answer until the connection is given up; default 9.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 127))]
    pub probes: Option<i64>,
    /// Silence until the first probe; default 2h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_time: Option<DurationText>,
    /// Time between probes; default 75s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
}

/// Name resolution.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Dns {
    /// Time between look-ups; default 30s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_refresh_rate: Option<DurationText>,
    /// Look up again when the records' TTL is over; default true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respect_dns_ttl: Option<bool>,
    /// Which addresses are used; default IPv4Preferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::lookup_family")]
    pub lookup_family: Option<DnsLookupFamily>,
}

/// Which addresses of a name are used.
pub type DnsLookupFamily = understudy_conf::LookupFamily;

/// Sizes that a window of HTTP/2 may have: from what the protocol begins with to what it can count.
const WINDOWS: std::ops::RangeInclusive<u64> = 65_535..=2_147_483_647;

/// HTTP/2 to the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Http2 {
    /// Streams on one connection; default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2147483647))]
    pub max_concurrent_streams: Option<i64>,
    /// Window of a stream; default 64Ki.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_stream_window_size: Option<Quantity>,
    /// Window of a connection; default 1Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initial_connection_window_size: Option<Quantity>,
    /// What an invalid message ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_invalid_message: Option<String>,
    /// Keep-alive by PING.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_keepalive: Option<Http2Keepalive>,
}

/// Keep-alive by PING.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!has(self.interval) || !has(self.timeout) || duration(self.timeout) < duration(self.interval)", "timeout must be shorter than interval"),
])))]
pub struct Http2Keepalive {
    /// Time between PINGs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<DurationText>,
    /// Time until an answer; below the interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<DurationText>,
    /// Silence before a request that makes a PING go first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_interval: Option<DurationText>,
    /// Percentage by which the interval varies.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub interval_jitter: Option<i64>,
}

/// PROXY protocol to the endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProxyProtocol {
    /// Its version.
    pub version: ProxyProtocolVersion,
}

/// Version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ProxyProtocolVersion {
    /// Text.
    V1,
    /// Binary.
    V2,
}

/// Buffers the whole request first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RequestBuffer {
    /// Above it, 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Quantity>,
}

impl Connection {
    pub(crate) fn validate(&self, check: &mut Checker<'_>, predictive_allowed: bool) {
        check.quantity("bufferLimit", self.buffer_limit.as_ref());
        check.quantity("socketBufferLimit", self.socket_buffer_limit.as_ref());
        if let Some(preconnect) = &self.preconnect {
            check.range("preconnect.perEndpointPercent", preconnect.per_endpoint_percent, 100, 300);
            check.range("preconnect.predictivePercent", preconnect.predictive_percent, 100, i64::MAX);
            if preconnect.predictive_percent.is_some() && !predictive_allowed {
                check.problem(
                    "preconnect.predictivePercent",
                    "it needs a load balancer of type Random or RoundRobin",
                    "Set loadBalancer.type, or remove it.",
                );
            }
        }
    }
}

impl TcpKeepalive {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        check.range("probes", self.probes, 1, 127);
        check.positive_duration("idleTime", self.idle_time.as_ref());
        check.positive_duration("interval", self.interval.as_ref());
    }
}

impl Dns {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        check.positive_duration("dnsRefreshRate", self.dns_refresh_rate.as_ref());
    }
}

impl Http2 {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        check.range("maxConcurrentStreams", self.max_concurrent_streams, 1, i32::MAX.into());
        for (field, size) in [
            ("initialStreamWindowSize", &self.initial_stream_window_size),
            ("initialConnectionWindowSize", &self.initial_connection_window_size),
        ] {
            if check.quantity(field, size.as_ref()).is_some_and(|bytes| !WINDOWS.contains(&bytes)) {
                check.problem(
                    field,
                    "a window of HTTP/2 has from 65535 to 2147483647 bytes",
                    "Write such a size, as in \"64Ki\" or \"1Mi\".",
                );
            }
        }
        if let Some(keepalive) = &self.connection_keepalive {
            let mut check = check.at("connectionKeepalive");
            let interval = check.duration("interval", keepalive.interval.as_ref());
            let timeout = check.duration("timeout", keepalive.timeout.as_ref());
            check.duration("idleInterval", keepalive.idle_interval.as_ref());
            check.range("intervalJitter", keepalive.interval_jitter, 0, 100);
            if let (Some(interval), Some(timeout)) = (interval, timeout)
                && timeout >= interval
            {
                check.problem("timeout", "it is not below the interval", "Make it shorter than interval.");
            }
        }
    }
}
