//! The handshake of one connection: ClientHello → configuration → a stream in clear text.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::protocols::ALPN;
use pingora_core::protocols::tls::SslDigest;
use rustls::ServerConnection;
use rustls::server::Acceptor;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::{Terms, TlsTable};

/// A handshake that takes longer is given up.
pub(super) const HANDSHAKE_BOUND: Duration = Duration::from_secs(10);

/// The length of what an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// The fatal alert `unrecognized_name` (RFC 6066, section 3) as a record in clear text.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What handshakes need.
pub(super) struct Handshakes {
    table: Arc<ArcSwap<TlsTable>>,
    /// One permit for each handshake under way. Who gets none waits.
    under_way: Semaphore,
    bound: Duration,
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// What was read already, in clear text.
    pub(super) ahead: Vec<u8>,
    /// What it was made under.
    pub(super) terms: Arc<Terms>,
}

/// Why a connection has no TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("no listener serves {}", .0.as_deref().unwrap_or("a client that names no host"))]
    UnknownName(Option<String>),
    #[error("the handshake took more than {0:?}")]
    TooSlow(Duration),
    #[error(transparent)]
    Failed(#[from] io::Error),
}

impl Handshakes {
    /// At most `limit` handshakes go on at once, each for at most `bound`.
    pub(super) fn new(table: Arc<ArcSwap<TlsTable>>, limit: usize, bound: Duration) -> Self {
        Self { table, under_way: Semaphore::new(limit), bound }
    }

    /// Whether a socket speaks TLS now.
    pub(super) fn is_tls(&self, bound: &SocketAddr) -> bool {
        self.table.load().socket(bound).is_some()
    }

    /// How many more handshakes could begin now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.under_way.available_permits()
    }

    /// Performs the handshake of a connection that a socket took.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        bound: &SocketAddr,
    ) -> Result<Secured, HandshakeError> {
        // It is never closed. The bound runs from here: that others were before it is not the client's fault, and
        // each of them is bounded itself.
        let _permit = self.under_way.acquire().await.ok();
        timeout(self.bound, async {
            let mut start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
            let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
            let name = name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
            let terms = self.table.load().socket(bound).and_then(|socket| socket.find(name)).map(Arc::clone);
            let Some(terms) = terms else {
                start.io.write_all(&UNRECOGNIZED_NAME).await?;
                start.io.shutdown().await?;
                return Err(HandshakeError::UnknownName(name.map(str::to_owned)));
            };
            let mut stream = start.into_stream(Arc::clone(&terms.config)).await?;
            // The HTTP/2 server waits for these without any bound, so they are read within the handshake's.
            let mut ahead = Vec::new();
            if alpn(stream.get_ref().1).is_some() {
                ahead.resize(PREFACE_BYTES, 0);
                stream.read_exact(&mut ahead).await?;
            }
            Ok(Secured { stream, ahead, terms })
        })
        .await
        .unwrap_or(Err(HandshakeError::TooSlow(self.bound)))
    }
}

/// What requests are to know of the connection.
///
/// Pingora lets nobody else fill the digest's extension, so two fields about the client's certificate, of which nothing
/// else is wanted, carry other things: that for its organization the name in the ClientHello ([`server_name`] reads it),
/// that for its serial number what the client has proved ([`proven_demand`]).
pub(super) fn digest(connection: &ServerConnection, terms: &Terms) -> SslDigest {
    let cipher = connection.negotiated_cipher_suite().and_then(|suite| suite.suite().as_str());
    let version = Cow::Borrowed(match connection.protocol_version() {
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "TLSv1.3",
    });
    let name = connection.server_name().map(str::to_owned);
    let cipher = cipher.map_or(Cow::Borrowed(""), Cow::Borrowed);
    SslDigest::new(cipher, version, name, terms.demand.clone(), Vec::new())
}

/// The name in the ClientHello of a connection.
pub(crate) fn server_name(digest: &SslDigest) -> Option<&str> {
    digest.organization.as_deref()
}

/// What the client of a connection has proved.
pub(crate) fn proven_demand(digest: &SslDigest) -> Option<&str> {
    digest.serial_number.as_deref()
}

/// What both sides agreed on.
pub(super) fn alpn(connection: &ServerConnection) -> Option<ALPN> {
    (connection.alpn_protocol()? == b"h2").then_some(ALPN::H2)
}
