//! A client's connection as Pingora reads and writes it.
//!
//! Purpose: a write buffer in front of the socket, so that headers and a short body leave in one system call.
//! Pingora's own `Stream` has one too, but only its own accept loop can switch it on; without it each answer
//! costs a system call more. This one also sends a kept piece together with a long one (`writev`), sends what
//! it keeps whenever the reader has to wait (so that a client sees the headers of a slow answer), has no read
//! buffer to copy through (64 KiB a connection), and reads no clock.
//!
//! It does not implement [`Peek`] beyond the default, so HTTP/2 without TLS must not be switched on above it.

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use pingora_core::protocols::raw_connect::ProxyDigest;
use pingora_core::protocols::{
    GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;

/// Writes are kept back up to this many bytes.
const KEPT_BYTES: usize = 2048;

/// How many pieces go into one system call.
const PIECES: usize = 8;

/// A client's connection.
#[derive(Debug)]
pub(super) struct Downstream {
    socket: TcpStream,
    /// What was written and not sent: `kept[sent..]`. Allocated with the first write.
    kept: Vec<u8>,
    sent: usize,
    digest: Arc<SocketDigest>,
}

impl Downstream {
    pub(super) fn new(socket: TcpStream, digest: SocketDigest) -> Self {
        Self { socket, kept: Vec::new(), sent: 0, digest: Arc::new(digest) }
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
            self.advance(count);
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
            self.advance(count.min(kept));
            if count > kept {
                return Poll::Ready(Ok(count - kept));
            }
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buf);
        if read.is_pending() && self.has_kept() {
            // Whoever waits for the client has nothing to add for now. An error shows at the next write.
            let _ = self.poll_send_kept(cx);
        }
        read
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_pieces(cx, &[IoSlice::new(buf)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send_kept(cx)
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

impl Drop for Downstream {
    fn drop(&mut self) {
        if self.has_kept() {
            // An answer that was written but not flushed (Pingora's short error answers) still leaves.
            let _ = self.socket.try_write(&self.kept[self.sent..]);
        }
    }
}

#[async_trait]
impl Shutdown for Downstream {
    async fn shutdown(&mut self) {
        if let Err(error) = AsyncWriteExt::shutdown(self).await {
            log::debug!("closing a client's connection failed: {error}");
        }
    }
}

impl UniqueID for Downstream {
    fn id(&self) -> UniqueIDType {
        self.socket.as_raw_fd()
    }
}

impl Ssl for Downstream {}

impl Peek for Downstream {}

impl GetTimingDigest for Downstream {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        // Asked for with each request; nothing reads it, so nothing is allocated.
        Vec::new()
    }
}

impl GetProxyDigest for Downstream {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        None
    }
}

impl GetSocketDigest for Downstream {
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

    async fn pair() -> (Downstream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (socket, _) = listener.accept().await.unwrap();
        let digest = SocketDigest::from_raw_fd(socket.as_raw_fd());
        (Downstream::new(socket, digest), client)
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
