//! Reading HTTP/1.1 messages from a stream: heads, and bodies in every framing.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::stream::Stream;

/// The longest head that is read.
const HEAD_LIMIT: usize = 64 * 1024;
/// The longest line of chunk framing that is read.
const LINE_LIMIT: usize = 8 * 1024;
/// The most headers that a head may have.
const HEADERS_LIMIT: usize = 128;

/// Names and values as they came.
pub(crate) type Headers = Vec<(String, String)>;

/// A stream with the bytes that were read too early.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: Stream,
    buffer: Vec<u8>,
}

/// How the length of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All until the end of the stream.
    UntilClose,
}

/// A body that was read, as far as it came.
#[derive(Debug, Default)]
pub(crate) struct Body {
    /// The first bytes, up to the limit that was asked for.
    pub(crate) bytes: Vec<u8>,
    /// Length of the whole.
    pub(crate) length: u64,
    /// Trailers of a chunked body.
    pub(crate) trailers: Headers,
}

impl Body {
    fn push(&mut self, piece: &[u8], keep: usize) {
        self.length += piece.len() as u64;
        let room = keep.saturating_sub(self.bytes.len()).min(piece.len());
        self.bytes.extend_from_slice(&piece[..room]);
    }
}

impl Wire {
    pub(crate) fn new(stream: impl Into<Stream>) -> Self {
        Self { stream: stream.into(), buffer: Vec::new() }
    }

    /// Whether bytes have been read that belong to nothing yet.
    pub(crate) fn has_buffered(&self) -> bool {
        !self.buffer.is_empty()
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// Reads a head with its empty line; `None` when the stream ends before its first byte.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut searched = 0;
        loop {
            if let Some(at) = find(&self.buffer[searched..], b"\r\n\r\n") {
                let rest = self.buffer.split_off(searched + at + 4);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            searched = self.buffer.len().saturating_sub(3);
            if self.buffer.len() > HEAD_LIMIT {
                return Err(malformed(format!("a head of more than {HEAD_LIMIT} bytes")));
            }
            if self.fill().await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(cut()) };
            }
        }
    }

    /// Reads a body into `body`, which keeps at most `keep` bytes of it. On an error `body` has what came.
    pub(crate) async fn body(&mut self, framing: Framing, keep: usize, body: &mut Body) -> io::Result<()> {
        match framing {
            Framing::Empty => Ok(()),
            Framing::Length(length) => self.exactly(length, keep, body).await,
            Framing::Chunked => loop {
                let line = self.line().await?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size = u64::from_str_radix(digits, 16)
                    .map_err(|_| malformed(format!("chunk size {digits:?} is not hexadecimal")))?;
                if size == 0 {
                    return self.trailers(body).await;
                }
                self.exactly(size, keep, body).await?;
                if !self.line().await?.is_empty() {
                    return Err(malformed("a chunk longer than its size".to_owned()));
                }
            },
            Framing::UntilClose => loop {
                body.push(&self.buffer, keep);
                self.buffer.clear();
                if self.fill().await? == 0 {
                    return Ok(());
                }
            },
        }
    }

    async fn exactly(&mut self, length: u64, keep: usize, body: &mut Body) -> io::Result<()> {
        let mut missing = length;
        while missing > 0 {
            if self.buffer.is_empty() && self.fill().await? == 0 {
                return Err(cut());
            }
            let take = usize::try_from(missing).unwrap_or(usize::MAX).min(self.buffer.len());
            body.push(&self.buffer[..take], keep);
            self.buffer.drain(..take);
            missing -= take as u64;
        }
        Ok(())
    }

    async fn trailers(&mut self, body: &mut Body) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(());
            }
            if body.trailers.len() == HEADERS_LIMIT {
                return Err(malformed(format!("more than {HEADERS_LIMIT} trailers")));
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| malformed(format!("trailer {line:?} without a colon")))?;
            body.trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..at]).into_owned();
                self.buffer.drain(..at + 2);
                return Ok(line);
            }
            if self.buffer.len() > LINE_LIMIT {
                return Err(malformed(format!("a line of more than {LINE_LIMIT} bytes")));
            }
            if self.fill().await? == 0 {
                return Err(cut());
            }
        }
    }

    /// Reads what is there; 0 at the end of the stream.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(16 * 1024);
        self.stream.read_buf(&mut self.buffer).await
    }

    /// Takes everything that was read and not used.
    pub(crate) fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }
}

/// The head of a request.
#[derive(Debug, Clone)]
pub(crate) struct RequestHead {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) minor: u8,
    pub(crate) headers: Headers,
}

impl RequestHead {
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
        let mut request = httparse::Request::new(&mut headers);
        request.parse(bytes).map_err(|error| malformed(format!("request head: {error}")))?;
        Ok(Self {
            method: request.method.unwrap_or_default().to_owned(),
            target: request.path.unwrap_or_default().to_owned(),
            minor: request.version.unwrap_or_default(),
            headers: owned(request.headers),
        })
    }

    pub(crate) fn framing(&self) -> io::Result<Framing> {
        Ok(framing(&self.headers)?.unwrap_or(Framing::Empty))
    }

    pub(crate) fn keeps_alive(&self) -> bool {
        !has_token(&self.headers, "connection", "close")
            && (self.minor == 1 || has_token(&self.headers, "connection", "keep-alive"))
    }
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) reason: String,
    pub(crate) headers: Headers,
}

impl ResponseHead {
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_LIMIT];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(bytes).map_err(|error| malformed(format!("response head: {error}")))?;
        Ok(Self {
            status: response.code.unwrap_or_default(),
            reason: response.reason.unwrap_or_default().to_owned(),
            headers: owned(response.headers),
        })
    }

    /// The framing of this answer's body, when it answers a request with this method.
    pub(crate) fn framing(&self, method: &str) -> io::Result<Framing> {
        if method == "HEAD" || self.status < 200 || self.status == 204 || self.status == 304 {
            return Ok(Framing::Empty);
        }
        Ok(framing(&self.headers)?.unwrap_or(Framing::UntilClose))
    }
}

/// The values of a header, whatever the case of its name.
pub(crate) fn values<'a>(headers: &'a [(String, String)], name: &str) -> impl Iterator<Item = &'a str> {
    headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether a list-valued header has a token.
pub(crate) fn has_token(headers: &[(String, String)], name: &str, token: &str) -> bool {
    values(headers, name)
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn framing(headers: &[(String, String)]) -> io::Result<Option<Framing>> {
    if has_token(headers, "transfer-encoding", "chunked") {
        return Ok(Some(Framing::Chunked));
    }
    values(headers, "content-length")
        .next()
        .map(|value| {
            let length = value
                .trim()
                .parse()
                .map_err(|_| malformed(format!("content-length {value:?} is no number")))?;
            Ok(Framing::Length(length))
        })
        .transpose()
}

fn owned(headers: &[httparse::Header<'_>]) -> Headers {
    headers.iter().map(|h| (h.name.to_owned(), String::from_utf8_lossy(h.value).into_owned())).collect()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the stream ended in the middle of a message")
}

fn malformed(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
