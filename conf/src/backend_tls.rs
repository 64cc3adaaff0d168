//! TLS to the endpoints of a backend, and what their certificates are verified by.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CaBundleName, CertificateName};

/// How the endpoints of a backend are spoken to over TLS. Nothing in here is a default that verifies less: what is not
/// verified is so because [`Trust::Nothing`] says it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackendTls {
    /// Who may have signed an endpoint's certificate.
    pub trust: Trust,
    /// The name that is sent (SNI) and that the certificate must be for. Without it, it is each endpoint's own: its
    /// hostname, else the name that it is resolved from, else its address. An address is never sent; the certificate
    /// must hold it among its subject alternative names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The names of which the certificate must be for at least one, in place of the one that is sent. Empty: for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
    /// The certificate that is shown to endpoints which ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateName>,
    /// The oldest version that is spoken.
    #[serde(default = "TlsVersion::oldest")]
    pub min_version: TlsVersion,
    /// The newest version that is spoken.
    #[serde(default = "TlsVersion::newest")]
    pub max_version: TlsVersion,
}

impl BackendTls {
    /// TLS with every version that is known, each endpoint's own name, and no certificate of our own.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            server_name: None,
            subject_alt_names: Vec::new(),
            client_certificate: None,
            min_version: TlsVersion::oldest(),
            max_version: TlsVersion::newest(),
        }
    }
}

/// A name among a certificate's subject alternative names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SubjectAltName {
    /// A DNS name, in lower case; one of the certificate's may be a wildcard that covers it.
    Hostname(String),
    /// A URI, compared byte by byte.
    Uri(String),
}

/// Who may have signed an endpoint's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Trust {
    /// Any authority of these bundles.
    Bundles(Vec<CaBundleName>),
    /// The authorities that the proxy's machine trusts.
    System,
    /// Anybody: neither signature nor name nor dates of a certificate are verified. The connection is encrypted, and
    /// nobody knows to whom.
    Nothing,
}

/// A version of TLS, older to newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

impl TlsVersion {
    fn oldest() -> Self {
        Self::Tls12
    }

    fn newest() -> Self {
        Self::Tls13
    }
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        })
    }
}

/// Certificates of authorities that are trusted together. They are public, and stand in a file of their own: many
/// backends share one bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CaBundle {
    /// `configmap/NAMESPACE/NAME` or `secret/NAMESPACE/NAME`.
    pub name: CaBundleName,
    /// The certificates in PEM; at least one.
    pub certificates: String,
}
