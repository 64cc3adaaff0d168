//! What listeners ask of clients: a certificate of an authority that is trusted, or any, or none.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use understudy_conf::{CaBundle, ClientValidationMode};

/// Why clients cannot be verified.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientsError {
    /// No PEM, or no certificate in it.
    #[error("the authorities of {0} cannot be read")]
    Unreadable(String),
    /// An authority that nothing could be verified with.
    #[error("an authority of {0} cannot be used: {1}")]
    Unusable(String, Error),
    /// None at all.
    #[error(transparent)]
    Builder(#[from] VerifierBuilderError),
}

/// What verifies clients by the authorities of these bundles.
pub(super) fn build_verifier(
    bundles: &[Arc<CaBundle>],
    mode: ClientValidationMode,
) -> Result<Arc<dyn ClientCertVerifier>, ClientsError> {
    let mut roots = RootCertStore::empty();
    for bundle in bundles {
        let name = || bundle.name.as_str().to_owned();
        let found = CertificateDer::pem_slice_iter(bundle.certificates.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .ok()
            .filter(|found| !found.is_empty())
            .ok_or_else(|| ClientsError::Unreadable(name()))?;
        for certificate in found {
            roots.add(certificate).map_err(|error| ClientsError::Unusable(name(), error))?;
        }
    }
    match mode {
        ClientValidationMode::Require => {
            let provider = Arc::new(default_provider());
            Ok(WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?)
        }
        ClientValidationMode::AllowInsecure => Ok(Arc::new(AcceptsAnything { names: roots.subjects() })),
    }
}

/// Asks for a certificate and takes whatever comes, nothing included. Nothing may ever be derived from it: not even that
/// the client has the key is verified, since an unreadable certificate must not keep it out either.
#[derive(Debug)]
struct AcceptsAnything {
    /// Whose certificates are asked for.
    names: Vec<DistinguishedName>,
}

impl ClientCertVerifier for AcceptsAnything {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.names
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
