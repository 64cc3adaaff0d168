//! Gateways and their listeners.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::{CaBundleName, CertificateName, GatewayName, Hostname, ListenerName};

/// A gateway: the unit that owns sockets. A bound socket belongs to exactly one gateway, so it selects the
/// gateway before any hostname does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// `gateway/NAMESPACE/NAME`.
    pub name: GatewayName,
    /// The listeners that the controller found valid.
    pub listeners: Vec<Listener>,
}

/// One listener of a gateway. Several listeners may share a socket; then the hostname tells them apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// The listener's name, unique in its gateway.
    pub name: ListenerName,
    /// The port that clients see: it stands in redirects and in `X-Forwarded-Port`.
    pub port: u16,
    /// The sockets that are bound for it. They need not have the port that clients see.
    pub bind: Vec<SocketAddr>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The names that it serves; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// How TLS is handled, for [`Protocol::Https`] and [`Protocol::Tls`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
}

/// What a listener speaks (Gateway API, `ProtocolType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// Plain HTTP.
    Http,
    /// HTTP over TLS that ends here.
    Https,
    /// TLS, passed through or ended here, with any protocol inside.
    Tls,
    /// Plain TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// TLS of a listener. Certificates and keys are objects of their own: a gateway never carries one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListenerTls {
    /// Whether TLS ends here.
    pub mode: TlsMode,
    /// The certificates that may be shown to a client.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateName>,
    /// What is asked of clients; without it, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<ClientValidation>,
}

impl ListenerTls {
    /// What a connection must have proved for the listener's routes; `None` where it need not prove anything. Two
    /// listeners with the same text ask for the same.
    #[must_use]
    pub fn client_demand(&self) -> Option<String> {
        let validation = self.client_validation.as_ref()?;
        let bundles: Vec<&str> = validation.bundles.iter().map(CaBundleName::as_str).collect();
        (validation.mode == ClientValidationMode::Require).then(|| bundles.join(" "))
    }
}

/// How the certificates of clients are verified.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientValidation {
    /// Who may have signed a client's certificate: any authority of these bundles. At least one.
    pub bundles: Vec<CaBundleName>,
    /// What becomes of a client that cannot prove itself.
    pub mode: ClientValidationMode,
}

/// What becomes of a client that shows no certificate, or one that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClientValidationMode {
    /// It gets no connection.
    Require,
    /// It is served like all others: nothing is known of any client then.
    AllowInsecure,
}

/// Whether TLS ends at the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsMode {
    /// TLS ends at the gateway.
    Terminate,
    /// The stream goes to the backend as it came.
    Passthrough,
}
