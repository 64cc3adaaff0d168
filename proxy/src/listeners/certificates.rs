//! Which certificate a client is shown: the one that names what it asks for, of a kind that it can check.

use std::sync::Arc;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};
use understudy_conf::Certificate;

/// Why a certificate of the state cannot be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificateError {
    /// The chain is no PEM.
    #[error("its chain cannot be read")]
    Chain,
    /// The key is no PEM.
    #[error("its key cannot be read")]
    Key,
    /// Both can be read, and do not fit, or the key is of a kind that cannot sign.
    #[error("its key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Loads a certificate with its key.
pub(super) fn load_certificate(certificate: &Certificate) -> Result<Arc<CertifiedKey>, CertificateError> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .ok_or(CertificateError::Chain)?;
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose_pem().as_bytes())
        .map_err(|_| CertificateError::Key)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &default_provider())?))
}

/// The certificates of one listener.
#[derive(Debug)]
pub(super) struct CertificateChoice {
    /// In the listener's order, the cheaper ones to sign with (all but RSA) first.
    certificates: Vec<Arc<CertifiedKey>>,
}

impl CertificateChoice {
    pub(super) fn new(mut certificates: Vec<Arc<CertifiedKey>>) -> Self {
        certificates.sort_by_key(|certificate| certificate.key.algorithm() == SignatureAlgorithm::RSA);
        Self { certificates }
    }

    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.certificates.iter().filter(|known| known.key.choose_scheme(schemes).is_some());
        let named = || {
            // One certificate needs no choice: whether its name fits is the client's to say.
            let name = name.filter(|_| self.certificates.len() > 1)?;
            let name = ServerName::try_from(name).ok()?;
            usable().find(|known| {
                let leaf = known.end_entity_cert().and_then(ParsedCertificate::try_from);
                leaf.is_ok_and(|leaf| rustls::client::verify_server_name(&leaf, &name).is_ok())
            })
        };
        named().or_else(|| usable().next()).cloned()
    }
}

impl ResolvesServerCert for CertificateChoice {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}
