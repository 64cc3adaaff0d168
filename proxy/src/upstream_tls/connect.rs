//! Connections of the proxy's own (trials and active checks), made as those of requests are.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use tokio::task::JoinSet;
use understudy_conf::{TcpKeepalive, UpstreamProtocol};
use understudy_engine::{Address, ConnectFailure, Identity, TlsIdentity};

use super::{Refused, SecurityLog, UpstreamTls, UpstreamTlsTable};
use crate::clock::Clock;
use crate::service::{keepalive_of, of_connecting, secure_peer};

/// An address may stand for several endpoints, each with a certificate of its own. So many are asked for one.
const LOOKS: usize = 4;

/// What a connection has to be that somebody else makes under a TLS policy.
#[derive(Clone)]
pub(crate) struct TlsGuard {
    pub(crate) endpoint: Identity,
    pub(crate) policy: Arc<UpstreamTls>,
    pub(crate) security: Arc<SecurityLog>,
    pub(crate) clock: Clock,
    /// Makes the connection that shows a certificate again.
    pub(crate) connector: Arc<TransportConnector>,
}

impl TlsGuard {
    /// Why a connection of ours that came about cannot be used, if it cannot.
    pub(crate) fn refuses_stream(&self, stream: &Stream) -> Option<Refused> {
        self.policy.look(stream);
        self.refuses(stream.get_ssl_digest().as_deref())
    }

    /// The same of a connection that Pingora made, of whose certificate only the digest is known. If nobody has looked at
    /// such a certificate yet, connections of ours are made to see it, each within the time that the peer gives connecting.
    pub(crate) async fn look(&self, peer: &HttpPeer, agreed: Option<&SslDigest>) -> Option<Refused> {
        for _ in 0..LOOKS {
            if !self.policy.is_unseen(agreed) {
                break;
            }
            match self.connector.new_stream(peer).await {
                Ok(stream) => self.policy.look(&stream),
                Err(error) => return Some(self.unseen(&error)),
            }
        }
        self.refuses(agreed)
    }

    /// A failure to connect says nothing of the names: it counts as what it is.
    fn unseen(&self, error: &Error) -> Refused {
        let failure = of_connecting(error);
        if failure == ConnectFailure::Certificate {
            self.certificate_refused(error);
        }
        Refused { failure, why: format!("it does not show its certificate again: {error}") }
    }

    /// The same of a connection with a certificate that was looked at before, or need not be.
    pub(crate) fn refuses(&self, agreed: Option<&SslDigest>) -> Option<Refused> {
        let refused = self.policy.refuses(agreed)?;
        if refused.failure == ConnectFailure::Certificate {
            self.certificate_refused(&refused.to_error());
        }
        Some(refused)
    }

    /// The endpoint's certificate was not accepted.
    pub(crate) fn certificate_refused(&self, error: &Error) {
        self.security.certificate_refused(&self.endpoint, error, self.clock.now());
    }
}

/// Connects to endpoints under their TLS policies, without a request.
#[derive(Clone)]
pub(crate) struct TlsProber(Arc<Inner>);

struct Inner {
    table: Arc<ArcSwap<UpstreamTlsTable>>,
    security: Arc<SecurityLog>,
    clock: Clock,
    /// Made when it is first needed: it reads the system's authorities.
    connector: OnceLock<TransportConnector>,
}

impl TlsProber {
    pub(crate) fn new(
        table: Arc<ArcSwap<UpstreamTlsTable>>,
        security: Arc<SecurityLog>,
        clock: Clock,
    ) -> Self {
        Self(Arc::new(Inner { table, security, clock, connector: OnceLock::new() }))
    }

    /// Connects and agrees on TLS. The caller bounds the time.
    pub(crate) async fn connect(
        &self,
        address: &Address,
        tls: &Arc<TlsIdentity>,
        alpn: ALPN,
    ) -> Result<Stream, ConnectFailure> {
        self.connect_for_long(address, tls, alpn, None).await
    }

    /// The same for a connection that is used, and asked in its silence whether it still stands.
    pub(crate) async fn connect_for_long(
        &self,
        address: &Address,
        tls: &Arc<TlsIdentity>,
        alpn: ALPN,
        keepalive: Option<TcpKeepalive>,
    ) -> Result<Stream, ConnectFailure> {
        let (inner, address, tls) = (self.0.clone(), address.clone(), tls.clone());
        // In a task of its own, which ends with this one: Pingora panics at a certificate that it cannot read, and a
        // probe without an end would keep the endpoint out for ever.
        let mut handshake = JoinSet::new();
        handshake.spawn(async move { inner.connect(address, tls, alpn, keepalive).await });
        handshake.join_next().await.and_then(Result::ok).unwrap_or(Err(ConnectFailure::Tls))
    }
}

impl Inner {
    async fn connect(
        &self,
        address: Address,
        tls: Arc<TlsIdentity>,
        alpn: ALPN,
        keepalive: Option<TcpKeepalive>,
    ) -> Result<Stream, ConnectFailure> {
        let error = match self.connect_to(&address, &tls, alpn, keepalive).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        let failure = of_connecting(&error);
        if failure == ConnectFailure::Certificate {
            let protocol = UpstreamProtocol::default();
            let endpoint = Identity { origin: None, address, protocol, tls: Some(tls) };
            self.security.certificate_refused(&endpoint, &error, self.clock.now());
        }
        Err(failure)
    }

    async fn connect_to(
        &self,
        address: &Address,
        tls: &TlsIdentity,
        alpn: ALPN,
        keepalive: Option<TcpKeepalive>,
    ) -> Result<Stream> {
        let policy = self.table.load().by_number(tls.policy).cloned();
        let gone = || Error::explain(ErrorType::InternalError, "the endpoint's TLS policy is gone");
        let policy = policy.ok_or_else(gone)?;
        let mut peer = secure_peer(address, tls, &policy, alpn).ok_or_else(gone)?;
        peer.options.tcp_keepalive = keepalive.map(keepalive_of);
        let connector = self.connector.get_or_init(|| TransportConnector::new(None));
        let stream = connector.new_stream(&*peer).await?;
        policy.look(&stream);
        match policy.refuses(stream.get_ssl_digest().as_deref()) {
            Some(refused) => Err(refused.to_error()),
            None => Ok(stream),
        }
    }
}
