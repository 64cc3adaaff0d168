//! The share of failures as a detector (rule O17), on a clock that the test moves.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{GET, Mode, SENT, World, no_retry, reference, spec, task};
use understudy_conf::{Health, PassiveHealthCheck, Percent};
use understudy_engine::{Cause, ConnectFailure, EventKind, Exchange, Failure, Pool, PoolSpec};

const PORTS: [u16; 5] = [1, 2, 3, 4, 5];
const FALLBACK: u16 = 9;

/// Windows of two seconds; a share of 40 % ejects, and nothing else.
fn share_only() -> PassiveHealthCheck {
    PassiveHealthCheck {
        consecutive_5xx_errors: 0,
        failure_percentage_threshold: Percent::new(40).ok(),
        ..task()
    }
}

fn pool_of(name: &str, ports: &[u16], passive: PassiveHealthCheck) -> PoolSpec {
    let refs = vec![reference(0, 1, ports), reference(1, 1, &[FALLBACK])];
    PoolSpec { retry: no_retry(), ..spec(name, Some(passive), refs) }
}

/// Sends so many requests to each endpoint; every `nth` one at the bad endpoint fails with this status.
fn send(world: &mut World, pool: &Arc<Pool>, each: usize, bad: u16, nth: usize, failure: Failure) {
    let mut sent = [0_usize; 10];
    // The balancer decides who is next; what is more than enough for one is let go.
    while PORTS.iter().any(|port| sent[usize::from(*port)] < each) {
        let mut exchange = Exchange::begin(pool.clone(), world.now);
        let choice = exchange.choose(GET, world.now, &mut world.rng).unwrap();
        let port = common::port_at(pool, choice);
        let count = &mut sent[usize::from(port)];
        if *count == each {
            continue;
        }
        *count += 1;
        if port == bad && *count % nth == 0 {
            exchange.failed(failure, SENT, world.now, &mut world.rng);
        } else {
            exchange.headers(200, world.now);
            exchange.finished(world.now);
        }
    }
}

fn ejections(world: &World) -> Vec<Cause> {
    let events = world.events();
    events
        .iter()
        .filter_map(|event| match event.kind {
            EventKind::Ejection { cause, .. } => Some(cause),
            _ => None,
        })
        .collect()
}

#[test]
fn o17_half_of_an_intervals_requests_failing_ejects_at_its_end() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", &PORTS, share_only()));
    world.pass(1.0);
    send(&mut world, &pool, 50, 3, 2, Failure::Status(500));
    assert_eq!(world.phase(&pool, 3).state, Health::Healthy, "not before the interval is over");
    world.pass(2.1);
    assert_eq!(world.phase(&pool, 3).state, Health::Ejected);
    assert_eq!(ejections(&world), [Cause::Share { failed: 25, total: 50 }]);
    for port in [1, 2, 4, 5] {
        assert_eq!(world.phase(&pool, port).state, Health::Healthy);
    }
    // Back as after every ejection: probed, tried, and judged by new windows only.
    world.pass(10.5);
    assert_eq!(world.phase(&pool, 3).state, Health::Trial);
    world.requests(&pool, 20);
    world.pass(20.0);
    assert_eq!(world.phase(&pool, 3).state, Health::Healthy);
    assert_eq!(ejections(&world), []);
}

#[test]
fn o17_a_trial_fails_by_a_status_that_the_share_counts() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", &PORTS, share_only()));
    send(&mut world, &pool, 50, 3, 1, Failure::Status(500));
    world.pass(2.1);
    world.set(3, Mode::FailsRequests(500));
    world.pass(10.5);
    world.requests(&pool, 5);
    assert_eq!(world.phase(&pool, 3).state, Health::Ejected);
}

#[test]
fn o17_too_few_requests_or_endpoints_eject_nobody() {
    let mut world = World::new();
    let few_requests = world.pool(pool_of("a", &PORTS, share_only()));
    world.pass(1.0);
    send(&mut world, &few_requests, 49, 3, 1, Failure::Status(500));
    world.pass(4.0);
    assert_eq!(ejections(&world), []);
    // What is left of one interval does not count in the next.
    send(&mut world, &few_requests, 49, 3, 1, Failure::Status(500));
    world.pass(4.0);
    assert_eq!(ejections(&world), []);
    let mut world = World::new();
    let few_endpoints = world.pool(pool_of("b", &PORTS[..4], share_only()));
    world.set(3, Mode::FailsRequests(500));
    for _ in 0..5 {
        world.requests(&few_endpoints, 400);
        world.pass(2.0);
    }
    assert_eq!(ejections(&world), []);
}

#[test]
fn o17_with_split_local_failures_are_no_part_of_the_share() {
    for (split, expected) in [(false, 1), (true, 0)] {
        let mut world = World::new();
        let passive = PassiveHealthCheck {
            split_external_local_origin_errors: split,
            consecutive_local_origin_failures: 0,
            ..share_only()
        };
        let pool = world.pool(pool_of("a", &PORTS, passive));
        send(&mut world, &pool, 120, 3, 2, Failure::Connect(ConnectFailure::Refused));
        world.pass(2.1);
        assert_eq!(ejections(&world).len(), expected, "split: {split}");
    }
}

#[test]
fn o17_pools_that_share_evidence_share_the_verdict_and_each_has_its_own_five_endpoints() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", &PORTS, share_only()));
    let small = world.pool(pool_of("b", &[3], share_only()));
    send(&mut world, &pool, 60, 3, 2, Failure::Status(503));
    world.pass(2.1);
    assert_eq!(world.phase(&small, 3).state, Health::Ejected);
    assert_eq!(ejections(&world).len(), 1, "one record, one ejection");
}

#[test]
fn o17_without_the_threshold_or_at_zero_the_share_says_nothing() {
    for threshold in [None, Percent::new(0).ok()] {
        let mut world = World::new();
        let passive = PassiveHealthCheck { failure_percentage_threshold: threshold, ..share_only() };
        let pool = world.pool(pool_of("a", &PORTS, passive));
        send(&mut world, &pool, 60, 3, 1, Failure::Status(500));
        assert_eq!(world.engine.tick(world.now).next, understudy_engine::Instant::NEVER, "no timer either");
        world.pass(2.1);
        assert_eq!(ejections(&world), []);
    }
}

#[test]
fn o17_a_pool_that_is_rebuilt_between_an_interval_and_its_judgement_judges_it() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", &PORTS, share_only()));
    send(&mut world, &pool, 50, 3, 1, Failure::Status(500));
    world.now = world.now.after(std::time::Duration::from_secs(2));
    let threshold = Percent::new(10).unwrap();
    let rebuilt = PoolSpec { panic_threshold: threshold, ..pool_of("a", &PORTS, share_only()) };
    let pool = world.pool(rebuilt);
    world.tick();
    assert_eq!(world.phase(&pool, 3).state, Health::Ejected);
}

#[test]
fn o17_who_is_woken_for_a_new_pool_finds_it() {
    use std::sync::{OnceLock, Weak};
    use understudy_engine::{Engine, Instant};
    static ENGINE: OnceLock<Weak<Engine>> = OnceLock::new();
    static NEXT: std::sync::Mutex<Instant> = std::sync::Mutex::new(Instant::NEVER);
    let now = Instant::from_micros(1_000_000);
    // Looks at once, as a driver on another thread may.
    let engine = Engine::new(move || {
        let engine = ENGINE.get().and_then(Weak::upgrade);
        *NEXT.lock().unwrap() = engine.map_or(Instant::NEVER, |engine| engine.tick(now).next);
    });
    ENGINE.set(Arc::downgrade(&engine)).unwrap();
    let pool = engine.build_pool(pool_of("a", &PORTS, share_only()), now);
    engine.adopt([&pool]);
    assert_eq!(*NEXT.lock().unwrap(), Instant::from_micros(2_000_000));
}
