//! The engine drives a relay of plain TCP: it knows no HTTP, and neither does this client.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant as Clock, timeout};
use understudy_conf::{Health, PassiveHealthCheck};
use understudy_engine::{
    Address, ConnectFailure, Engine, Exchange, Facts, Failure, Identity, Instant, MemberSpec, Next, Pool,
    RefSpec, RequestTraits,
};
use understudy_testbed::Backend;

const PATIENCE: Duration = Duration::from_secs(10);
const CALL: &[u8] = b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";

fn reference(priority: u32, addresses: &[SocketAddr]) -> RefSpec {
    let member = |address: &SocketAddr| MemberSpec {
        identity: Identity {
            origin: None,
            address: Address::Socket(*address),
            protocol: understudy_conf::UpstreamProtocol::Http1,
            tls: None,
        },
        hostname: None,
        check: None,
    };
    RefSpec { members: addresses.iter().map(member).collect(), ..common::reference(priority, 1, &[]) }
}

/// A client that speaks bytes, and whose clock is real.
struct Relay {
    engine: Arc<Engine>,
    pool: Arc<Pool>,
    start: Clock,
    rng: Rng,
}

impl Relay {
    fn new(primary: &[SocketAddr], fallback: &[SocketAddr]) -> Self {
        let engine = Engine::new(|| {});
        let passive = PassiveHealthCheck {
            base_ejection_time: common::millis(50),
            interval: common::millis(20),
            ..common::task()
        };
        let refs = vec![reference(0, primary), reference(1, fallback)];
        let pool = engine.build_pool(common::spec("a", Some(passive), refs), Instant::from_micros(1));
        engine.adopt([&pool]);
        Self { engine, pool, start: Clock::now(), rng: Rng::with_seed(7) }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(1).after(self.start.elapsed())
    }

    /// One connection of a client: choose → connect → exchange bytes, or on to the next endpoint.
    async fn relay(&mut self, bytes: &[u8]) -> Result<(String, u32), Failure> {
        let mut exchange = Exchange::begin(self.pool.clone(), self.now());
        // Nothing of the client's bytes is delivered until the connection stands.
        let request = RequestTraits { replayable: true, ..RequestTraits::default() };
        loop {
            let choice = exchange.choose(request, self.now(), &mut self.rng).unwrap();
            let failure = match talk(self.address(choice.member), bytes, &exchange).await {
                Ok(answer) => {
                    exchange.finished(self.now());
                    return Ok((answer, exchange.attempts()));
                }
                Err(failure) => failure,
            };
            let facts = Facts { response_started: failure == Failure::Body, can_resend: true };
            match exchange.failed(failure, facts, self.now(), &mut self.rng) {
                Next::Retry { after } => tokio::time::sleep(after).await,
                Next::GiveUp(_) => return Err(failure),
            }
        }
    }

    fn address(&self, member: usize) -> SocketAddr {
        match self.pool.members()[member].spec.identity.address {
            Address::Socket(address) => address,
            Address::Unix(_) | Address::Udp(_) => unreachable!("the pool has no such endpoint"),
        }
    }

    /// What a driver does: probes that are due.
    async fn tick(&self) {
        for probe in self.engine.tick(self.now()).probes {
            let Address::Socket(address) = probe.endpoint.identity().address else { continue };
            let connected = TcpStream::connect(address).await.is_ok();
            self.engine.probed(&probe, connected, self.now());
        }
    }

    fn health(&self, address: SocketAddr) -> Health {
        let report = self.engine.reports(self.now(), 0).remove(0);
        let address = address.to_string();
        report.endpoints.iter().find(|endpoint| endpoint.address == address).unwrap().health.state
    }

    fn active(&self) -> usize {
        self.pool.members().iter().map(|member| member.record.endpoint().active()).sum()
    }
}

async fn talk(address: SocketAddr, bytes: &[u8], exchange: &Exchange) -> Result<String, Failure> {
    let refused = |error: io::Error| match error.kind() {
        io::ErrorKind::ConnectionRefused => Failure::Connect(ConnectFailure::Refused),
        _ => Failure::Connect(ConnectFailure::Other),
    };
    let mut stream = timeout(PATIENCE, TcpStream::connect(address))
        .await
        .map_err(|_| Failure::Connect(ConnectFailure::TimedOut))?
        .map_err(refused)?;
    exchange.connected();
    stream.write_all(bytes).await.map_err(|_| Failure::Reset)?;
    let mut answer = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap() {
        Ok(_) if !answer.is_empty() => Ok(String::from_utf8(answer).unwrap()),
        _ if answer.is_empty() => Err(Failure::Reset),
        _ => Err(Failure::Body),
    }
}

#[tokio::test]
async fn a_raw_tcp_client_moves_on_when_an_endpoint_refuses_and_comes_back_when_it_answers() {
    let active = Backend::start("active").await.unwrap();
    let passive = Backend::start("passive").await.unwrap();
    let mut relay = Relay::new(&[active.address()], &[passive.address()]);
    let (answer, attempts) = relay.relay(CALL).await.unwrap();
    assert!(answer.contains("active") && attempts == 1, "{answer}");

    active.kill().await;
    let (answer, attempts) = relay.relay(CALL).await.unwrap();
    assert!(answer.contains("passive") && attempts == 2, "moved without an error: {answer}");
    let (answer, attempts) = relay.relay(CALL).await.unwrap();
    assert!(answer.contains("passive") && attempts == 1, "the verdict is immediate: {answer}");

    active.restart().await.unwrap();
    let start = Clock::now();
    while relay.health(active.address()) != Health::Trial {
        assert!(start.elapsed() < PATIENCE, "no trial");
        relay.tick().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (answer, attempts) = relay.relay(CALL).await.unwrap();
    assert!(answer.contains("active") && attempts == 1, "the trial: {answer}");
    let (answer, _) = relay.relay(CALL).await.unwrap();
    assert!(answer.contains("active"), "{answer}");
    assert_eq!(relay.active(), 0);
}

#[tokio::test]
async fn a_raw_tcp_client_gets_the_failure_when_every_endpoint_refuses() {
    let backends = [Backend::start("one").await.unwrap(), Backend::start("two").await.unwrap()];
    let [one, two] = [backends[0].address(), backends[1].address()];
    for backend in &backends {
        backend.kill().await;
    }
    let mut relay = Relay::new(&[one], &[two]);
    let refused = Failure::Connect(ConnectFailure::Refused);
    assert_eq!(relay.relay(CALL).await, Err(refused));
    assert_eq!((relay.health(one), relay.health(two)), (Health::Ejected, Health::Ejected));
    assert_eq!(relay.active(), 0);
}
