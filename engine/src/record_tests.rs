use understudy_conf::{PolicyName, Timeouts, UpstreamProtocol};

use super::*;
use crate::{Address, Engine, MemberSpec, Pool, PoolSpec, RefSpec};
use crate::{Identity, Scope};

const START: Instant = Instant::from_micros(1_000_000);

fn spec(panic_threshold: u8, passive: PassiveHealthCheck) -> PoolSpec {
    let address = Address::Socket(([127, 0, 0, 1], 1).into());
    let identity = Identity { origin: None, address, protocol: UpstreamProtocol::Http1, tls: None };
    PoolSpec {
        name: understudy_conf::PoolName::new("a").unwrap(),
        scope: Scope {
            policy: Some(PolicyName::new("policy").unwrap()),
            timeouts: Timeouts::default(),
            per_try_timeout: None,
            passive: Some(passive),
        },
        panic_threshold: understudy_conf::Percent::new(panic_threshold.into()).unwrap(),
        retry: None,
        circuit_breaker: understudy_conf::CircuitBreaker::default(),
        streams_per_connection: 100,
        load_balancer: understudy_conf::LoadBalancer::LeastRequest,
        slow_start: None,
        refs: vec![RefSpec {
            origin: "backend/default/a".into(),
            invalid: false,
            priority: 0,
            weight: 1,
            members: [MemberSpec { identity, hostname: None, check: None }].into(),
        }],
    }
}

#[test]
fn a_record_knows_each_pool_once_however_often_it_is_rebuilt() {
    let engine = Engine::new(|| {});
    let mut pool: Option<Arc<Pool>> = None;
    for panic_threshold in 0..50 {
        // The pool before is held until the new one stands, as a world does.
        let next = engine.build_pool(spec(panic_threshold, PassiveHealthCheck::default()), START);
        engine.adopt([&next]);
        pool = Some(next);
    }
    assert_eq!(pool.unwrap().members()[0].record.pools.lock().len(), 1);
}

#[test]
fn probes_pause_though_the_interval_is_zero() {
    let engine = Engine::new(|| {});
    let passive = PassiveHealthCheck {
        interval: understudy_conf::GatewayDuration::default(),
        base_ejection_time: understudy_conf::GatewayDuration::default(),
        consecutive_5xx_errors: 1,
        ..PassiveHealthCheck::default()
    };
    let pool = engine.build_pool(spec(50, passive), START);
    engine.adopt([&pool]);
    pool.members()[0].record.observe(Cause::Connect(ConnectFailure::Refused), START);
    let tick = engine.tick(START);
    assert_eq!(tick.probes.len(), 1);
    engine.probed(&tick.probes[0], false, START);
    let tick = engine.tick(START);
    assert!(tick.probes.is_empty());
    assert_eq!(tick.next, START.after(MIN_PROBE_PAUSE));
}
