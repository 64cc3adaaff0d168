//! Certificates made on the spot, a state with HTTPS listeners, and a client that says which one it was shown.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion, version,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use understudy_conf::{
    Attachment, Certificate, CertificateName, GatewayName, Hostname, Listener, ListenerName, ListenerTls,
    PrivateKey, Protocol, State, TlsMode,
};

use crate::common::PATIENCE;

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Ecdsa,
    Rsa,
}

impl Kind {
    fn key(self) -> KeyPair {
        match self {
            Self::Ecdsa => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
            Self::Rsa => {
                let pem = include_str!("rsa-key.pem");
                KeyPair::from_pkcs8_pem_and_sign_algo(&pem[pem.find("-----").unwrap()..], &PKCS_RSA_SHA256)
                    .unwrap()
            }
        }
    }

    /// What a client that can check this kind only says.
    fn schemes(self) -> Vec<SignatureScheme> {
        match self {
            Self::Ecdsa => vec![SignatureScheme::ECDSA_NISTP256_SHA256],
            Self::Rsa => vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256],
        }
    }
}

/// A self-signed certificate for these names.
pub fn certificate(object: &str, kind: Kind, names: &[&str]) -> Certificate {
    let key = kind.key();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.serial_number = Some(fastrand::u64(1..).into());
    Certificate {
        name: CertificateName::new(format!("secret/default/{object}")).unwrap(),
        chain: params.self_signed(&key).unwrap().pem(),
        key: PrivateKey::from_pem(&key.serialize_pem()),
    }
}

/// An address that no other test is given: ports of 127.0.0.1 come and go with every test that runs beside this one.
pub fn own_address() -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
    std::net::TcpListener::bind((ip, 0)).unwrap().local_addr().unwrap()
}

/// The bytes by which a shown certificate is known again.
pub fn der(certificate: &Certificate) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(certificate.chain.as_bytes()).unwrap()
}

pub fn put(state: &mut State, certificate: &Certificate) {
    state.certificates.insert(certificate.name.clone(), Arc::new(certificate.clone()));
}

/// Replaces the listeners of the only gateway by HTTPS ones on one socket, with every route on all of them.
pub fn secure(state: &mut State, bind: SocketAddr, listeners: &[(&str, Option<&str>, &[&Certificate])]) {
    let gateway = state.gateways.values_mut().next().unwrap();
    let gateway_name: GatewayName = gateway.name.clone();
    Arc::make_mut(gateway).listeners = listeners
        .iter()
        .map(|(name, hostname, certificates)| Listener {
            name: ListenerName::new(name).unwrap(),
            port: 443,
            bind: vec![bind],
            protocol: Protocol::Https,
            hostname: hostname.map(|hostname| Hostname::new(hostname).unwrap()),
            tls: Some(ListenerTls {
                mode: TlsMode::Terminate,
                certificates: certificates.iter().map(|certificate| certificate.name.clone()).collect(),
                client_validation: None,
            }),
        })
        .collect();
    for (_, _, certificates) in listeners {
        certificates.iter().for_each(|certificate| put(state, certificate));
    }
    for route in state.routes.values_mut() {
        Arc::make_mut(route).attachments = listeners
            .iter()
            .map(|(name, hostname, _)| Attachment {
                gateway: gateway_name.clone(),
                listener: ListenerName::new(name).unwrap(),
                hostnames: hostname.iter().map(|hostname| Hostname::new(hostname).unwrap()).collect(),
            })
            .collect();
    }
}

/// Takes every certificate that the server has the key of.
#[derive(Debug)]
struct TakesAny(Vec<SignatureScheme>);

impl ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = default_provider().signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, &known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = default_provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, &known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

/// How a client connects.
#[derive(Clone)]
pub struct Hello {
    pub kinds: Vec<Kind>,
    pub versions: Vec<&'static SupportedProtocolVersion>,
    pub alpn: Vec<&'static str>,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            kinds: vec![Kind::Ecdsa, Kind::Rsa],
            versions: vec![&version::TLS13, &version::TLS12],
            alpn: Vec::new(),
        }
    }
}

impl Hello {
    pub fn config(&self) -> ClientConfig {
        let schemes = self.kinds.iter().flat_map(|kind| kind.schemes()).collect();
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&self.versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TakesAny(schemes)))
            .with_no_client_auth();
        config.alpn_protocols = self.alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
        config
    }

    /// Connects; an address instead of a name sends none.
    pub async fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Session> {
        connect(address, name, Arc::new(self.config())).await
    }

    /// The certificate that a name is shown.
    pub async fn shown(&self, address: SocketAddr, name: &str) -> CertificateDer<'static> {
        self.connect(address, name).await.unwrap().shown()
    }
}

pub async fn connect(address: SocketAddr, name: &str, config: Arc<ClientConfig>) -> io::Result<Session> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let handshake = async {
        let socket = TcpStream::connect(address).await?;
        TlsConnector::from(config).connect(name, socket).await
    };
    Ok(Session { stream: timeout(PATIENCE, handshake).await.unwrap()? })
}

/// A connection over TLS.
pub struct Session {
    pub stream: TlsStream<TcpStream>,
}

impl Session {
    pub fn shown(&self) -> CertificateDer<'static> {
        self.stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }

    /// Sends a GET and reads status and text of the answer.
    pub async fn get(&mut self, host: &str, path: &str) -> io::Result<(u16, String)> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        timeout(PATIENCE, self.read_answer()).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn read_answer(&mut self) -> io::Result<(u16, String)> {
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&answer).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
                let complete = match length {
                    Some(length) => body.len() >= length.parse::<usize>().unwrap(),
                    None => body.ends_with("0\r\n\r\n"),
                };
                if complete {
                    return Ok((head[9..12].parse().unwrap(), text));
                }
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => answer.extend_from_slice(&buffer[..count]),
            }
        }
    }

    /// Whether the other side closes.
    pub async fn ends(&mut self) -> bool {
        matches!(timeout(Duration::from_secs(15), self.stream.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
    }
}
