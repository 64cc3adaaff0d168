//! Requests to a gateway over HTTP/1.1, and who answered them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

const CONNECT: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(20);
const MAX_HEADERS: usize = 64;

/// Where requests go, and what they ask for.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// The gateway's address.
    pub(crate) address: SocketAddr,
    /// The Host header.
    pub(crate) host: String,
    /// The path.
    pub(crate) path: String,
}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Response {
    /// Its status.
    pub(crate) status: u16,
    /// Its body.
    pub(crate) body: Vec<u8>,
    /// Whether the other side ends the connection.
    pub(crate) last: bool,
}

/// What of a response tells who answered.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Its status.
    pub(crate) status: u16,
    /// The pod that the echo backend says it is; empty if nobody says so.
    pub(crate) pod: String,
    /// Whether the other side ends the connection.
    pub(crate) last: bool,
}

impl Target {
    /// One request on a connection of its own.
    pub(crate) fn ask(&self) -> Result<Answer> {
        Connection::open(self.address)?.ask(self, true)
    }

    /// Several requests, one after the other, each on a connection of its own: the pod that answered, or how it failed.
    pub(crate) fn ask_times(&self, times: usize) -> Vec<Result<String, String>> {
        (0..times)
            .map(|_| match self.ask() {
                Ok(Answer { status: 200, pod, .. }) => Ok(pod),
                Ok(answer) => Err(format!("status {}", answer.status)),
                Err(error) => Err(format!("{error:#}")),
            })
            .collect()
    }
}

/// A connection to a gateway.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub(crate) fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT).context("connecting")?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends a request and reads who answers.
    pub(crate) fn ask(&mut self, target: &Target, last: bool) -> Result<Answer> {
        let connection = if last { "close" } else { "keep-alive" };
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nConnection: {connection}\r\n\r\n",
            target.path, target.host
        );
        let response = self.exchange(request.as_bytes())?;
        let said: Value = serde_json::from_slice(&response.body).unwrap_or_default();
        let pod = said["pod"].as_str().unwrap_or_default().to_owned();
        Ok(Answer { status: response.status, pod, last: response.last })
    }

    /// Sends a request as it is and reads the whole response.
    pub(crate) fn exchange(&mut self, request: &[u8]) -> Result<Response> {
        self.stream.get_mut().write_all(request).context("sending")?;
        let head = self.head().context("reading the head of a response")?;
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).context("parsing a response")?;
        let header = |name: &str| {
            let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
            found.map(|header| String::from_utf8_lossy(header.value).to_lowercase())
        };
        let last = header("connection").is_some_and(|value| value.contains("close"));
        let body = if header("transfer-encoding").is_some_and(|value| value.contains("chunked")) {
            self.chunks()
        } else {
            let length = header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            self.exactly(length)
        };
        let body = body.context("reading the body of a response")?;
        Ok(Response { status: response.code.unwrap_or_default(), body, last })
    }

    fn head(&mut self) -> Result<Vec<u8>> {
        let mut head = Vec::new();
        loop {
            let before = head.len();
            self.stream.read_until(b'\n', &mut head)?;
            match &head[before..] {
                [] => bail!("the connection ended after {before} bytes"),
                b"\r\n" | b"\n" => return Ok(head),
                _ => {}
            }
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let size = line.trim().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).with_context(|| format!("chunk size {size:?}"))?;
            body.extend(self.exactly(size)?);
            self.stream.read_line(&mut line)?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn exactly(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection with one text, after it has read a request.
    fn answering(text: &'static str) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut line = String::new();
                while stream.read_line(&mut line).unwrap() > 2 {
                    line.clear();
                }
                stream.get_mut().write_all(text.as_bytes()).unwrap();
            }
        });
        Target { address, host: "h".to_owned(), path: "/".to_owned() }
    }

    #[test]
    fn the_pod_is_read_from_bodies_with_a_length_and_in_chunks() {
        for text in [
            "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"pod\":\"a\"}",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"po\r\n7\r\nd\":\"a\"}\r\n0\r\n\r\n",
        ] {
            assert_eq!(answering(text).ask_times(2), [Ok("a".to_owned()), Ok("a".to_owned())]);
        }
    }

    #[test]
    fn what_is_not_a_good_answer_is_told() {
        let refused = answering("HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert!(refused.ask().unwrap().last);
        assert_eq!(refused.ask_times(1), [Err("status 503".to_owned())]);
        let short = answering("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").ask_times(1);
        assert!(short[0].as_ref().unwrap_err().contains("body"), "{short:?}");
        let silent = answering("").ask_times(1);
        assert!(silent[0].as_ref().unwrap_err().contains("ended after 0 bytes"), "{silent:?}");
    }
}
