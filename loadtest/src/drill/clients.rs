//! The clients of a drill: what they send, and what they write down.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use understudy_testbed::{Client, ClientError, Request, Response};

use super::record::{Mark, Record, Reply, Sample, Side, Turn};
use crate::wrk::HOST;

/// Between requests that are made one after the other, as a shell takes it to start the next curl.
pub(super) const BETWEEN: Duration = Duration::from_millis(10);
/// The name of the fallback backend, by which its answers are known.
pub(super) const FALLBACK: &str = "passive";
/// How long a client waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);
const PATH: &str = "/test";
/// Messages of a session, after which its client opens another one.
const MESSAGES: usize = 20;
/// The handshake of a WebSocket.
const UPGRADE: &str = "GET /test HTTP/1.1\r\nHost: www.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The clients, who write down what they see.
#[derive(Clone)]
pub(super) struct Clients {
    gateway: SocketAddr,
    start: Instant,
    record: Arc<Mutex<Record>>,
}

impl Default for Clients {
    fn default() -> Self {
        Self::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }
}

impl Clients {
    pub(super) fn new(gateway: SocketAddr) -> Self {
        Self { gateway, start: Instant::now(), record: Arc::default() }
    }

    pub(super) fn mark(&self, turn: Turn, label: String) {
        self.record.lock().marks.push(Mark { at: self.start.elapsed(), turn, label });
    }

    pub(super) fn count_shares(&self) {
        self.record.lock().shares_from = self.start.elapsed();
    }

    /// Everything that was written down, in the order of sending.
    pub(super) fn finish(&self) -> Record {
        let mut record = std::mem::take(&mut *self.record.lock());
        record.samples.sort_by_key(|sample| sample.at);
        record.length = self.start.elapsed();
        record
    }

    /// One GET on a connection of its own; gives the pool that served it.
    pub(super) async fn get(&self) -> Option<Side> {
        let request = Request::get(HOST, PATH).header("Connection", "close");
        self.alone(&request, &[]).await
    }

    pub(super) async fn post(&self, size: usize) {
        let body: Vec<u8> = (0..size).map(|index| b'a' + (index % 23) as u8).collect();
        let request = Request::new("POST", HOST, PATH).header("Connection", "close").body(body.clone());
        self.alone(&request, &body).await;
    }

    async fn alone(&self, request: &Request, expected: &[u8]) -> Option<Side> {
        let sent = Instant::now();
        let answer = match Client::connect_within(self.gateway, PATIENCE).await {
            Ok(mut client) => client.send_request(request).await,
            Err(error) => Err(error),
        };
        let sample = self.note(sent, &answer, expected);
        sample.side().filter(|_| !sample.is_lost())
    }

    fn note(&self, sent: Instant, answer: &Result<Response, ClientError>, expected: &[u8]) -> Sample {
        let sample = Sample { at: sent - self.start, took: sent.elapsed(), reply: reply(answer, expected) };
        self.write_down(sample.clone());
        sample
    }

    fn write_down(&self, sample: Sample) {
        self.record.lock().samples.push(sample);
    }

    pub(super) async fn rate(&self, rate: u32, end: Instant) {
        let mut ticks = interval(Duration::from_secs(1) / rate.max(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        // At most as many as are sent while a client waits.
        let mut requests = JoinSet::new();
        loop {
            ticks.tick().await;
            if Instant::now() >= end {
                break;
            }
            let clients = self.clone();
            requests.spawn(async move { clients.get().await });
            while requests.try_join_next().is_some() {}
        }
        while requests.join_next().await.is_some() {}
    }

    pub(super) async fn connections(&self, count: usize, end: Instant) {
        let mut connections = JoinSet::new();
        for _ in 0..count {
            let clients = self.clone();
            connections.spawn(async move { clients.keep_alive(end).await });
        }
        while connections.join_next().await.is_some() {}
    }

    /// So many clients with an upgraded connection each, as with a WebSocket: every opening and every message that
    /// must come back is one request.
    pub(super) async fn sessions(&self, count: usize, end: Instant) {
        let mut sessions = JoinSet::new();
        for _ in 0..count {
            let clients = self.clone();
            sessions.spawn(async move {
                while Instant::now() < end {
                    clients.session(end).await;
                    sleep(BETWEEN).await;
                }
            });
        }
        while sessions.join_next().await.is_some() {}
    }

    async fn session(&self, end: Instant) {
        let sent = Instant::now();
        let opened = async {
            let mut client = Client::connect_within(self.gateway, PATIENCE).await?;
            client.send(UPGRADE.as_bytes()).await?;
            let head = client.read_head().await?;
            Ok((client, head))
        };
        let (mut client, head) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                self.note(sent, &Err(error), &[]);
                return;
            }
        };
        let (side, upgraded) = (side(&head), head.status == 101);
        self.note(sent, &Ok(head), &[]);
        for number in 0..MESSAGES {
            if !upgraded || Instant::now() >= end {
                return;
            }
            let message = format!("message {number}\n");
            let sent = Instant::now();
            let reply = match exchange(&mut client, message.as_bytes()).await {
                Ok(answer) if answer == message.as_bytes() => Reply::Whole { status: 200, side },
                Ok(_) => Reply::Wrong { side },
                Err(error) => Reply::Nothing(error.to_string()),
            };
            let ended = matches!(reply, Reply::Nothing(_));
            self.write_down(Sample { at: sent - self.start, took: sent.elapsed(), reply });
            if ended {
                return;
            }
            sleep(BETWEEN).await;
        }
    }

    async fn keep_alive(&self, end: Instant) {
        let mut open: Option<Client> = None;
        while Instant::now() < end {
            let sent = Instant::now();
            let answer = match open.take() {
                Some(client) => Ok(client),
                None => Client::connect_within(self.gateway, PATIENCE).await,
            };
            let answer = match answer {
                Ok(mut client) => {
                    let answer = client.get(HOST, PATH).await;
                    if answer.as_ref().is_ok_and(Response::keeps_alive) {
                        open = Some(client);
                    }
                    answer
                }
                Err(error) => Err(error),
            };
            if self.note(sent, &answer, &[]).is_lost() {
                // A proxy that is gone, or has no room, is not asked in a busy loop.
                sleep(BETWEEN).await;
            }
        }
    }
}

/// Sends a message and reads as many bytes as it has.
async fn exchange(client: &mut Client, message: &[u8]) -> Result<Vec<u8>, ClientError> {
    client.send(message).await?;
    let mut answer = Vec::new();
    while answer.len() < message.len() {
        answer.extend(client.read_some().await?);
    }
    Ok(answer)
}

/// What an answer means.
fn reply(answer: &Result<Response, ClientError>, expected: &[u8]) -> Reply {
    match answer {
        Ok(response) => {
            let side = side(response);
            if response.status == 200 && side.is_some() && response.body != expected {
                return Reply::Wrong { side };
            }
            Reply::Whole { status: response.status, side }
        }
        Err(ClientError::BodyCut { response, .. }) => Reply::Cut { side: side(response) },
        Err(error) => Reply::Nothing(error.to_string()),
    }
}

fn side(response: &Response) -> Option<Side> {
    let name = response.header("x-backend")?;
    Some(if name == FALLBACK { Side::Fallback } else { Side::Primary })
}
