//! Authorities made on the spot, and what endpoints and the proxy show of them.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use understudy_conf::{
    BackendTls, CaBundle, CaBundleName, Certificate, CertificateName, PrivateKey, State, Trust,
};

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for these names and addresses.
    pub fn sign(&self, names: &[&str]) -> Leaf {
        self.sign_with(names, |_| {})
    }

    pub fn sign_with(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        Leaf { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }
}

/// Out of date since long ago.
pub fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2001, 1, 1);
    params.not_after = date_time_ymd(2002, 1, 1);
}

/// A certificate with its key.
pub struct Leaf {
    chain: String,
    key: String,
}

impl Leaf {
    /// With a date in its certificate that is none, which its own signature does not cover.
    pub fn unreadable(self) -> Self {
        let mut der = CertificateDer::from_pem_slice(self.chain.as_bytes()).unwrap().to_vec();
        // The first UTCTime (tag 0x17, 13 bytes): the month is made the 99th.
        let at = der.windows(2).position(|two| two == [0x17, 13]).unwrap();
        der[at + 4..at + 6].copy_from_slice(b"99");
        Self { chain: to_pem(&der), ..self }
    }

    /// What an endpoint with this certificate speaks.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server_with(rustls::DEFAULT_VERSIONS, None)
    }

    /// As [`Self::server`], in these versions only, and to clients with a certificate of this authority only.
    pub fn server_with(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> Arc<ServerConfig> {
        let provider = Arc::new(default_provider());
        let clients: Arc<dyn ClientCertVerifier> = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(authority) => {
                let roots = Arc::new(authority.roots());
                WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build().unwrap()
            }
        };
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        Arc::new(config)
    }

    /// What a client shows of it.
    pub fn certified(&self) -> CertifiedKey {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        CertifiedKey::from_der(chain, key, &default_provider()).unwrap()
    }

    /// Puts it into the state, for the proxy to show.
    pub fn put(&self, state: &mut State, name: &str) -> CertificateName {
        let name = CertificateName::new(format!("secret/default/{name}")).unwrap();
        let key = PrivateKey::from_pem(&self.key);
        let certificate = Certificate { name: name.clone(), chain: self.chain.clone(), key };
        state.certificates.insert(name.clone(), Arc::new(certificate));
        name
    }
}

/// Puts authorities into the state, as one bundle.
pub fn trust(state: &mut State, name: &str, authorities: &[&Authority]) -> Trust {
    let name = CaBundleName::new(format!("configmap/default/{name}")).unwrap();
    let certificates = authorities.iter().map(|authority| &*authority.pem).collect();
    let bundle = CaBundle { name: name.clone(), certificates };
    state.ca_bundles.insert(name.clone(), Arc::new(bundle));
    Trust::Bundles(vec![name])
}

/// Has a backend spoken to over TLS; `index` counts the references of the pool.
pub fn secure(state: &mut State, index: usize, tls: BackendTls) {
    let backend = state.backends.values_mut().nth(index).unwrap();
    Arc::make_mut(backend).tls = Some(tls);
}

/// A certificate with its key, for a server that chooses by name.
pub fn certified(certificate: &Certificate) -> CertifiedKey {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose_pem().as_bytes()).unwrap();
    CertifiedKey::from_der(chain, key, &default_provider()).unwrap()
}

/// A certificate in PEM.
fn to_pem(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in der.chunks(3) {
        let bits =
            three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for place in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= three.len() { digit } else { '=' });
        }
    }
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
