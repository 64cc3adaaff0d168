//! Requests and answers as the client writes and reads them.

use crate::wire::{Headers, has_token, values};

/// An informational answer that preceded the real one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interim {
    /// From 100 to 199.
    pub status: u16,
    /// Names and values as they came.
    pub headers: Vec<(String, String)>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// Names and values as they came.
    pub headers: Vec<(String, String)>,
    /// Informational answers that preceded it.
    pub interim: Vec<Interim>,
    /// The body without its framing, at most its first 64 MiB.
    pub body: Vec<u8>,
    /// Trailers of a chunked body.
    pub trailers: Vec<(String, String)>,
}

impl Response {
    /// Whether the connection may be used again, as far as this answer says.
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        !has_token(&self.headers, "connection", "close")
    }

    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        values(&self.headers, name).next()
    }

    /// All values of a header, whatever the case of its name.
    #[must_use]
    pub fn header_values(&self, name: &str) -> Vec<&str> {
        values(&self.headers, name).collect()
    }

    /// The body as text; what is not UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, if it is JSON.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The name of the backend that answered: `.pod` of the JSON body.
    #[must_use]
    pub fn pod(&self) -> Option<String> {
        self.json()?.get("pod")?.as_str().map(str::to_owned)
    }
}

/// A request in the making.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: String,
    target: String,
    headers: Headers,
    body: Vec<u8>,
    chunked: bool,
}

impl Request {
    /// A request with this method, Host and target (path and query).
    #[must_use]
    pub fn new(method: &str, host: &str, target: &str) -> Self {
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers: vec![("Host".to_owned(), host.to_owned())],
            body: Vec::new(),
            chunked: false,
        }
    }

    /// A GET.
    #[must_use]
    pub fn get(host: &str, target: &str) -> Self {
        Self::new("GET", host, target)
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets a body, sent with its length.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.chunked = false;
        self
    }

    /// Sets a body, sent in chunks of at most 8 KiB.
    #[must_use]
    pub fn chunked_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.chunked = true;
        self
    }

    /// The request as it goes over the wire.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.chunked {
            head.push_str("Transfer-Encoding: chunked\r\n");
        } else if !self.body.is_empty() || matches!(self.method.as_str(), "POST" | "PUT" | "PATCH") {
            head.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        if self.chunked {
            for chunk in self.body.chunks(8 * 1024) {
                bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                bytes.extend_from_slice(chunk);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
        } else {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}
