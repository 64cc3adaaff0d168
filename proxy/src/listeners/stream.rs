//! A client's connection as Pingora reads and writes it.
//!
//! Purpose: a write buffer in front of the socket, so that headers and a short body leave in one system call.
//! Pingora's own `Stream` has one too, but only its own accept loop can switch it on; without it each answer
//! costs a system call more. This one also sends a kept piece together with a long one (`writev`), sends what
//! it keeps whenever the reader has to wait (so that a client sees the headers of a slow answer), has no read
//! buffer to copy through (64 KiB a connection), and reads no clock.
//!
//! The same holds above TLS, where each piece would also be a record of its own.
//!
//! Which HTTP a client in clear text speaks shows in the first bytes that it sends. They are read here, once for each
//! connection, and handed on, so that neither version costs a system call more; a client of HTTP/2 is announced as if
//! TLS had agreed on it. Pingora's own way needs [`Peek`], which would read the first bytes twice.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::tls::SslDigest;
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::handshake::{self, Secured};

/// Writes are kept back up to this many bytes.
const KEPT_BYTES: usize = 2048;

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// At most so much is read to find out which HTTP a client speaks: the heads of most requests, in one read.
const FIRST_BYTES: usize = 4096;

/// How many pieces go into one system call.
const PIECES: usize = 8;

/// What carries a connection's bytes: a socket, or TLS on one.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + Debug + Send + Sync + 'static {
    /// The socket's number, which is unique among the open ones.
    fn fd(&self) -> RawFd;
}

impl Transport for TcpStream {
    fn fd(&self) -> RawFd {
        self.as_raw_fd()
    }
}

impl Transport for TlsStream<TcpStream> {
    fn fd(&self) -> RawFd {
        self.get_ref().0.as_raw_fd()
    }
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Downstream<S: Transport> {
    socket: S,
    /// What was written and not sent: `kept[sent..]`. Allocated with the first write.
    kept: Vec<u8>,
    sent: usize,
    /// Something was given to the transport that may not have left it.
    unflushed: bool,
    digest: Arc<SocketDigest>,
    /// What was read before, to be read first.
    ahead: Vec<u8>,
    tls: Option<Tls>,
    /// The client speaks HTTP/2 in clear text.
    h2c: bool,
}

/// What is known of a connection that is encrypted.
#[derive(Debug)]
struct Tls {
    digest: Arc<SslDigest>,
    alpn: Option<ALPN>,
}

impl Downstream<TcpStream> {
    pub(super) fn plain(socket: TcpStream, digest: Arc<SocketDigest>) -> Self {
        Self::new(socket, digest, None)
    }

    /// Reads what the client sends first, and finds out from it which HTTP it speaks. An error shows at the next read.
    pub(super) async fn read_first(&mut self) {
        loop {
            if self.socket.readable().await.is_err() {
                return;
            }
            if self.ahead.capacity() == 0 {
                self.ahead.reserve_exact(FIRST_BYTES);
            }
            match self.socket.try_read_buf(&mut self.ahead) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) => return,
            }
            if self.ahead.starts_with(PREFACE) {
                self.h2c = true;
                return;
            }
            if !PREFACE.starts_with(&self.ahead) {
                return;
            }
        }
    }
}

impl Downstream<TlsStream<TcpStream>> {
    pub(super) fn encrypted(secured: Secured, digest: Arc<SocketDigest>) -> Self {
        let Secured { stream: socket, ahead, terms } = secured;
        let connection = socket.get_ref().1;
        let digest_of_tls = Arc::new(handshake::digest(connection, &terms));
        let tls = Tls { digest: digest_of_tls, alpn: handshake::alpn(connection) };
        let mut this = Self::new(socket, digest, Some(tls));
        this.ahead = ahead;
        this
    }
}

impl<S: Transport> Downstream<S> {
    fn new(socket: S, digest: Arc<SocketDigest>, tls: Option<Tls>) -> Self {
        Self {
            socket,
            kept: Vec::new(),
            sent: 0,
            unflushed: false,
            digest,
            ahead: Vec::new(),
            tls,
            h2c: false,
        }
    }

    /// Notes that `count` more of the kept bytes have left.
    fn advance(&mut self, count: usize) {
        self.sent += count;
        if self.sent >= self.kept.len() {
            self.kept.clear();
            self.sent = 0;
        }
    }

    fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    fn poll_send_kept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.has_kept() {
            let count = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.kept[self.sent..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(count);
        }
        Poll::Ready(Ok(()))
    }

    /// Sends all that was written. A socket takes what it is given; TLS may keep records that did not fit.
    fn poll_send_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_kept(cx))?;
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_pieces(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = pieces.iter().map(|piece| piece.len()).sum();
        if total == 0 {
            return Poll::Ready(Ok(0));
        }
        if self.kept.len() + total <= KEPT_BYTES {
            if self.kept.capacity() == 0 {
                self.kept.reserve_exact(KEPT_BYTES);
            }
            for piece in pieces {
                self.kept.extend_from_slice(piece);
            }
            return Poll::Ready(Ok(total));
        }
        loop {
            let kept = self.kept.len() - self.sent;
            let count = if kept == 0 {
                ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, pieces))?
            } else {
                let mut together = [IoSlice::new(&[]); PIECES];
                together[0] = IoSlice::new(&self.kept[self.sent..]);
                let more = pieces.len().min(PIECES - 1);
                together[1..=more].copy_from_slice(&pieces[..more]);
                ready!(Pin::new(&mut self.socket).poll_write_vectored(cx, &together[..=more]))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            self.advance(count.min(kept));
            if count > kept {
                return Poll::Ready(Ok(count - kept));
            }
        }
    }
}

impl<S: Transport> AsyncRead for Downstream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(buf.remaining());
            buf.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return Poll::Ready(Ok(()));
        }
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        match read {
            Poll::Pending if self.has_kept() || self.unflushed => {
                // Whoever waits for the client has nothing to add for now. An error shows at the next write.
                let _ = self.poll_send_all(cx);
                Poll::Pending
            }
            // Many clients end TLS without saying so. HTTP tells by itself whether a message is complete.
            Poll::Ready(Err(error)) if self.tls.is_some() && error.kind() == io::ErrorKind::UnexpectedEof => {
                Poll::Ready(Ok(()))
            }
            read => read,
        }
    }
}

impl<S: Transport> AsyncWrite for Downstream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_all(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send_kept(cx))?;
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

impl<S: Transport> Drop for Downstream<S> {
    fn drop(&mut self) {
        if self.has_kept() || self.unflushed {
            // An answer that was written but not flushed (Pingora's short error answers) still leaves.
            let _ = self.poll_send_all(&mut Context::from_waker(Waker::noop()));
        }
    }
}

#[async_trait]
impl<S: Transport> Shutdown for Downstream<S> {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!("closing a client's connection failed: {error}");
        }
    }
}

impl<S: Transport> UniqueID for Downstream<S> {
    fn id(&self) -> UniqueIDType {
        self.socket.fd()
    }
}

impl<S: Transport> Ssl for Downstream<S> {
    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.tls.as_ref().map(|tls| Arc::clone(&tls.digest))
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        match &self.tls {
            Some(tls) => tls.alpn.clone(),
            None => self.h2c.then_some(ALPN::H2),
        }
    }
}

impl<S: Transport> Peek for Downstream<S> {}

impl<S: Transport> GetTimingDigest for Downstream<S> {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        // Asked for with each request; nothing reads it, so nothing is allocated.
        Vec::new()
    }
}

impl<S: Transport> GetProxyDigest for Downstream<S> {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl<S: Transport> GetSocketDigest for Downstream<S> {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(Arc::clone(&self.digest))
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.digest = Arc::new(digest);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    async fn pair() -> (Downstream<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let digest = Arc::new(SocketDigest::from_raw_fd(socket.as_raw_fd()));
        (Downstream::plain(socket, digest), client)
    }

    async fn first(pieces: &[&[u8]]) -> (bool, Vec<u8>) {
        let (mut server, mut client) = pair().await;
        let expected = pieces.concat();
        let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.to_vec()).collect();
        client.set_nodelay(true).unwrap();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client
        });
        timeout(BOUND, server.read_first()).await.unwrap();
        let h2 = server.selected_alpn_proto() == Some(ALPN::H2);
        let mut read = vec![0; expected.len()];
        timeout(BOUND, server.read_exact(&mut read)).await.unwrap().unwrap();
        assert_eq!(read, expected);
        writer.await.unwrap();
        (h2, read)
    }

    #[tokio::test]
    async fn the_first_bytes_say_which_http_it_is_and_are_not_lost() {
        assert!(first(&[PREFACE]).await.0);
        assert!(first(&[b"PRI * ", b"HTTP/2.0\r\n", b"\r\nSM\r\n\r\n"]).await.0);
        assert!(first(&[&[PREFACE, &[0; 9]].concat()]).await.0);
        assert!(!first(&[b"P", b"OST / HTTP/1.1\r\n\r\n"]).await.0);
        assert!(!first(&[b"PRI * HTTP/1.1\r\n\r\n"]).await.0);
        assert!(!first(&[&[b'x'; 3 * FIRST_BYTES]]).await.0);
    }

    #[tokio::test]
    async fn a_client_that_only_connects_and_goes_is_no_http_2() {
        let (mut server, client) = pair().await;
        drop(client);
        timeout(BOUND, server.read_first()).await.unwrap();
        assert_eq!(server.selected_alpn_proto(), None);
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn short_writes_stay_until_they_are_flushed() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"head").await.unwrap();
        server.write_all(b"body").await.unwrap();
        assert_eq!(client.try_read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        server.flush().await.unwrap();
        let mut read = [0; 8];
        timeout(BOUND, client.read_exact(&mut read)).await.unwrap().unwrap();
        assert_eq!(&read, b"headbody");
    }

    #[tokio::test]
    async fn what_is_kept_goes_before_a_long_write_and_every_byte_arrives_once() {
        let (mut server, mut client) = pair().await;
        // More than any socket buffer takes, so that partial writes happen.
        let long: Vec<u8> = (0..8_000_000_u32).map(|i| (i % 251) as u8).collect();
        let mut expected = b"head".to_vec();
        expected.extend_from_slice(&long);
        expected.extend_from_slice(b"tail");
        let writer = tokio::spawn(async move {
            server.write_all(b"head").await.unwrap();
            server.write_all(&long).await.unwrap();
            server.write_all(b"tail").await.unwrap();
            AsyncWriteExt::shutdown(&mut server).await.unwrap();
        });
        let mut read = Vec::new();
        timeout(BOUND, client.read_to_end(&mut read)).await.unwrap().unwrap();
        assert!(read == expected);
        writer.await.unwrap();
    }

    #[tokio::test]
    async fn many_pieces_arrive_in_order() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"0").await.unwrap();
        let parts: Vec<Vec<u8>> = (1..=20_u8).map(|i| vec![i; 300]).collect();
        let expected: Vec<u8> = std::iter::once(b'0').chain(parts.iter().flatten().copied()).collect();
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut rest = slices.as_mut_slice();
        while !rest.is_empty() {
            let count = server.write_vectored(rest).await.unwrap();
            IoSlice::advance_slices(&mut rest, count);
        }
        server.flush().await.unwrap();
        let mut read = vec![0; expected.len()];
        timeout(BOUND, client.read_exact(&mut read)).await.unwrap().unwrap();
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn waiting_for_the_client_sends_what_is_kept() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"head").await.unwrap();
        let mut byte = [0; 1];
        let waiting = server.read(&mut byte);
        let mut read = [0; 4];
        tokio::select! {
            _ = waiting => panic!("the client sent nothing"),
            got = timeout(BOUND, client.read_exact(&mut read)) => { got.unwrap().unwrap(); }
        }
        assert_eq!(&read, b"head");
    }

    #[tokio::test]
    async fn dropping_sends_what_is_kept() {
        let (mut server, mut client) = pair().await;
        server.write_all(b"bye").await.unwrap();
        drop(server);
        let mut read = Vec::new();
        timeout(BOUND, client.read_to_end(&mut read)).await.unwrap().unwrap();
        assert_eq!(read, b"bye");
    }
}
