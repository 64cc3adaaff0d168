//! The handshake of one connection: ClientHello → listener → a stream in clear text, or the bytes as they came.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
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
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::raw::{Hello, RawApp, RawStream};
use super::tls::{Chosen, Spoken, Terms, TlsTable};

/// A handshake that takes longer is given up.
pub(super) const HANDSHAKE_BOUND: Duration = Duration::from_secs(10);

/// The length of what an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE_BYTES: usize = 24;

/// The fatal alert `unrecognized_name` (RFC 6066, section 3) as a record in clear text.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// A longer ClientHello is refused where it has to be kept. Those of clients are 200 bytes to 2 KiB long.
const LONGEST_HELLO: usize = 16 * 1024;

/// What handshakes need.
pub(super) struct Handshakes {
    table: Arc<ArcSwap<TlsTable>>,
    /// One permit for each handshake under way. Who gets none waits.
    under_way: Semaphore,
    bound: Duration,
    /// Serves what is no HTTP.
    pub(super) raw: OnceLock<Arc<dyn RawApp>>,
}

/// A connection after its handshake.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    /// What was read already, in clear text.
    pub(super) ahead: Vec<u8>,
    /// What it was made under.
    pub(super) terms: Arc<Terms>,
}

/// A connection whose ClientHello was read.
#[expect(clippy::large_enum_variant, reason = "most are the large one, and need no allocation for it")]
pub(super) enum Opened {
    /// HTTP inside of TLS that ended here.
    Http(Secured),
    /// Anything else; the bytes are to go first.
    Raw(RawStream, Vec<u8>, Hello),
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
        Self { table, under_way: Semaphore::new(limit), bound, raw: OnceLock::new() }
    }

    /// What a socket speaks now.
    pub(super) fn spoken(&self, bound: &SocketAddr) -> Spoken {
        self.table.load().spoken(bound)
    }

    /// How many more handshakes could begin now.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.under_way.available_permits()
    }

    /// Reads the ClientHello of a connection that a socket took, and performs its handshake if TLS ends here. Where it
    /// may not (`passes`), the ClientHello is kept.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        bound: &SocketAddr,
        passes: bool,
    ) -> Result<Opened, HandshakeError> {
        // It is never closed. The bound runs from here: that others were before it is not the client's fault, and
        // each of them is bounded itself.
        let _permit = self.under_way.acquire().await.ok();
        timeout(self.bound, async {
            let (mut start, kept) = match passes {
                false => (LazyConfigAcceptor::new(Acceptor::default(), socket).await?, Vec::new()),
                true => read_hello(socket).await?,
            };
            let name = start.client_hello().server_name().map(str::to_ascii_lowercase);
            let name = name.as_deref().map(|name| name.strip_suffix('.').unwrap_or(name));
            let chosen = self.table.load().socket(bound).and_then(|socket| socket.find(name)).cloned();
            let Chosen { terms, raw } = chosen.unwrap_or(Chosen { terms: None, raw: None });
            let hello = raw.map(|listener| Hello { listener, server_name: name.map(Into::into) });
            let hello = match hello {
                Some(hello) if hello.listener.passthrough && !kept.is_empty() => {
                    return Ok(Opened::Raw(RawStream::Plain(start.io), kept, hello));
                }
                hello => hello,
            };
            let Some(terms) = terms else {
                // Where TLS is passed through, nobody here is the other end of it: no word is said, as if there were
                // nobody (Gateway API, conformance test TLSRouteHostnameIntersection).
                if !passes {
                    start.io.write_all(&UNRECOGNIZED_NAME).await?;
                }
                start.io.shutdown().await?;
                return Err(HandshakeError::UnknownName(name.map(str::to_owned)));
            };
            let mut stream = start.into_stream(Arc::clone(&terms.config)).await?;
            if let Some(hello) = hello {
                return Ok(Opened::Raw(RawStream::Tls(Box::new(stream)), Vec::new(), hello));
            }
            // The HTTP/2 server waits for these without any bound, so they are read within the handshake's.
            let mut ahead = Vec::new();
            if alpn(stream.get_ref().1).is_some() {
                ahead.resize(PREFACE_BYTES, 0);
                stream.read_exact(&mut ahead).await?;
            }
            Ok(Opened::Http(Secured { stream, ahead, terms }))
        })
        .await
        .unwrap_or(Err(HandshakeError::TooSlow(self.bound)))
    }
}

/// Reads a ClientHello and keeps its bytes, with what came right behind it.
async fn read_hello(mut socket: TcpStream) -> io::Result<(StartHandshake<TcpStream>, Vec<u8>)> {
    let mut acceptor = Acceptor::default();
    let mut kept = Vec::with_capacity(4096);
    loop {
        if kept.len() >= LONGEST_HELLO {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its ClientHello is too long"));
        }
        let known = kept.len();
        kept.reserve(1024);
        if socket.read_buf(&mut kept).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut fresh = &kept[known..];
        while !fresh.is_empty() && acceptor.read_tls(&mut fresh)? > 0 {}
        match acceptor.accept() {
            Ok(Some(accepted)) => return Ok((StartHandshake::from_parts(accepted, socket), kept)),
            Ok(None) => {}
            Err((error, mut alert)) => {
                let mut said = Vec::new();
                alert.write_all(&mut said)?;
                socket.write_all(&said).await?;
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
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
