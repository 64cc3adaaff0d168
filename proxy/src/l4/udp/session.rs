//! One client's session: which endpoint its datagrams go to, and what becomes of the answers.
//!
//! Nothing says that a datagram arrived. What the system does say is that a port is closed (ICMP): then the datagram was
//! not delivered, so it counts as a failure to connect, and the last one goes to another endpoint at once. An answer is
//! success; so is an interval in which nobody said that the port is closed, for protocols that only send. An endpoint
//! that swallows everything is found by active checks only.

use std::cell::RefCell;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use understudy_engine::{
    Address, ConnectFailure, Exchange, Failure, GiveUp, Instant, Next, NoEndpoint, Pool,
};

use super::sessions::Datagram;
use super::socket::{Client, ListenSocket};
use super::{ANSWERED, IDLE};
use crate::access_log::Flag;
use crate::l4::log::Entry;
use crate::l4::reach::{UNTOUCHED, Unreached, limit_of, traits_of};
use crate::l4::{Forwarding, Streams};
use crate::metrics::{AttemptOutcome, DatagramLoss, StreamOutcome};
use crate::service::{of_io, outcome_of};

/// So many answers are passed on before others have their turn.
const IN_A_ROW: usize = 64;

thread_local! {
    /// Where answers are read to.
    static ANSWER: RefCell<Box<[u8]>> = RefCell::new(vec![0; 65_536].into());
}

/// Where a session's client sends to.
pub(super) struct Listener {
    pub(super) socket: Arc<ListenSocket>,
    /// The address that was asked for.
    pub(super) bound: SocketAddr,
}

/// A session.
pub(super) struct Session {
    streams: Arc<Streams>,
    way: Forwarding,
    listener: Listener,
    client: Client,
    begun: Instant,
    exchange: Exchange,
    /// Connected to the current endpoint; `None`: one is to be chosen.
    upstream: Option<UdpSocket>,
    /// The last datagram since the last answer: it may not have been delivered. It keeps the room that it took.
    unanswered: Option<Datagram>,
    /// The endpoint has shown that it serves.
    is_proven: bool,
    /// The newest pool that is known to have the current endpoint.
    seen: Arc<Pool>,
    /// From when silence shows that.
    proof_at: Instant,
    idle_at: Instant,
    idle: Duration,
    received: u64,
    sent: u64,
}

impl Session {
    pub(super) fn new(streams: Arc<Streams>, way: Forwarding, listener: Listener, client: Client) -> Self {
        let begun = streams.clock.now();
        let idle = limit_of(way.table.limits.connection_idle).map_or(IDLE, |limit| limit.min(IDLE));
        Self {
            exchange: Exchange::begin(way.table.pool.clone(), begun),
            seen: way.table.pool.clone(),
            streams,
            way,
            listener,
            client,
            begun,
            upstream: None,
            unanswered: None,
            is_proven: false,
            proof_at: Instant::NEVER,
            idle_at: begun.after(idle),
            idle,
            received: 0,
            sent: 0,
        }
    }

    /// Serves the client until nothing moves any more, or no endpoint can be had.
    pub(super) async fn run(
        mut self,
        mut datagrams: mpsc::Receiver<Datagram>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let ended = self.serve(&mut datagrams, &mut stopped).await;
        datagrams.close();
        if ended.is_err() {
            self.streams.metrics.count_loss(DatagramLoss::NoEndpoint);
            while datagrams.try_recv().is_ok() {
                self.streams.metrics.count_loss(DatagramLoss::NoEndpoint);
            }
        }
        self.conclude(ended);
    }

    async fn serve(
        &mut self,
        datagrams: &mut mpsc::Receiver<Datagram>,
        stopped: &mut watch::Receiver<bool>,
    ) -> Result<(), Unreached> {
        let mut is_stopping = false;
        loop {
            let clock = self.streams.clock;
            let wake = clock.moment(self.idle_at.min(self.proof_at));
            tokio::select! {
                biased;
                datagram = datagrams.recv() => match datagram {
                    Some(datagram) => self.send(datagram).await?,
                    None => return Ok(()),
                },
                ready = ready(self.upstream.as_ref()) => self.answered(ready).await?,
                () = sleep_until(wake) => {
                    let now = clock.now();
                    if now >= self.proof_at {
                        self.prove(now);
                    }
                    if now >= self.idle_at {
                        return Ok(());
                    }
                }
                () = told(stopped), if !is_stopping => {
                    is_stopping = true;
                    self.idle = ANSWERED;
                    self.touch();
                }
            }
        }
    }

    /// A datagram of the client goes to its endpoint, or to another one if that serves no more.
    async fn send(&mut self, datagram: Datagram) -> Result<(), Unreached> {
        self.touch();
        let Some(newest) = self.streams.rule_of_udp(&self.listener.bound) else {
            return Err(Unreached { cause: "no route".to_owned(), ..NoEndpoint::Invalid.into() });
        };
        if self.upstream.is_some() && (self.is_without(&newest) || !self.serves()) {
            self.begin_anew();
        }
        self.received += datagram.bytes.len() as u64;
        self.unanswered = Some(datagram);
        self.send_unanswered().await
    }

    /// Whether the newest rule knows the current endpoint no more. A pool that was seen before is not searched again.
    fn is_without(&mut self, newest: &Forwarding) -> bool {
        let pool = &newest.table.pool;
        if Arc::ptr_eq(pool, &self.seen) {
            return false;
        }
        self.seen = pool.clone();
        let Some((current, _)) = self.exchange.current() else { return false };
        !pool.members().iter().any(|member| member.spec.identity == current.spec.identity)
    }

    fn serves(&self) -> bool {
        self.exchange.still_serves(self.streams.clock.now())
    }

    async fn send_unanswered(&mut self) -> Result<(), Unreached> {
        while let Some(datagram) = self.unanswered.take() {
            let sent = match &self.upstream {
                Some(upstream) => upstream.send(&datagram.bytes).await,
                None => match self.connect().await? {
                    Ok(upstream) => self.upstream.insert(upstream).send(&datagram.bytes).await,
                    Err(error) => Err(error),
                },
            };
            match sent {
                Ok(_) => {
                    self.unanswered = Some(datagram).filter(Datagram::may_be_kept);
                    let interval = self.exchange.flow_interval().filter(|_| !self.is_proven);
                    if let Some(interval) = interval.filter(|_| self.proof_at == Instant::NEVER) {
                        self.proof_at = self.streams.clock.now().after(interval);
                    }
                    return Ok(());
                }
                // No endpoint could be sent it.
                Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                    self.streams.metrics.count_loss(DatagramLoss::Busy);
                    return Ok(());
                }
                Err(error) => {
                    self.unanswered = Some(datagram);
                    self.failed(of_io(&error)).await?;
                }
            }
        }
        Ok(())
    }

    /// Chooses an endpoint, and makes a socket that hears of its closed port.
    async fn connect(&mut self) -> Result<io::Result<UdpSocket>, Unreached> {
        let traits = traits_of(&self.way.table, self.client.address.ip());
        let now = self.streams.clock.now();
        let exchange = &mut self.exchange;
        let choice = self.streams.with_rng(|rng| exchange.choose(traits, now, rng))?;
        let address = match self.way.table.pool.members()[choice.member].spec.identity.address {
            Address::Udp(address) => address,
            Address::Socket(_) | Address::Unix(_) => {
                let failed = Failure::Connect(ConnectFailure::Local);
                return Err(Unreached::after(failed, GiveUp::NotRetriable));
            }
        };
        let any = if address.is_ipv4() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED)
        } else {
            IpAddr::V6(Ipv6Addr::UNSPECIFIED)
        };
        let bound = async {
            let upstream = UdpSocket::bind((any, 0)).await?;
            upstream.connect(address).await?;
            Ok(upstream)
        };
        Ok(bound.await)
    }

    /// The endpoint answered, or its port is closed.
    async fn answered(&mut self, ready: io::Result<Ready>) -> Result<(), Unreached> {
        match ready.and_then(|ready| self.pass_answers(ready)) {
            // Being ready costs no budget, and others of the thread have none while this runs.
            Ok(IN_A_ROW..) => tokio::task::yield_now().await,
            Ok(_) => {}
            Err(error) => {
                self.failed(of_io(&error)).await?;
                self.send_unanswered().await?;
            }
        }
        Ok(())
    }

    /// Passes on what waits, and says how many answers those were.
    fn pass_answers(&mut self, ready: Ready) -> io::Result<usize> {
        let Some(upstream) = &self.upstream else { return Ok(0) };
        if ready.is_error() {
            none_yet(upstream.try_io(Interest::ERROR, || match SockRef::from(upstream).take_error()? {
                Some(error) => Err(error),
                None => Err(io::ErrorKind::WouldBlock.into()),
            }))?;
        }
        let (mut count, mut bytes) = (0, 0);
        let passed = ANSWER.with_borrow_mut(|buffer| {
            while count < IN_A_ROW {
                let length = upstream.try_recv(buffer)?;
                count += 1;
                bytes += length as u64;
                if let Err(error) = self.listener.socket.try_answer(&self.client, &buffer[..length]) {
                    log::debug!("an answer to {} is lost: {error}", self.client.address);
                    self.streams.metrics.count_loss(DatagramLoss::Busy);
                }
            }
            Ok(())
        });
        if count > 0 {
            self.sent += bytes;
            self.prove(self.streams.clock.now());
            self.touch();
        }
        none_yet(passed)?;
        Ok(count)
    }

    /// The endpoint cannot be sent anything. Unless the session ends, another one is chosen.
    async fn failed(&mut self, failure: ConnectFailure) -> Result<(), Unreached> {
        let failure = Failure::Connect(failure);
        self.upstream = None;
        self.way.table.metrics.count_attempt(outcome_of(failure));
        if self.is_proven {
            // It served before. What it does now counts with the next datagram, which finds its endpoint anew.
            let is_turned_off =
                self.way.table.pool.spec().retry.as_ref().is_some_and(|retry| retry.num_retries == 0);
            if is_turned_off {
                self.unanswered = None;
            }
            self.begin_anew();
            return Ok(());
        }
        let (exchange, now) = (&mut self.exchange, self.streams.clock.now());
        match self.streams.with_rng(|rng| exchange.failed(failure, UNTOUCHED, now, rng)) {
            Next::Retry { after } => {
                self.streams.metrics.retries.inc();
                self.proof_at = Instant::NEVER;
                if !after.is_zero() {
                    tokio::time::sleep(after).await;
                }
                Ok(())
            }
            Next::GiveUp(why) => Err(Unreached::after(failure, why)),
        }
    }

    /// Another endpoint is to be chosen, as if the client came now: by the newest rule, if there is one.
    fn begin_anew(&mut self) {
        if let Some(way) = self.streams.rule_of_udp(&self.listener.bound) {
            self.way = way;
        }
        self.seen = self.way.table.pool.clone();
        let now = self.streams.clock.now();
        self.exchange = Exchange::begin(self.way.table.pool.clone(), now);
        self.upstream = None;
        self.is_proven = false;
        self.proof_at = Instant::NEVER;
    }

    fn prove(&mut self, now: Instant) {
        self.proof_at = Instant::NEVER;
        self.unanswered = None;
        if !self.is_proven {
            self.is_proven = true;
            self.exchange.finished(now);
            self.way.table.metrics.count_attempt(AttemptOutcome::Success);
        }
    }

    fn touch(&mut self) {
        self.idle_at = self.streams.clock.now().after(self.idle);
    }

    fn conclude(&self, ended: Result<(), Unreached>) {
        let (outcome, flags, cause): (_, &[Flag], _) = match &ended {
            Ok(()) => (StreamOutcome::Ended, &[], None),
            Err(Unreached { outcome, reply, cause }) => (*outcome, reply.flags, Some(&**cause)),
        };
        let counters = self.way.rule.metrics.streams();
        counters.count_end(outcome);
        counters.received.add(self.received);
        counters.sent.add(self.sent);
        self.streams.log(&Entry {
            protocol: "UDP",
            server_name: None,
            client: self.client.address,
            route: Some(&self.way.rule.rule.label),
            exchange: Some(&self.exchange),
            received: self.received,
            sent: self.sent,
            duration: self.streams.clock.now().since(self.begun),
            flags,
            cause,
        });
    }
}

/// Waits for the sign to stop.
async fn told(stopped: &mut watch::Receiver<bool>) {
    // Without a sender the end has come, too.
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// Waits for an answer, or for word that there will be none.
async fn ready(upstream: Option<&UdpSocket>) -> io::Result<Ready> {
    match upstream {
        Some(upstream) => upstream.ready(Interest::READABLE | Interest::ERROR).await,
        None => pending().await,
    }
}

fn none_yet(result: io::Result<()>) -> io::Result<()> {
    result.or_else(|error| if error.kind() == io::ErrorKind::WouldBlock { Ok(()) } else { Err(error) })
}
