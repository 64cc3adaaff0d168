//! A client of HTTP/2 in clear text with prior knowledge, for requests and for calls of gRPC.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::h2_backend::send;

/// How long anything may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum H2Error {
    /// No connection.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The stream or the connection broke.
    #[error(transparent)]
    Broken(#[from] h2::Error),
    /// Nothing came.
    #[error("nothing came within {0:?}")]
    Timeout(Duration),
    /// The request cannot be said.
    #[error(transparent)]
    Request(#[from] http::Error),
}

impl H2Error {
    /// Why the stream was reset, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Broken(error) => error.reason(),
            _ => None,
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct H2Response {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
    /// The trailers; empty where there are none.
    pub trailers: HeaderMap,
}

impl H2Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The status of gRPC, wherever it stands.
    #[must_use]
    pub fn grpc_status(&self) -> Option<u16> {
        let status = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?;
        status.to_str().ok()?.parse().ok()
    }

    /// The backend that answered.
    #[must_use]
    pub fn backend(&self) -> Option<&str> {
        self.headers.get("x-backend")?.to_str().ok()
    }
}

/// A connection.
#[derive(Debug)]
pub struct H2Client {
    send: SendRequest<Bytes>,
    driver: JoinHandle<()>,
    host: String,
}

impl H2Client {
    /// Connects; requests are for this host.
    ///
    /// # Errors
    /// [`H2Error`] if there is no connection.
    pub async fn connect(address: SocketAddr, host: impl Into<String>) -> Result<Self, H2Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // A test may leave as much unread as the windows allow.
        let mut builder = h2::client::Builder::new();
        let (send, connection) = builder.data_frame_budget(usize::MAX).handshake(stream).await?;
        let driver = tokio::spawn(async move {
            // Each stream is told what broke.
            let _ = connection.await;
        });
        Ok(Self { send, driver, host: host.into() })
    }

    /// Whether the connection stands.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.driver.is_finished()
    }

    /// Waits until the other side has ended the connection; false if it did not.
    pub async fn wait_closed(&mut self, within: Duration) -> bool {
        timeout(within, &mut self.driver).await.is_ok()
    }

    /// Begins a request; its body and its answer are the caller's.
    ///
    /// # Errors
    /// [`H2Error`] if the connection takes no request.
    pub async fn begin(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        ended: bool,
    ) -> Result<H2Call, H2Error> {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.host));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut send = self.send.clone().ready().await?;
        let (response, body) = send.send_request(request.body(())?, ended)?;
        Ok(H2Call { response: Some(response), sending: body, head: None, receiving: None })
    }

    /// Gets a path.
    ///
    /// # Errors
    /// [`H2Error`] if there is no whole answer.
    pub async fn get(&self, path: &str) -> Result<H2Response, H2Error> {
        self.begin(Method::GET, path, &[], true).await?.finish().await
    }

    /// Posts a body.
    ///
    /// # Errors
    /// [`H2Error`] if there is no whole answer.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Result<H2Response, H2Error> {
        let mut call = self.begin(Method::POST, path, &[], false).await?;
        // Whoever answers early may take no more of it; the answer counts.
        let _ = call.send(body.into(), true).await;
        call.finish().await
    }

    /// Calls a method of gRPC with one message.
    ///
    /// # Errors
    /// [`H2Error`] if there is no whole answer.
    pub async fn call(&self, path: &str, message: &[u8]) -> Result<H2Response, H2Error> {
        let mut call = self.stream(path).await?;
        let _ = call.send(grpc_message(message), true).await;
        call.finish().await
    }

    /// Begins a call of gRPC whose messages the caller sends.
    ///
    /// # Errors
    /// [`H2Error`] if the connection takes no request.
    pub async fn stream(&self, path: &str) -> Result<H2Call, H2Error> {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        self.begin(Method::POST, path, &headers, false).await
    }
}

impl Drop for H2Client {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A request under way.
#[derive(Debug)]
pub struct H2Call {
    response: Option<ResponseFuture>,
    sending: SendStream<Bytes>,
    head: Option<(u16, HeaderMap)>,
    receiving: Option<RecvStream>,
}

impl H2Call {
    /// Sends a piece of the body, as fast as it is taken.
    ///
    /// # Errors
    /// [`H2Error`] if it is not taken.
    pub async fn send(&mut self, piece: Bytes, ended: bool) -> Result<(), H2Error> {
        timeout(TIMEOUT, send(&mut self.sending, piece)).await.map_err(|_| H2Error::Timeout(TIMEOUT))??;
        if ended {
            self.sending.send_data(Bytes::new(), true)?;
        }
        Ok(())
    }

    /// Sends trailers, which ends the request.
    ///
    /// # Errors
    /// [`H2Error`] if they are not taken.
    pub fn send_trailers(&mut self, trailers: HeaderMap) -> Result<(), H2Error> {
        Ok(self.sending.send_trailers(trailers)?)
    }

    /// Gives the request up.
    pub fn reset(&mut self) {
        self.sending.send_reset(Reason::CANCEL);
    }

    /// Waits for the headers of the answer; the status.
    ///
    /// # Errors
    /// [`H2Error`] if none come.
    pub async fn head(&mut self) -> Result<u16, H2Error> {
        if let Some(response) = self.response.take() {
            let response = timeout(TIMEOUT, response).await.map_err(|_| H2Error::Timeout(TIMEOUT))??;
            let (parts, body) = response.into_parts();
            self.head = Some((parts.status.as_u16(), parts.headers));
            self.receiving = Some(body);
        }
        Ok(self.head.as_ref().map_or(0, |(status, _)| *status))
    }

    /// The next piece of the answer's body; `None` at its end.
    ///
    /// # Errors
    /// [`H2Error`] if it breaks.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, H2Error> {
        self.head().await?;
        let Some(body) = &mut self.receiving else { return Ok(None) };
        let piece = timeout(TIMEOUT, body.data()).await.map_err(|_| H2Error::Timeout(TIMEOUT))?;
        let Some(piece) = piece.transpose()? else { return Ok(None) };
        body.flow_control().release_capacity(piece.len())?;
        Ok(Some(piece))
    }

    /// Reads the rest of the answer.
    ///
    /// # Errors
    /// [`H2Error`] if it breaks.
    pub async fn finish(mut self) -> Result<H2Response, H2Error> {
        let mut read = Vec::new();
        while let Some(piece) = self.piece().await? {
            read.extend_from_slice(&piece);
        }
        let trailers = match &mut self.receiving {
            Some(body) => {
                timeout(TIMEOUT, body.trailers()).await.map_err(|_| H2Error::Timeout(TIMEOUT))??
            }
            None => None,
        };
        let (status, headers) = self.head.take().unwrap_or_default();
        Ok(H2Response { status, headers, body: read, trailers: trailers.unwrap_or_default() })
    }
}

/// A message of gRPC with its prefix.
#[must_use]
pub fn grpc_message(content: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(content.len() + 5);
    message.put_u8(0);
    message.put_u32(u32::try_from(content.len()).unwrap_or(u32::MAX));
    message.put_slice(content);
    message.freeze()
}
