//! One TLS policy, ready for Pingora.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use pingora_core::protocols::tls::{CaType, SslDigest};
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_core::utils::tls::{CertKey, WrappedX509};
use pingora_error::{Error, ErrorType};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::CertifiedKey;
use rustls::{Error as TlsError, RootCertStore};
use understudy_conf::{
    BackendTls, Certificate, Endpoint, EndpointAddress, State, SubjectAltName, TlsVersion, Trust,
    UpstreamProtocol,
};
use understudy_engine::{Address, ConnectFailure, TlsIdentity, TlsStrength};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::names::Names;

/// What is offered to an endpoint of this protocol.
pub(crate) fn alpn_of(protocol: UpstreamProtocol) -> ALPN {
    match protocol {
        UpstreamProtocol::Http1 => ALPN::H1,
        UpstreamProtocol::H2c => ALPN::H2,
    }
}

/// Why a policy cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PolicyError {
    /// The state's references were checked before it was taken, so this is a broken one.
    #[error("{0} is not in the state")]
    Missing(String),
    /// No PEM, or no certificate in it.
    #[error("the authorities of {0} cannot be read")]
    Authorities(String),
    /// An authority that nothing could be verified with.
    #[error("an authority of {0} cannot be used: {1}")]
    Unusable(String, TlsError),
    /// The client certificate's chain.
    #[error("the certificates of {0} cannot be read")]
    Chain(String),
    /// The client certificate's key.
    #[error("the key of {0} cannot be used")]
    Key(String),
}

/// All that makes a policy, but the name that is verified.
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Content {
    roots: Roots,
    client: Option<Client>,
    /// Sorted, each once.
    names: Vec<SubjectAltName>,
    min: TlsVersion,
    max: TlsVersion,
}

/// Who may have signed.
#[derive(PartialEq, Eq, Hash)]
enum Roots {
    Authorities(Vec<CertificateDer<'static>>),
    System,
    Nothing,
}

/// What the proxy shows of itself.
#[derive(PartialEq, Eq)]
struct Client {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Hash for Client {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.chain.hash(state);
    }
}

impl Content {
    /// Reads what a backend's TLS refers to. Whatever Pingora would fail or panic at is refused here.
    pub(super) fn read(state: &State, tls: &BackendTls) -> Result<Self, PolicyError> {
        let roots = match &tls.trust {
            Trust::System => Roots::System,
            Trust::Nothing => Roots::Nothing,
            Trust::Bundles(names) => {
                let mut all = Vec::new();
                for name in names {
                    let bundle =
                        state.ca_bundles.get(name).ok_or_else(|| PolicyError::Missing(name.to_string()))?;
                    all.extend(read_authorities(name.as_str(), &bundle.certificates)?);
                }
                if all.is_empty() {
                    return Err(PolicyError::Authorities("no bundle".to_owned()));
                }
                all.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
                all.dedup();
                Roots::Authorities(all)
            }
        };
        let client = tls.client_certificate.as_ref().map(|name| {
            let found = state.certificates.get(name);
            read_client(found.ok_or_else(|| PolicyError::Missing(name.to_string()))?)
        });
        let mut names = tls.subject_alt_names.clone();
        names.sort();
        names.dedup();
        let (min, max) = (tls.min_version, tls.max_version);
        Ok(Self { roots, client: client.transpose()?, names, min, max })
    }
}

fn read_authorities(name: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, PolicyError> {
    let unreadable = || PolicyError::Authorities(name.to_owned());
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| unreadable())?;
    let mut store = RootCertStore::empty();
    for certificate in &found {
        X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
        store.add(certificate.clone()).map_err(|error| PolicyError::Unusable(name.to_owned(), error))?;
    }
    if found.is_empty() { Err(unreadable()) } else { Ok(found) }
}

fn read_client(certificate: &Certificate) -> Result<Client, PolicyError> {
    let name = certificate.name.as_str();
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|chain| !chain.is_empty())
        .filter(|chain| chain.iter().all(|one| X509Certificate::from_der(one).is_ok()))
        .ok_or_else(|| PolicyError::Chain(name.to_owned()))?;
    let unusable = || PolicyError::Key(name.to_owned());
    let key =
        PrivateKeyDer::from_pem_slice(certificate.key.expose_pem().as_bytes()).map_err(|_| unusable())?;
    let bytes = key.secret_der().to_vec();
    CertifiedKey::from_der(chain.clone(), key, &default_provider()).map_err(|_| unusable())?;
    // Pingora has to find out the key's format again.
    PrivateKeyDer::try_from(bytes.clone()).map_err(|_| unusable())?;
    Ok(Client { chain, key: bytes })
}

/// A policy with what Pingora needs for each connection.
pub(crate) struct UpstreamTls {
    number: u64,
    content: Arc<Content>,
    authorities: Option<Arc<CaType>>,
    client: Option<Arc<CertKey>>,
    names: Option<Names>,
}

/// Why a connection that came about may not be used.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) failure: ConnectFailure,
    pub(crate) why: String,
}

impl Refused {
    fn new(failure: ConnectFailure, why: impl Into<String>) -> Self {
        Self { failure, why: why.into() }
    }

    /// The state has the endpoint's policy no more.
    pub(crate) fn gone() -> Self {
        Self::new(ConnectFailure::Tls, "the endpoint's TLS policy is gone")
    }

    /// The same as the error of a handshake.
    pub(crate) fn to_error(&self) -> Box<Error> {
        Error::explain(ErrorType::TLSHandshakeFailure, self.why.clone())
    }
}

impl UpstreamTls {
    pub(super) fn new(number: u64, content: Arc<Content>) -> Self {
        let wrapped = |certificate: &CertificateDer<'_>| {
            WrappedX509::new(certificate.to_vec(), pingora_core::utils::tls::parse_x509)
        };
        let authorities = match &content.roots {
            Roots::Authorities(all) => Some(all.iter().map(wrapped).collect()),
            Roots::System | Roots::Nothing => None,
        };
        let client = content.client.as_ref().map(|client| {
            let chain = client.chain.iter().map(|certificate| certificate.to_vec()).collect();
            Arc::new(CertKey::new(chain, client.key.clone()))
        });
        let names = Names::new(&content.names).filter(|_| !matches!(content.roots, Roots::Nothing));
        Self { number, content, authorities, client, names }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn content(&self) -> &Arc<Content> {
        &self.content
    }

    fn verifies(&self) -> bool {
        !matches!(self.content.roots, Roots::Nothing)
    }

    /// What makes an endpoint under this policy itself; `None` where there is no name to verify.
    pub(crate) fn identity(
        &self,
        tls: &BackendTls,
        endpoint: &Endpoint,
        address: &Address,
    ) -> Option<Arc<TlsIdentity>> {
        let named = tls.server_name.as_deref().or(endpoint.hostname.as_deref()).or(match &endpoint.address {
            EndpointAddress::Fqdn { hostname, .. } => Some(hostname),
            EndpointAddress::Ip { .. } | EndpointAddress::Unix { .. } => None,
        });
        let server_name: Arc<str> = match (named, address) {
            (Some(name), _) => name.into(),
            (None, Address::Socket(address) | Address::Udp(address)) => address.ip().to_string().into(),
            // An address is never sent, and nothing is compared with it.
            (None, Address::Unix(_)) if !self.verifies() => IpAddr::from([127, 0, 0, 1]).to_string().into(),
            (None, Address::Unix(_)) => return None,
        };
        ServerName::try_from(&*server_name).ok()?;
        let strength = if self.verifies() { TlsStrength::Verified } else { TlsStrength::Unverified };
        Some(Arc::new(TlsIdentity { policy: self.number, server_name, strength }))
    }

    /// Makes a peer one of this policy. Its name must be set: Pingora verifies nothing without one.
    pub(crate) fn secure(&self, peer: &mut HttpPeer, alpn: ALPN) {
        // Pingora's pool of connections knows neither authorities nor versions, so each policy has a pool of its own.
        peer.group_key = self.number;
        peer.client_cert_key.clone_from(&self.client);
        peer.options.ca.clone_from(&self.authorities);
        // Without ALPN the connector would pass over the next two.
        peer.options.alpn = alpn;
        peer.options.verify_cert = self.verifies();
        // Other names are looked for when the certificate is there.
        peer.options.verify_hostname = self.verifies() && self.names.is_none();
    }

    /// Whether nobody has looked yet at the certificate of a connection that Pingora made.
    pub(crate) fn is_unseen(&self, digest: Option<&SslDigest>) -> bool {
        let unseen = |names: &Names| digest.is_some_and(|digest| names.known(&digest.cert_digest).is_none());
        self.names.as_ref().is_some_and(unseen)
    }

    /// Looks at the certificate of a connection of ours.
    pub(crate) fn look(&self, stream: &Stream) {
        if let Some(names) = &self.names
            && let Some(digest) = stream.get_ssl_digest()
            && let Some(certificate) = stream.get_ssl().and_then(|tls| tls.peer_certificate_der())
        {
            names.look(&digest.cert_digest, certificate);
        }
    }

    /// Why a connection that came about may not be used. The connector offers both versions always, and verifies no name
    /// but the one that is sent, so what was agreed on is looked at before anything is sent.
    pub(crate) fn refuses(&self, digest: Option<&SslDigest>) -> Option<Refused> {
        let Content { min, max, .. } = *self.content;
        let refused = |why: String| Some(Refused::new(ConnectFailure::Tls, why));
        let version = match digest.map(|digest| &*digest.version) {
            Some("TLSv1_2") => TlsVersion::Tls12,
            Some("TLSv1_3") => TlsVersion::Tls13,
            other => return refused(format!("no known version of TLS was agreed on ({other:?})")),
        };
        if !(min..=max).contains(&version) {
            return refused(format!("TLS {version} was agreed on, and only {min} to {max} are allowed"));
        }
        let names = self.names.as_ref()?;
        let known = digest.and_then(|digest| names.known(&digest.cert_digest));
        // Worded as rustls does it: this is how a refused certificate is known.
        let why = match known {
            Some(true) => return None,
            Some(false) => "invalid peer certificate: none of its names is one of subjectAltNames",
            None => "invalid peer certificate: it was not shown again, so its names are not known",
        };
        Some(Refused::new(ConnectFailure::Certificate, why))
    }
}
