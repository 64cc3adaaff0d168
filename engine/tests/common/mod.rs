//! A small world for the engine's tests: pools of numbered endpoints, and a clock that the test moves.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, CircuitBreaker, GatewayDuration, HttpProbe, LoadBalancer,
    PassiveHealthCheck, Percent, PolicyName, PoolName, Retry, Timeouts, UpstreamProtocol,
};
use understudy_engine::{
    Address, Cause, CheckFailure, CheckResult, CheckSpec, Choice, ConnectFailure, Engine, Event, Exchange,
    Facts, Failure, Identity, Instant, MemberSpec, Next, NoEndpoint, Phase, Pool, PoolSpec, RefSpec,
    RequestTraits, Scope,
};

pub const SENT: Facts = Facts { response_started: false, can_resend: true };
pub const GET: RequestTraits = RequestTraits { replayable: true, hash: None };
pub const POST: RequestTraits = RequestTraits { replayable: false, hash: None };

/// The task's settings: base 10 s, interval 2 s, 100 %, one failure ejects.
pub fn task() -> PassiveHealthCheck {
    PassiveHealthCheck {
        base_ejection_time: GatewayDuration::from_secs(10),
        interval: GatewayDuration::from_secs(2),
        max_ejection_percent: Percent::HUNDRED,
        consecutive_5xx_errors: 1,
        consecutive_gateway_errors: 0,
        consecutive_local_origin_failures: 1,
        split_external_local_origin_errors: false,
        failure_percentage_threshold: None,
    }
}

pub fn endpoint(port: u16) -> MemberSpec {
    MemberSpec {
        identity: Identity {
            origin: None,
            address: Address::Socket(([127, 0, 0, 1], port).into()),
            protocol: UpstreamProtocol::Http1,
            tls: None,
        },
        hostname: None,
        check: None,
    }
}

pub fn reference(priority: u32, weight: u32, ports: &[u16]) -> RefSpec {
    RefSpec {
        origin: format!("backend/default/p{priority}-{}", ports.first().unwrap_or(&0)).into(),
        invalid: false,
        priority,
        weight,
        members: ports.iter().map(|port| endpoint(*port)).collect(),
    }
}

pub fn spec(name: &str, passive: Option<PassiveHealthCheck>, refs: Vec<RefSpec>) -> PoolSpec {
    PoolSpec {
        name: PoolName::new(name).unwrap(),
        scope: Scope {
            policy: Some(PolicyName::new("policy").unwrap()),
            timeouts: Timeouts::default(),
            per_try_timeout: None,
            passive,
        },
        panic_threshold: Percent::new(50).unwrap(),
        retry: None,
        circuit_breaker: CircuitBreaker::default(),
        streams_per_connection: 100,
        load_balancer: LoadBalancer::LeastRequest,
        slow_start: None,
        refs,
    }
}

/// The same pool, with an active check on each of its endpoints.
pub fn checked(mut spec: PoolSpec, settings: &ActiveHealthCheck) -> PoolSpec {
    let check = Arc::new(CheckSpec { settings: Arc::new(settings.clone()), host: "shop".into() });
    for member in spec.refs.iter_mut().flat_map(|reference| Arc::make_mut(&mut reference.members)) {
        member.check = Some(check.clone());
    }
    spec
}

/// A check every second; two failures are too many.
pub fn every_second() -> ActiveHealthCheck {
    ActiveHealthCheck {
        interval: GatewayDuration::from_secs(1),
        unhealthy_threshold: 2,
        ..ActiveHealthCheck::new(ActiveProbe::Http(HttpProbe::get("/healthz")))
    }
}

pub fn no_retry() -> Option<Retry> {
    Some(Retry { num_retries: 0, ..Retry::default() })
}

pub fn millis(millis: u64) -> GatewayDuration {
    GatewayDuration::from_millis(millis)
}

/// How an endpoint behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Mode {
    Up,
    Refuses,
    Status(u16),
    Resets,
    CutsBody,
    /// Requests get this status; checks pass.
    FailsRequests(u16),
    /// Requests are refused; checks pass.
    RefusesRequests,
}

pub struct World {
    pub engine: Arc<Engine>,
    pub now: Instant,
    pub rng: Rng,
    pub modes: BTreeMap<u16, Mode>,
    /// Requests that reached each port, refused ones included.
    pub hits: BTreeMap<u16, u32>,
    pub probes: BTreeMap<u16, u32>,
    /// Active checks by port.
    pub checks: BTreeMap<u16, u32>,
}

/// What a client got.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Answer {
    Ok(u16),
    Failed(Failure),
    NoEndpoint(NoEndpoint),
}

impl World {
    pub fn new() -> Self {
        Self {
            engine: Engine::new(|| {}),
            now: Instant::from_micros(1_000_000),
            rng: Rng::with_seed(42),
            modes: BTreeMap::new(),
            hits: BTreeMap::new(),
            probes: BTreeMap::new(),
            checks: BTreeMap::new(),
        }
    }

    pub fn pool(&self, spec: PoolSpec) -> Arc<Pool> {
        let pool = self.engine.build_pool(spec, self.now);
        self.engine.adopt([&pool]);
        pool
    }

    pub fn set(&mut self, port: u16, mode: Mode) {
        self.modes.insert(port, mode);
    }

    fn mode(&self, port: u16) -> Mode {
        self.modes.get(&port).copied().unwrap_or(Mode::Up)
    }

    /// Lets time pass in steps of 100 ms, answering probes as the endpoints behave.
    pub fn pass(&mut self, seconds: f64) {
        let end = self.now.after(Duration::from_secs_f64(seconds));
        while self.now < end {
            self.now = self.now.after(Duration::from_millis(100)).min(end);
            self.tick();
        }
    }

    pub fn tick(&mut self) {
        let tick = self.engine.tick(self.now);
        for check in tick.checks {
            let port = port_of(&check.address());
            *self.checks.entry(port).or_default() += 1;
            let result = match self.mode(port) {
                Mode::Up | Mode::CutsBody | Mode::FailsRequests(_) => CheckResult::Passed,
                Mode::Refuses => CheckResult::Failed(CheckFailure::Connect(ConnectFailure::Refused)),
                Mode::RefusesRequests => CheckResult::Passed,
                Mode::Status(status) => CheckResult::Failed(CheckFailure::Status(status)),
                Mode::Resets => CheckResult::Failed(CheckFailure::Closed),
            };
            self.engine.checked(check, result, self.now);
        }
        for probe in tick.probes {
            let port = port_of(&probe.endpoint.identity().address);
            *self.probes.entry(port).or_default() += 1;
            self.engine.probed(&probe, self.mode(port) != Mode::Refuses, self.now);
        }
    }

    pub fn request(&mut self, pool: &Arc<Pool>) -> Answer {
        self.request_with(pool, GET)
    }

    pub fn request_with(&mut self, pool: &Arc<Pool>, traits: RequestTraits) -> Answer {
        let mut exchange = Exchange::begin(pool.clone(), self.now);
        loop {
            let choice = match exchange.choose(traits, self.now, &mut self.rng) {
                Ok(choice) => choice,
                Err(error) => return Answer::NoEndpoint(error),
            };
            let port = port_at(pool, choice);
            *self.hits.entry(port).or_default() += 1;
            let failure = match self.mode(port) {
                Mode::Up => {
                    exchange.connected();
                    assert_eq!(exchange.headers(200, self.now), None);
                    exchange.finished(self.now);
                    return Answer::Ok(port);
                }
                Mode::CutsBody => {
                    exchange.connected();
                    assert_eq!(exchange.headers(200, self.now), None);
                    let facts = Facts { response_started: true, ..SENT };
                    let next = exchange.failed(Failure::Body, facts, self.now, &mut self.rng);
                    assert!(matches!(next, Next::GiveUp(_)));
                    return Answer::Failed(Failure::Body);
                }
                Mode::Refuses | Mode::RefusesRequests => Failure::Connect(ConnectFailure::Refused),
                Mode::Status(status) | Mode::FailsRequests(status) => {
                    exchange.connected();
                    let _ = exchange.headers(status, self.now);
                    Failure::Status(status)
                }
                Mode::Resets => {
                    exchange.connected();
                    Failure::Reset
                }
            };
            match exchange.failed(failure, SENT, self.now, &mut self.rng) {
                Next::Retry { .. } => {}
                Next::GiveUp(_) => return Answer::Failed(failure),
            }
        }
    }

    /// Sends `count` requests and counts the answers by port; 0 stands for a failure.
    pub fn requests(&mut self, pool: &Arc<Pool>, count: u32) -> BTreeMap<u16, u32> {
        let mut answers = BTreeMap::new();
        for _ in 0..count {
            let port = match self.request(pool) {
                Answer::Ok(port) => port,
                _ => 0,
            };
            *answers.entry(port).or_default() += 1;
        }
        answers
    }

    pub fn phase(&self, pool: &Arc<Pool>, port: u16) -> understudy_conf::EndpointHealth {
        let address = format!("127.0.0.1:{port}");
        let report =
            self.engine.reports(self.now, 0).into_iter().find(|report| report.pool == *pool.name()).unwrap();
        report.endpoints.into_iter().find(|endpoint| endpoint.address == address).unwrap().health
    }

    pub fn events(&self) -> Vec<Event> {
        self.engine.drain_events()
    }
}

pub fn port_at(pool: &Arc<Pool>, choice: Choice) -> u16 {
    port_of(&pool.members()[choice.member].spec.identity.address)
}

pub fn port_of(address: &Address) -> u16 {
    match address {
        Address::Socket(address) | Address::Udp(address) => address.port(),
        Address::Unix(_) => 0,
    }
}

/// Silences the unused-import lint of tests that need only some of this.
pub type Unused = (Cause, Phase);
