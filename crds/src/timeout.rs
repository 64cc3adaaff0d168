//! Timeouts.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DurationText;
use crate::problem::Checker;

/// Timeouts towards the endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Timeout {
    /// Of connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<TcpTimeout>,
    /// Of requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpTimeout>,
}

/// Timeouts of connections.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpTimeout {
    /// Until a connection stands; default 10s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<DurationText>,
}

/// Timeouts of requests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpTimeout {
    /// The whole request; unset: 15s until the answer's headers; 0s: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout: Option<DurationText>,
    /// An idle pooled connection is closed after this; default 1h.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection_idle_timeout: Option<DurationText>,
    /// Greatest age of a connection; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_connection_duration: Option<DurationText>,
    /// A stream without a byte is cut after this; default 5m.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_idle_timeout: Option<DurationText>,
    /// Greatest length of a stream; default none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_stream_duration: Option<DurationText>,
}

impl Timeout {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        if let Some(tcp) = &self.tcp {
            check.positive_duration("tcp.connectTimeout", tcp.connect_timeout.as_ref());
        }
        if let Some(http) = &self.http {
            let mut check = check.at("http");
            check.duration("requestTimeout", http.request_timeout.as_ref());
            check.duration("connectionIdleTimeout", http.connection_idle_timeout.as_ref());
            check.duration("maxConnectionDuration", http.max_connection_duration.as_ref());
            check.duration("streamIdleTimeout", http.stream_idle_timeout.as_ref());
            check.duration("maxStreamDuration", http.max_stream_duration.as_ref());
        }
    }
}
