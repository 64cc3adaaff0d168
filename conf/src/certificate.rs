//! Certificates with their private keys.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::CertificateName;

/// A certificate that listeners show to clients, or the proxy to endpoints. Its file is readable by its owner only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Certificate {
    /// `secret/NAMESPACE/NAME`.
    pub name: CertificateName,
    /// The certificates in PEM: the own one, then those that lead to its authority.
    pub chain: String,
    /// The key of the first certificate.
    pub key: PrivateKey,
}

/// A private key in PEM. It shows itself to nobody but who asks for it by name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(Arc<str>);

impl PrivateKey {
    /// Takes a key in PEM; whether it is one is left to who uses it.
    #[must_use]
    pub fn from_pem(pem: &str) -> Self {
        Self(pem.into())
    }

    /// The key in PEM.
    #[must_use]
    pub fn expose_pem(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_key_is_not_shown_by_debug() {
        let certificate = Certificate {
            name: CertificateName::new("secret/default/shop").unwrap(),
            chain: "public".to_owned(),
            key: PrivateKey::from_pem("very private"),
        };
        let text = format!("{certificate:?}");
        assert!(text.contains("public") && !text.contains("very"), "{text}");
        assert_eq!(certificate.key.expose_pem(), "very private");
    }
}
