//! A raw HTTP/1.1 client: it sends the bytes that it is told to, and reports exactly what came back.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::message::{Interim, Request, Response};
use crate::wire::{Body, ResponseHead, Wire};

/// The limit of one operation, unless another one is set.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a body is kept.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// Nothing happened in time.
    #[error("timed out after {0:?} while {1}")]
    Timeout(Duration, &'static str),
    /// The connection was closed before the first byte of an answer.
    #[error("the connection was closed without an answer")]
    Closed,
    /// The connection was reset before the head of an answer was complete.
    #[error("the connection was reset without an answer")]
    Reset,
    /// The head came, the body ended too early: the answer has what came of it.
    #[error("the body of a {} answer was cut after {} bytes ({end:?})", response.status, response.body.len())]
    BodyCut {
        /// The answer with the part of its body that came.
        response: Box<Response>,
        /// How it ended.
        end: End,
    },
    /// What came is not HTTP/1.1.
    #[error("the answer is not HTTP/1.1: {0}")]
    Malformed(String),
    /// Anything else.
    #[error(transparent)]
    Io(io::Error),
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a FIN.
    Closed,
    /// With a reset.
    Reset,
    /// It did not: nothing came in time.
    Silence,
}

/// One connection of a client. Dropping it closes the connection.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    timeout: Duration,
}

/// Sends one GET on a connection of its own.
///
/// # Errors
/// [`ClientError`] when there is no whole answer within ten seconds.
pub async fn get(address: SocketAddr, host: &str, target: &str) -> Result<Response, ClientError> {
    let mut client = Client::connect(address).await?;
    client.send_request(&Request::get(host, target).header("Connection", "close")).await
}

impl Client {
    /// Connects over TCP.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Timeout`] (ten seconds).
    pub async fn connect(address: SocketAddr) -> Result<Self, ClientError> {
        Self::connect_within(address, TIMEOUT).await
    }

    /// Connects over TCP; the time is also the limit of each later operation.
    ///
    /// # Errors
    /// [`ClientError::Connect`] and [`ClientError::Timeout`].
    pub async fn connect_within(address: SocketAddr, within: Duration) -> Result<Self, ClientError> {
        let stream = timeout(within, TcpStream::connect(address))
            .await
            .map_err(|_| ClientError::Timeout(within, "connecting"))?
            .map_err(ClientError::Connect)?;
        Ok(Self { wire: Wire::new(stream), timeout: within })
    }

    /// Connects over a Unix-domain socket.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub async fn connect_unix(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).await.map_err(ClientError::Connect)?;
        Ok(Self { wire: Wire::new(stream), timeout: TIMEOUT })
    }

    /// Sets the limit of each operation (ten seconds without).
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends a GET and reads its answer.
    ///
    /// # Errors
    /// [`ClientError`] when there is no whole answer.
    pub async fn get(&mut self, host: &str, target: &str) -> Result<Response, ClientError> {
        self.send_request(&Request::get(host, target)).await
    }

    /// Sends a whole request, then reads its answer.
    ///
    /// # Errors
    /// [`ClientError`] when there is no whole answer.
    pub async fn send_request(&mut self, request: &Request) -> Result<Response, ClientError> {
        let sent = self.send(&request.to_bytes()).await;
        match (self.read_response(&request.method).await, sent) {
            // Writing failed because nobody reads any more; why nobody does, only reading tells.
            (Err(ClientError::Closed), Err(error)) => Err(error),
            (response, _) => response,
        }
    }

    /// Sends these bytes and nothing else.
    ///
    /// # Errors
    /// [`ClientError::Io`], [`ClientError::Reset`] and [`ClientError::Timeout`].
    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        match timeout(self.timeout, self.wire.write(bytes)).await {
            Ok(written) => written.map_err(without_answer),
            Err(_) => Err(ClientError::Timeout(self.timeout, "sending")),
        }
    }

    /// Says that nothing more will be sent (FIN), and goes on reading.
    ///
    /// # Errors
    /// [`ClientError::Io`].
    pub async fn finish_sending(&mut self) -> Result<(), ClientError> {
        self.wire.stream.shutdown().await.map_err(ClientError::Io)
    }

    /// Reads the head of an answer, after its informational ones. The body is left to [`read_body`](Self::read_body).
    ///
    /// # Errors
    /// [`ClientError`] when there is no whole head.
    pub async fn read_head(&mut self) -> Result<Response, ClientError> {
        let mut interim = Vec::new();
        loop {
            let head = timeout(self.timeout, self.wire.head())
                .await
                .map_err(|_| ClientError::Timeout(self.timeout, "waiting for the head of an answer"))?
                .map_err(without_answer)?
                .ok_or(ClientError::Closed)?;
            let head = ResponseHead::parse(&head).map_err(without_answer)?;
            if (100..200).contains(&head.status) && head.status != 101 {
                interim.push(Interim { status: head.status, headers: head.headers });
                continue;
            }
            return Ok(Response {
                status: head.status,
                reason: head.reason,
                headers: head.headers,
                interim,
                body: Vec::new(),
                trailers: Vec::new(),
            });
        }
    }

    /// Reads the body that belongs to a head; `method` is the request's.
    ///
    /// # Errors
    /// [`ClientError::BodyCut`] with what came, and [`ClientError::Malformed`].
    pub async fn read_body(&mut self, head: Response, method: &str) -> Result<Response, ClientError> {
        let mut response = head;
        let parsed = ResponseHead {
            status: response.status,
            reason: String::new(),
            headers: std::mem::take(&mut response.headers),
        };
        let framing = parsed.framing(method).map_err(without_answer)?;
        response.headers = parsed.headers;
        let mut body = Body::default();
        let outcome = timeout(self.timeout, self.wire.body(framing, BODY_LIMIT, &mut body)).await;
        response.body = body.bytes;
        response.trailers = body.trailers;
        let end = match outcome {
            Ok(Ok(())) => return Ok(response),
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(without_answer(error));
            }
            Ok(Err(error)) if is_reset(&error) => End::Reset,
            Ok(Err(_)) => End::Closed,
            Err(_) => End::Silence,
        };
        Err(ClientError::BodyCut { response: Box::new(response), end })
    }

    /// Reads a whole answer; `method` is the request's.
    ///
    /// # Errors
    /// [`ClientError`] when there is none.
    pub async fn read_response(&mut self, method: &str) -> Result<Response, ClientError> {
        let head = self.read_head().await?;
        self.read_body(head, method).await
    }

    /// Reads whatever comes until the stream ends or the time-out is over.
    pub async fn read_to_end(&mut self) -> (Vec<u8>, End) {
        loop {
            match timeout(self.timeout, self.wire.fill()).await {
                Ok(Ok(0)) => return (self.wire.take_buffered(), End::Closed),
                Ok(Ok(_)) => {}
                Ok(Err(_)) => return (self.wire.take_buffered(), End::Reset),
                Err(_) => return (self.wire.take_buffered(), End::Silence),
            }
        }
    }

    /// Reads at least one byte, and takes all that has come.
    ///
    /// # Errors
    /// [`ClientError::Closed`], [`ClientError::Reset`] and [`ClientError::Timeout`].
    pub async fn read_some(&mut self) -> Result<Vec<u8>, ClientError> {
        if !self.wire.has_buffered() {
            let read = timeout(self.timeout, self.wire.fill())
                .await
                .map_err(|_| ClientError::Timeout(self.timeout, "waiting for a byte"))?
                .map_err(without_answer)?;
            if read == 0 {
                return Err(ClientError::Closed);
            }
        }
        Ok(self.wire.take_buffered())
    }

    /// Ends the connection with a reset.
    pub fn reset(self) {
        self.wire.stream.reset_on_close();
    }
}

fn without_answer(error: io::Error) -> ClientError {
    match error.kind() {
        io::ErrorKind::InvalidData => ClientError::Malformed(error.to_string()),
        io::ErrorKind::UnexpectedEof => ClientError::Closed,
        _ if is_reset(&error) => ClientError::Reset,
        _ => ClientError::Io(error),
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
