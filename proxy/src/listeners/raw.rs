//! Connections that carry no HTTP, on their way from a listening socket to whoever serves them.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use understudy_conf::{GatewayName, ListenerName};

/// Serves connections that carry no HTTP.
#[async_trait]
pub(crate) trait RawApp: Send + Sync + 'static {
    /// Carries a connection to its end.
    async fn carry(&self, connection: RawConnection);
}

/// A connection as its listener leaves it.
pub(crate) struct RawConnection {
    /// The client.
    pub(crate) peer: SocketAddr,
    /// The socket that took it, by the address that was asked for.
    pub(crate) bound: SocketAddr,
    /// What carries the client's bytes.
    pub(crate) stream: RawStream,
    /// What was read already, to go first.
    pub(crate) ahead: Vec<u8>,
    /// What its ClientHello said, under TLS.
    pub(crate) hello: Option<Hello>,
}

/// What carries a client's bytes.
pub(crate) enum RawStream {
    /// A socket: TCP, or TLS that is passed through.
    Plain(TcpStream),
    /// TLS that ends here.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a ClientHello chose.
pub(crate) struct Hello {
    pub(crate) listener: Arc<TlsListener>,
    /// The name in it, in lower case.
    pub(crate) server_name: Option<Box<str>>,
}

/// A listener of TLS with anything inside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TlsListener {
    pub(crate) gateway: GatewayName,
    pub(crate) name: ListenerName,
    /// The stream goes to the endpoint as it came.
    pub(crate) passthrough: bool,
}
