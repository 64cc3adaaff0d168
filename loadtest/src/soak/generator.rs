//! An open-loop load over connections that stay open: requests go out when they are due, whatever became of those
//! before, and every byte of an answer is compared with what it must be.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::content::{ID, PATH, POOL, Pool, body, number};
use super::tally::{Outcome, Tally};
use crate::wrk::HOST;

/// How often due requests are looked for.
const TICK: Duration = Duration::from_millis(1);
/// Connections, always the same number: were there more when requests wait, the gateway's memory would grow with them.
const CONNECTIONS: usize = 256;
/// So many seconds' worth of requests may wait for a connection.
const BACKLOG: u64 = 3;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer.
const ANSWER_LIMIT: usize = 64 * 1024;

/// Sends so many requests a second for this time, or until `stop`, and waits for the last answers.
///
/// # Errors
/// When the system gives no runtime.
pub(crate) fn run(gateway: SocketAddr, rate: u64, length: Duration, stop: &AtomicBool) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = LocalSet::new().block_on(&runtime, generate(gateway, rate, length, stop));
    Ok(tally)
}

/// A request that is due.
#[derive(Clone, Copy)]
struct Ticket {
    id: u64,
    due: Instant,
}

/// What the connections share.
struct Shared {
    gateway: SocketAddr,
    waiting: RefCell<VecDeque<Ticket>>,
    /// A ticket has come, or the end.
    wake: Notify,
    ended: Cell<bool>,
    tally: RefCell<Tally>,
}

async fn generate(gateway: SocketAddr, rate: u64, length: Duration, stop: &AtomicBool) -> Tally {
    let shared = Rc::new(Shared {
        gateway,
        waiting: RefCell::default(),
        wake: Notify::new(),
        ended: Cell::new(false),
        tally: RefCell::default(),
    });
    let mut connections = JoinSet::new();
    for _ in 0..CONNECTIONS {
        connections.spawn_local(connection(shared.clone()));
    }
    let start = Instant::now();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let total = (length.as_secs_f64() * rate as f64) as u64;
    // 0 is nobody's number.
    let mut next = 1;
    while next <= total && !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let elapsed = start.elapsed();
        let due = ((elapsed.as_secs_f64() * rate as f64) as u64).min(total);
        while next <= due {
            let at = start + Duration::from_secs_f64((next - 1) as f64 / rate as f64);
            shared.offer(Ticket { id: next, due: at }, rate);
            next += 1;
        }
    }
    shared.ended.set(true);
    shared.wake.notify_waiters();
    while connections.join_next().await.is_some() {}
    let mut tally = shared.tally.take();
    (tally.connections, tally.took) = (CONNECTIONS, start.elapsed());
    tally
}

impl Shared {
    /// Puts a ticket into the queue, unless that is full.
    fn offer(&self, ticket: Ticket, rate: u64) {
        let mut tally = self.tally.borrow_mut();
        tally.due += 1;
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() as u64 >= rate * BACKLOG {
            tally.unsent += 1;
            return;
        }
        waiting.push_back(ticket);
        self.wake.notify_one();
    }

    /// The next ticket; `None` at the end.
    async fn next(&self) -> Option<Ticket> {
        loop {
            // Registered before the look, so that no end is missed.
            let woken = self.wake.notified();
            if let Some(ticket) = self.waiting.borrow_mut().pop_front() {
                return Some(ticket);
            }
            if self.ended.get() {
                return None;
            }
            woken.await;
        }
    }
}

async fn connection(shared: Rc<Shared>) {
    // Before its first request is due; if it fails, the request tries again.
    let stream = connect(shared.gateway).await.ok();
    let mut exchange = Exchange { stream, ..Exchange::default() };
    while let Some(ticket) = shared.next().await {
        let outcome = match timeout(PATIENCE, exchange.request(shared.gateway, ticket.id)).await {
            Ok(outcome) => outcome,
            Err(_) => Outcome::Failed("no answer in time"),
        };
        if !matches!(outcome, Outcome::Good(_) | Outcome::Status(_)) {
            exchange.stream = None;
        }
        shared.tally.borrow_mut().note(outcome, ticket.due.elapsed());
    }
}

async fn connect(gateway: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(gateway).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection with its buffers, which are used again for each request.
#[derive(Default)]
struct Exchange {
    stream: Option<TcpStream>,
    out: Vec<u8>,
    read: Vec<u8>,
    expected: Vec<u8>,
}

/// The head of an answer.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    length: usize,
    status: u16,
    id: Option<u64>,
    pool: Option<Pool>,
    body: usize,
    closes: bool,
}

impl Exchange {
    async fn request(&mut self, gateway: SocketAddr, id: u64) -> Outcome {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => match connect(gateway).await {
                Ok(stream) => stream,
                Err(_) => return Outcome::Failed("no connection to the gateway"),
            },
        };
        self.out.clear();
        // Writing to memory does not fail.
        let _ = write!(self.out, "GET {PATH}{id} HTTP/1.1\r\nHost: {HOST}\r\n{ID}: {id}\r\n\r\n");
        if stream.write_all(&self.out).await.is_err() {
            return Outcome::Failed("the connection ended while sending");
        }
        self.read.clear();
        let mut found: Option<Head> = None;
        loop {
            match stream.read_buf(&mut self.read).await {
                Ok(0) if self.read.is_empty() => return Outcome::Failed("closed without an answer"),
                Ok(0) => return Outcome::Failed("closed within an answer"),
                Err(_) if self.read.is_empty() => return Outcome::Failed("reset without an answer"),
                Err(_) => return Outcome::Failed("reset within an answer"),
                Ok(_) if self.read.len() > ANSWER_LIMIT => return Outcome::Failed("an endless answer"),
                Ok(_) => {}
            }
            if found.is_none() {
                found = match head(&self.read) {
                    Ok(head) => head,
                    Err(what) => return Outcome::Mismatch(format!("request {id}: {what}")),
                };
            }
            if let Some(head) = &found
                && self.read.len() >= head.length + head.body
            {
                break;
            }
        }
        let Some(head) = found else { return Outcome::Failed("no head") };
        let outcome = judge(id, &head, &self.read[head.length..], &mut self.expected);
        if !head.closes {
            self.stream = Some(stream);
        }
        outcome
    }
}

/// Whether an answer with this head and these bytes after it belongs to the request.
fn judge(id: u64, head: &Head, after: &[u8], expected: &mut Vec<u8>) -> Outcome {
    let (Some(found), Some(pool)) = (head.id, head.pool) else {
        // The gateway's own answers carry no number.
        return match head.status {
            500.. => Outcome::Status(head.status),
            status => Outcome::Mismatch(format!("request {id}: status {status} without a number")),
        };
    };
    body(id, pool, expected);
    if found != id {
        return Outcome::Mismatch(format!("request {id}: the answer to {found}"));
    }
    if after != &expected[..] {
        let same = after.iter().zip(expected.iter()).take_while(|(a, b)| a == b).count();
        let (got, wanted) = (after.len(), expected.len());
        return Outcome::Mismatch(format!("request {id}: {got} bytes for {wanted}, equal up to {same}"));
    }
    if head.status == 200 { Outcome::Good(pool) } else { Outcome::Status(head.status) }
}

/// The head of the answer that these bytes begin with; `None` until it is complete.
fn head(bytes: &[u8]) -> Result<Option<Head>, String> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes).map_err(|error| error.to_string())? {
        httparse::Status::Complete(length) => length,
        httparse::Status::Partial => return Ok(None),
    };
    let mut head =
        Head { length, status: response.code.unwrap_or(0), id: None, pool: None, body: 0, closes: false };
    let mut framed = false;
    for header in response.headers.iter() {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            head.body = number(header.value)
                .and_then(|length| usize::try_from(length).ok())
                .ok_or("a length that is none")?;
            framed = true;
        } else if is(ID) {
            head.id = number(header.value);
        } else if is(POOL) {
            head.pool = Pool::parse(header.value);
        } else if is("connection") {
            head.closes = header.value.eq_ignore_ascii_case(b"close");
        }
    }
    if framed { Ok(Some(head)) } else { Err("an answer without a length".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u64, pool: Pool, status: &str) -> Vec<u8> {
        let mut content = Vec::new();
        body(id, pool, &mut content);
        let length = content.len();
        let mut all = format!(
            "HTTP/1.1 {status}\r\nX-Soak-Id: {id}\r\nX-Soak-Pool: {pool}\r\nContent-Length: {length}\r\n\r\n"
        )
        .into_bytes();
        all.extend_from_slice(&content);
        all
    }

    fn judged(id: u64, bytes: &[u8]) -> Outcome {
        let head = head(bytes).unwrap().unwrap();
        judge(id, &head, &bytes[head.length..], &mut Vec::new())
    }

    #[test]
    fn only_the_very_answer_is_good() {
        let good = answer(7, Pool::Fallback, "200 OK");
        assert_eq!(judged(7, &good), Outcome::Good(Pool::Fallback));
        assert_eq!(judged(8, &good), Outcome::Mismatch("request 8: the answer to 7".to_owned()));
        assert_eq!(judged(7, &answer(7, Pool::Primary, "503 No")), Outcome::Status(503));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert!(matches!(judged(7, &flipped), Outcome::Mismatch(_)));
        let more = [&good[..], b"x"].concat();
        assert!(matches!(judged(7, &more), Outcome::Mismatch(_)));
        let own = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert_eq!(judged(7, own), Outcome::Status(503));
        assert!(matches!(judged(7, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Outcome::Mismatch(_)));
        assert!(head(own).unwrap().unwrap().closes);
        assert!(head(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
        assert_eq!(head(&good[..30]), Ok(None));
    }
}
