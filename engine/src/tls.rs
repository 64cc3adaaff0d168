//! What the engine has to know of TLS: which policy an endpoint is spoken to under, and how much it protects.

use std::sync::Arc;

/// Under which TLS policy an endpoint is spoken to. Two policies never share evidence, probers or connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TlsIdentity {
    /// Stands for the whole policy: authorities, client certificate, versions. Equal numbers are equal policies.
    pub policy: u64,
    /// The name or address that the endpoint's certificate must be for.
    pub server_name: Arc<str>,
    /// How much of the certificate is verified.
    pub strength: TlsStrength,
}

/// How much the way to an endpoint protects a request, weakest first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TlsStrength {
    /// Clear text.
    #[default]
    Plain,
    /// Encrypted, to whoever answers.
    Unverified,
    /// Encrypted, to an endpoint that showed a certificate for its name.
    Verified,
}
