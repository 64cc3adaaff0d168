//! Sets of endpoints.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{BackendName, BackendTls};

/// A named set of endpoints, which pools refer to. It stands in a file of its own, so that a change of one
/// endpoint rewrites nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// `backend/NAMESPACE/NAME` or `service/NAMESPACE/NAME/PORT`.
    pub name: BackendName,
    /// What is spoken to its endpoints.
    #[serde(default)]
    pub protocol: UpstreamProtocol,
    /// How it is spoken over TLS; without it, in clear text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
    /// The endpoints; may be empty.
    #[serde(default)]
    pub endpoints: Vec<Endpoint>,
}

/// What is spoken to an endpoint.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, in clear text with prior knowledge.
    H2c,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// What makes it itself when the address does not: the pod's UID. Without it the address is the identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The node that it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The zone that it runs in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// SNI and Host for this endpoint, where asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether it is ready or going away.
    #[serde(default, skip_serializing_if = "EndpointCondition::is_ready")]
    pub condition: EndpointCondition,
}

impl Endpoint {
    /// An endpoint of which only the address is known.
    #[must_use]
    pub fn at(address: EndpointAddress) -> Self {
        Self {
            address,
            uid: None,
            node: None,
            zone: None,
            hostname: None,
            condition: EndpointCondition::Ready,
        }
    }
}

/// Whether an endpoint is ready.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EndpointCondition {
    /// Takes traffic.
    #[default]
    Ready,
    /// Serving, but terminating: takes traffic only because no ready endpoint is left.
    Terminating,
}

impl EndpointCondition {
    fn is_ready(&self) -> bool {
        *self == Self::Ready
    }
}

/// Where an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndpointAddress {
    /// An address.
    Ip {
        /// IPv4 or IPv6.
        address: IpAddr,
        /// The TCP port.
        port: u16,
    },
    /// A name, which the proxy resolves; each of its addresses is one endpoint.
    Fqdn {
        /// The name, without a trailing dot.
        hostname: String,
        /// The TCP port.
        port: u16,
    },
    /// A Unix-domain socket.
    Unix {
        /// The socket's path.
        path: PathBuf,
    },
}

impl From<SocketAddr> for EndpointAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip { address: address.ip(), port: address.port() }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip { address, port } => SocketAddr::new(*address, *port).fmt(f),
            Self::Fqdn { hostname, port } => write!(f, "{hostname}:{port}"),
            Self::Unix { path } => write!(f, "unix:{}", path.display()),
        }
    }
}
