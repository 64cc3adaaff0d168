//! Active health checks: what the proxy asks of an endpoint before and while it takes traffic.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::GatewayDuration;

/// A check of the proxy's own (`healthCheck.active`). Its parameters are a part of its identity: an endpoint is
/// checked once for all pools that ask for the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ActiveHealthCheck {
    /// What is asked.
    pub probe: ActiveProbe,
    /// Time from the start of one check to the start of the next.
    pub interval: GatewayDuration,
    /// Length of one check, connecting included.
    pub timeout: GatewayDuration,
    /// Greatest delay of an endpoint's first check.
    #[serde(default)]
    pub initial_jitter: GatewayDuration,
    /// Failures in a row that make the endpoint unhealthy; at least 1.
    pub unhealthy_threshold: u32,
    /// Passes in a row that make it healthy again; at least 1.
    pub healthy_threshold: u32,
    /// The port that is checked; `None`: the endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl ActiveHealthCheck {
    /// A check with the default times and thresholds (rule H8).
    #[must_use]
    pub fn new(probe: ActiveProbe) -> Self {
        Self {
            probe,
            interval: GatewayDuration::from_secs(3),
            timeout: GatewayDuration::from_secs(1),
            initial_jitter: GatewayDuration::default(),
            unhealthy_threshold: 3,
            healthy_threshold: 1,
            port: None,
        }
    }
}

/// What an active check asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ActiveProbe {
    /// An HTTP/1.1 request.
    Http(HttpProbe),
    /// A connection, with optional bytes.
    Tcp(TcpProbe),
    /// `grpc.health.v1.Health/Check` over HTTP/2 in clear text.
    Grpc(GrpcProbe),
}

/// An HTTP/1.1 request and what its answer must be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpProbe {
    /// The method: a token of HTTP.
    pub method: String,
    /// The request target; begins with a slash.
    pub path: String,
    /// The Host header; `None`: the endpoint's hostname, else a hostname of the routes, else the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Statuses that pass.
    pub expected_statuses: BTreeSet<u16>,
    /// Statuses that count towards the threshold; any other fails at once.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub retriable_statuses: BTreeSet<u16>,
    /// What the body must contain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_response: Option<Payload>,
    /// The request's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body: Option<Payload>,
}

impl HttpProbe {
    /// GET of a path that must give 200.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: "GET".to_owned(),
            path: path.into(),
            hostname: None,
            expected_statuses: [200].into(),
            retriable_statuses: BTreeSet::new(),
            expected_response: None,
            request_body: None,
        }
    }
}

/// A connection, and what goes over it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TcpProbe {
    /// What is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<Payload>,
    /// What must come back; `None`: the connection is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receive: Option<Payload>,
}

/// A question to the standard health service of gRPC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GrpcProbe {
    /// The service that is asked about; empty: the server as a whole.
    #[serde(default)]
    pub service: String,
}

/// Bytes, readable where they are text.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Payload {
    /// Text.
    Text(String),
    /// Bytes that are no UTF-8.
    Binary(Vec<u8>),
}

impl Payload {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Binary(error.into_bytes()), Self::Text)
    }
}

impl fmt::Debug for Payload {
    /// Payloads may be long and secret: their length says enough.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.as_bytes().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_text_where_it_can_be_read() {
        assert_eq!(Payload::from(b"ok".to_vec()), Payload::Text("ok".to_owned()));
        let bytes = vec![0xff, 0x00];
        assert_eq!(Payload::from(bytes.clone()).as_bytes(), bytes);
        assert_eq!(Payload::from(bytes.clone()), Payload::Binary(bytes));
    }
}
