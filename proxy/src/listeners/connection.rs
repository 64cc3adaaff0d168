//! One accepted connection, from the accept loop to its end.
//!
//! It is one pipeline for every kind of listener: accept → choose → plain, or encrypted. A connection that must be
//! looked into first gets its own variant of [`Pipeline`], chosen in [`Accepted::choose`].

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::ServerApp;
use pingora_core::protocols::{ALPN, SocketDigest, Stream};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::Signs;
use super::handshake::{Handshakes, Opened};
use super::raw::{RawConnection, RawStream};
use super::stream::Downstream;
use super::tls::Spoken;

/// How long a client in clear text may take until its first byte, as with Pingora.
const FIRST_BOUND: Duration = Duration::from_secs(60);

/// A connection as the accept loop hands it over.
pub(super) struct Accepted {
    /// In non-blocking mode, and registered with no runtime.
    pub(super) socket: std::net::TcpStream,
    pub(super) peer: SocketAddr,
    /// The address that was asked for when the listening socket was bound.
    pub(super) bound: SocketAddr,
    /// Given back when the connection ends, however it ends.
    pub(super) permit: OwnedSemaphorePermit,
}

/// What becomes of a connection.
enum Pipeline {
    /// HTTP in clear text.
    Plain(Downstream<TcpStream>),
    /// TLS. The listener is in the ClientHello, which is to be kept if TLS may not end here.
    Tls { socket: TcpStream, digest: Arc<SocketDigest>, passes: bool },
    /// Anything.
    Raw(TcpStream),
}

/// Serves a connection until it ends. Runs on the worker that the connection belongs to.
pub(super) async fn serve<A: ServerApp + Send + Sync + 'static>(
    accepted: Accepted,
    app: Arc<A>,
    handshakes: Arc<Handshakes>,
    signs: Signs,
) {
    let (peer, bound) = (accepted.peer, accepted.bound);
    let (pipeline, permit) = match accepted.choose(&handshakes) {
        Ok(chosen) => chosen,
        Err(error) => {
            log::warn!("the connection of {peer} on {bound} is dropped: {error}");
            return;
        }
    };
    let _counted = Counted { peer, bound, _permit: permit };
    match pipeline {
        Pipeline::Plain(mut stream) => {
            let mut stopping = signs.stop.clone();
            tokio::select! {
                biased;
                read = timeout(FIRST_BOUND, stream.read_first()) => if read.is_err() {
                    return;
                },
                // Then the application says what becomes of a connection that nothing came on.
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            serve_http(Box::new(stream), app, signs).await;
        }
        // Boxed, so that connections in clear text do not carry its state.
        Pipeline::Tls { socket, digest, passes } => match Box::pin(handshakes.accept(socket, &bound, passes))
            .await
        {
            Ok(Opened::Http(secured)) => {
                serve_http(Box::new(Downstream::encrypted(secured, digest)), app, signs).await;
            }
            Ok(Opened::Raw(stream, ahead, hello)) => {
                carry(&handshakes, RawConnection { peer, bound, stream, ahead, hello: Some(hello) }).await;
            }
            // What a client does wrong is the client's to see: a log of it could be filled at will.
            Err(error) => log::debug!("no TLS with {peer} on {bound}: {error}"),
        },
        Pipeline::Raw(socket) => {
            let stream = RawStream::Plain(socket);
            carry(&handshakes, RawConnection { peer, bound, stream, ahead: Vec::new(), hello: None }).await;
        }
    }
}

/// Without anybody who serves it, the connection is closed.
async fn carry(handshakes: &Handshakes, connection: RawConnection) {
    if let Some(app) = handshakes.raw.get() {
        app.carry(connection).await;
    }
}

/// As Pingora's own service does it: a connection that the application gives back is served again.
async fn serve_http<A: ServerApp + Send + Sync + 'static>(stream: Stream, app: Arc<A>, signs: Signs) {
    let is_h2 = stream.selected_alpn_proto() == Some(ALPN::H2);
    let shutdown = if is_h2 { signs.stop } else { signs.last };
    let mut next = app.process_new(stream, &shutdown).await;
    while let Some(stream) = next {
        next = app.process_new(stream, &shutdown).await;
    }
}

impl Accepted {
    fn choose(self, handshakes: &Handshakes) -> io::Result<(Pipeline, OwnedSemaphorePermit)> {
        let socket = TcpStream::from_std(self.socket)?;
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        // Both cells are new, so setting them cannot fail. What is set here is never asked of the kernel.
        let _ = digest.peer_addr.set(Some(self.peer.into()));
        let _ = digest.local_addr.set(Some(self.bound.into()));
        let digest = Arc::new(digest);
        let pipeline = match handshakes.spoken(&self.bound) {
            Spoken::Http => Pipeline::Plain(Downstream::plain(socket, digest)),
            Spoken::Tls { passes } => Pipeline::Tls { socket, digest, passes },
            Spoken::Tcp => Pipeline::Raw(socket),
        };
        Ok((pipeline, self.permit))
    }
}

/// Counts a connection as long as it lives, and says so if a panic ends it.
struct Counted {
    peer: SocketAddr,
    bound: SocketAddr,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if std::thread::panicking() {
            log::error!("a panic ended the connection of {} on {}; all others go on", self.peer, self.bound);
        }
    }
}
