//! One request and its answer. The connection ends with it.

use std::time::Duration;

use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A request's head may have this many bytes.
const LARGEST_HEAD: usize = 8 * 1024;

/// A client gets this long for its request, and again for reading the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn text(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{text}\n").into() }
    }

    pub(super) fn json<T: Serialize>(value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Self { status: 200, content_type: "application/json", body }
            }
            Err(error) => Self::text(500, &error.to_string()),
        }
    }
}

/// A request, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
enum Request {
    Get { path: String },
    Head { path: String },
    Other,
    Malformed,
}

/// Reads a request, answers it with what `answer` says about its path, and closes.
pub(super) async fn exchange(mut stream: TcpStream, answer: impl Fn(&str) -> Answer) {
    let request = match timeout(PATIENCE, read_request(&mut stream)).await {
        Ok(Some(request)) => request,
        // Silence or the end: there is nobody to answer.
        Ok(None) | Err(_) => return,
    };
    let (answer, with_body) = match &request {
        Request::Get { path } => (answer(path), true),
        Request::Head { path } => (answer(path), false),
        Request::Other => (Answer::text(405, "only GET is allowed here"), true),
        Request::Malformed => {
            (Answer::text(400, "this is no HTTP request, or one with too many headers"), true)
        }
    };
    let bytes = write_answer(&answer, with_body);
    // A client that is gone or does not read gets no more than this.
    let _ = timeout(PATIENCE, async {
        stream.write_all(&bytes).await?;
        stream.shutdown().await
    })
    .await;
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await.ok()? == 0 {
            return None;
        }
        if let Some(request) = parse(&head) {
            return Some(request);
        }
        if head.len() > LARGEST_HEAD {
            return Some(Request::Malformed);
        }
    }
}

/// `None` while the head is not complete.
fn parse(head: &[u8]) -> Option<Request> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Partial) => return None,
        Ok(httparse::Status::Complete(_)) => {}
        Err(_) => return Some(Request::Malformed),
    }
    let path = request.path.unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    Some(match request.method {
        Some("GET") => Request::Get { path },
        Some("HEAD") => Request::Head { path },
        _ => Request::Other,
    })
}

fn write_answer(answer: &Answer, with_body: bool) -> Vec<u8> {
    let reason = match answer.status {
        200 => "OK",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    let allow = if answer.status == 405 { "allow: GET, HEAD\r\n" } else { "" };
    let mut bytes = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: {}\r\ncontent-length: {}\r\n{allow}connection: close\r\n\r\n",
        answer.status,
        answer.content_type,
        answer.body.len()
    )
    .into_bytes();
    if with_body {
        bytes.extend_from_slice(&answer.body);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_head_is_read_when_it_is_complete() {
        let whole = b"GET /ready?x=1 HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), None);
        }
        assert_eq!(parse(whole), Some(Request::Get { path: "/ready".into() }));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            // What it says does not matter here; that it returns does.
            let _ = parse(&bytes);
        }
    }
}
