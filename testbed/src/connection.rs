//! One connection of a backend, from its first request to its end.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};

use crate::behaviour::{Answer, Behaviour, Content, Ending};
use crate::echo;
use crate::shared::{Shared, Stop, StopSignal};
use crate::stream::Stream;
use crate::wire::{Body, Framing, RequestHead, Wire, has_token};

/// How much of a request's body is kept.
const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// Between the last byte before a deliberate cut and the cut, so that the other side has read the bytes.
const BEFORE_CUT: Duration = Duration::from_millis(20);
/// How long an unread body is drained after an early answer, so that the answer is not lost to a reset.
const DRAIN: Duration = Duration::from_secs(2);

/// What becomes of the connection after a request.
enum Next {
    /// It takes another one.
    KeepAlive,
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// It stays open and silent.
    Silence,
}

/// A connection with its number.
pub(crate) struct Connection {
    wire: Wire,
    number: u64,
    /// A request has arrived that is not answered yet.
    under_way: bool,
}

impl Connection {
    pub(crate) fn new(stream: Stream, number: u64) -> Self {
        Self { wire: Wire::new(stream), number, under_way: false }
    }

    /// Serves until either side ends the connection, or `stop` does.
    pub(crate) async fn serve(mut self, shared: &Shared, mut stop: StopSignal) {
        let mut kill = stop.clone();
        let reset = tokio::select! {
            biased;
            () = kill.at_least(Stop::Kill) => {
                if self.under_way || self.wire.has_buffered() || self.wire.stream.has_arrived() {
                    shared.observe(|seen| seen.cut += 1);
                }
                true
            }
            reset = self.requests(shared, &mut stop) => reset,
        };
        if reset {
            self.wire.stream.reset_on_close();
        }
    }

    /// Serves one request after the other; true when the connection must end with a reset.
    async fn requests(&mut self, shared: &Shared, stop: &mut StopSignal) -> bool {
        for served in 0u64.. {
            let idle = tokio::select! {
                // A request that has arrived is served: closing on it would be a reset.
                biased;
                head = self.wire.head() => Some(head),
                () = stop.at_least(Stop::Drain), if !self.wire.has_buffered() => None,
            };
            let head = match idle {
                Some(head) => head,
                None if self.wire.stream.has_arrived() => self.wire.head().await,
                None => return false,
            };
            let head = match head {
                Ok(Some(head)) => head,
                Ok(None) | Err(_) => {
                    if served == 0 && !self.wire.has_buffered() {
                        shared.observe(|seen| seen.probes += 1);
                    }
                    return false;
                }
            };
            self.under_way = true;
            let next = self.request(&head, shared, stop).await;
            self.under_way = matches!(next, Ok(Next::Silence));
            match next {
                Ok(Next::KeepAlive) => {}
                Ok(Next::Close) | Err(_) => return false,
                Ok(Next::Reset) => return true,
                Ok(Next::Silence) => {
                    // Reading on is how the other side's giving up is seen.
                    while !matches!(self.wire.fill().await, Ok(0) | Err(_)) {
                        self.wire.take_buffered();
                    }
                    return false;
                }
            }
        }
        false
    }

    async fn request(&mut self, head: &[u8], shared: &Shared, stop: &StopSignal) -> io::Result<Next> {
        let head = match RequestHead::parse(head) {
            Ok(head) => head,
            Err(error) => {
                self.wire.write(refusal(&error).as_bytes()).await?;
                return Ok(Next::Close);
            }
        };
        // The behaviour is fixed before the request can be seen in the counts: who waits for the count and
        // then changes the behaviour changes it for later requests only.
        let behaviour = shared.next_behaviour();
        shared.observe(|seen| seen.record(self.number, &head));
        let answer = match behaviour {
            Behaviour::Echo => Answer::status(200),
            Behaviour::Status(status) => Answer::status(status),
            Behaviour::Answer(answer) => answer,
            Behaviour::RequestBody => Answer::status(200).content(Content::RequestBody),
            Behaviour::ResetMidBody => Answer::status(200).ending(Ending::Reset),
            Behaviour::CloseMidBody => Answer::status(200).ending(Ending::Close),
            Behaviour::StallMidBody => Answer::status(200).ending(Ending::Stall),
            Behaviour::SlowBody { piece, pause } => Answer::status(200).ending(Ending::Slow { piece, pause }),
            Behaviour::Hang => {
                self.read_body(&head).await?;
                return Ok(Next::Silence);
            }
            Behaviour::ResetBeforeHeaders => {
                self.read_body(&head).await?;
                return Ok(Next::Reset);
            }
            Behaviour::CloseBeforeHeaders => {
                self.read_body(&head).await?;
                return Ok(Next::Close);
            }
            Behaviour::Garbage(bytes) => {
                self.read_body(&head).await?;
                self.wire.write(&bytes).await?;
                return Ok(Next::Close);
            }
        };
        let next = self.answer(&head, &answer, shared, stop).await?;
        if matches!(next, Next::KeepAlive | Next::Close) && answer.ending != Ending::Close {
            shared.observe(|seen| seen.answers += 1);
        }
        Ok(next)
    }

    async fn read_body(&mut self, head: &RequestHead) -> io::Result<Vec<u8>> {
        let framing = head.framing()?;
        if framing != Framing::Empty && has_token(&head.headers, "expect", "100-continue") {
            self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut body = Body::default();
        self.wire.body(framing, BODY_LIMIT, &mut body).await?;
        Ok(body.bytes)
    }

    async fn answer(
        &mut self,
        head: &RequestHead,
        answer: &Answer,
        shared: &Shared,
        stop: &StopSignal,
    ) -> io::Result<Next> {
        if answer.upgrade
            && let Some((_, protocol)) =
                head.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("upgrade"))
        {
            return self.echo(protocol, shared).await;
        }
        let request_body = if answer.early { Vec::new() } else { self.read_body(head).await? };
        for (status, headers) in &answer.interim {
            self.wire.write(status_and_headers(*status, headers).as_bytes()).await?;
        }
        sleep(answer.delay).await;
        let content = match &answer.content {
            Content::Echo => echo::describe(head, shared.name()),
            Content::Bytes(bytes) => bytes.clone(),
            Content::Size(size) => vec![b'x'; *size],
            Content::RequestBody => request_body,
        };
        let unread = answer.early && head.framing()? != Framing::Empty;
        let keep_alive = head.keeps_alive() && !answer.close && !unread && !stop.is_at_least(Stop::Drain);
        self.wire.write(response_head(answer, content.len(), keep_alive, shared).as_bytes()).await?;
        let has_body = head.method != "HEAD" && !matches!(answer.status, 204 | 304);
        if has_body && let Some(cut) = self.content(answer, &content).await? {
            return Ok(cut);
        }
        if unread {
            self.drain().await;
        }
        Ok(if keep_alive { Next::KeepAlive } else { Next::Close })
    }

    /// Writes a body; what follows is `Some` where the body is cut.
    async fn content(&mut self, answer: &Answer, content: &[u8]) -> io::Result<Option<Next>> {
        let half = &content[..content.len() / 2];
        let cut = match answer.ending {
            Ending::Whole => {
                self.piece(answer, content).await?;
                None
            }
            Ending::Slow { piece, pause } => {
                for piece in content.chunks(piece.max(1)) {
                    sleep(pause).await;
                    self.piece(answer, piece).await?;
                }
                None
            }
            Ending::Reset => Some(Next::Reset),
            Ending::Close => Some(Next::Close),
            Ending::Stall => Some(Next::Silence),
        };
        if cut.is_some() {
            self.piece(answer, half).await?;
            sleep(BEFORE_CUT).await;
        } else if answer.chunked {
            self.wire.write(b"0\r\n\r\n").await?;
        }
        Ok(cut)
    }

    async fn piece(&mut self, answer: &Answer, piece: &[u8]) -> io::Result<()> {
        if !answer.chunked {
            return self.wire.write(piece).await;
        }
        if piece.is_empty() {
            return Ok(());
        }
        let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
        chunk.extend_from_slice(piece);
        chunk.extend_from_slice(b"\r\n");
        self.wire.write(&chunk).await
    }

    /// Sends back every byte until the other side ends the connection.
    async fn echo(&mut self, protocol: &str, shared: &Shared) -> io::Result<Next> {
        let name = shared.name().to_owned();
        let headers = [
            ("connection".to_owned(), "upgrade".to_owned()),
            ("upgrade".to_owned(), protocol.to_owned()),
            ("x-backend".to_owned(), name),
        ];
        self.wire.write(status_and_headers(101, &headers).as_bytes()).await?;
        while self.wire.has_buffered() || self.wire.fill().await? > 0 {
            let bytes = self.wire.take_buffered();
            self.wire.write(&bytes).await?;
        }
        Ok(Next::Close)
    }

    async fn drain(&mut self) {
        if self.wire.stream.shutdown().await.is_err() {
            return;
        }
        let all = async {
            while !matches!(self.wire.fill().await, Ok(0) | Err(_)) {
                self.wire.take_buffered();
            }
        };
        // Time out or not: then it is closed.
        let _ = timeout(DRAIN, all).await;
    }
}

fn response_head(answer: &Answer, length: usize, keep_alive: bool, shared: &Shared) -> String {
    let mut headers = vec![("x-backend".to_owned(), shared.name().to_owned())];
    if let Some(generation) = shared.generation() {
        headers.push(("x-backend-generation".to_owned(), generation));
    }
    let given = |name: &str| answer.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    if answer.content == Content::Echo && !given("content-type") {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    if answer.chunked {
        headers.push(("transfer-encoding".to_owned(), "chunked".to_owned()));
    } else if answer.status != 204 && !given("content-length") {
        headers.push(("content-length".to_owned(), length.to_string()));
    }
    if !keep_alive {
        headers.push(("connection".to_owned(), "close".to_owned()));
    }
    headers.extend(answer.headers.iter().cloned());
    status_and_headers(answer.status, &headers)
}

fn status_and_headers(status: u16, headers: &[(String, String)]) -> String {
    let mut text = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text
}

fn refusal(error: &io::Error) -> String {
    let text = format!("{error}\n");
    format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len())
}

fn reason(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        103 => "Early Hints",
        200 => "OK",
        204 => "No Content",
        304 => "Not Modified",
        400 => "Bad Request",
        404 => "Not Found",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
