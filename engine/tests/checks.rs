//! Active checks on a clock that the test moves: who serves, who is asked how often, and how checks and
//! detection go together.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Answer, Mode, World, checked, every_second, reference, spec, task};
use understudy_conf::{ActiveHealthCheck, GatewayDuration, Health, PassiveHealthCheck, Percent, PoolName};
use understudy_engine::{CheckResult, EventKind, Exchange, PoolSpec, RefSpec};

const PRIMARY: u16 = 1;
const FALLBACK: u16 = 9;

fn two() -> Vec<RefSpec> {
    vec![reference(0, 1, &[PRIMARY]), reference(1, 1, &[FALLBACK])]
}

fn pool_of(name: &str, passive: Option<PassiveHealthCheck>) -> PoolSpec {
    checked(spec(name, passive, two()), &every_second())
}

fn kinds(world: &World) -> Vec<&'static str> {
    let events = world.events();
    events
        .iter()
        .map(|event| match event.kind {
            EventKind::Ejection { .. } => "ejection",
            EventKind::Failover { .. } => "failover",
            EventKind::Return { .. } => "return",
            EventKind::Failback { .. } => "failback",
            EventKind::Unhealthy { .. } => "unhealthy",
            EventKind::Healthy { .. } => "healthy",
        })
        .collect()
}

#[test]
fn h1_the_first_check_is_at_once_and_one_pass_makes_healthy() {
    let mut world = World::new();
    let settings = ActiveHealthCheck { healthy_threshold: 5, ..every_second() };
    let pool = world.pool(checked(spec("a", None, two()), &settings));
    assert_eq!(world.engine.pending_checks(), 2);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Unhealthy);
    world.tick();
    assert_eq!((world.engine.pending_checks(), world.checks[&PRIMARY]), (0, 1));
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Healthy);
    assert_eq!(world.requests(&pool, 5), BTreeMap::from([(PRIMARY, 5)]));
    assert_eq!(kinds(&world), Vec::<&str>::new(), "a sound start is no news");
}

#[test]
fn h1_what_is_dead_at_the_start_gets_no_request() {
    let mut world = World::new();
    world.set(PRIMARY, Mode::Refuses);
    let pool = world.pool(pool_of("a", None));
    world.tick();
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(FALLBACK, 10)]));
    assert_eq!(world.hits.get(&PRIMARY), None);
    world.pass(0.1);
    assert_eq!(kinds(&world), ["unhealthy", "failover"]);
    world.set(PRIMARY, Mode::Up);
    world.pass(2.0);
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(PRIMARY, 10)]));
    assert_eq!(kinds(&world), ["healthy", "failback"]);
}

#[test]
fn h2_a_bad_status_moves_traffic_at_once_and_a_closed_port_after_the_threshold() {
    let mut world = World::new();
    let settings = ActiveHealthCheck { unhealthy_threshold: 3, ..every_second() };
    let pool = world.pool(checked(spec("a", None, two()), &settings));
    world.pass(3.0);
    world.set(PRIMARY, Mode::Status(503));
    let before = world.checks[&PRIMARY];
    while world.checks[&PRIMARY] == before {
        world.pass(0.1);
    }
    assert_eq!(world.request(&pool), Answer::Ok(FALLBACK));
    world.set(PRIMARY, Mode::Up);
    world.pass(1.1);
    assert_eq!(world.request(&pool), Answer::Ok(PRIMARY), "H3");
    world.set(PRIMARY, Mode::Refuses);
    let before = world.checks[&PRIMARY];
    while world.phase(&pool, PRIMARY).state == Health::Healthy {
        world.pass(0.1);
    }
    assert_eq!(world.checks[&PRIMARY], before + 3);
}

#[test]
fn h5_an_endpoint_serves_if_it_is_neither_ejected_nor_failing_its_check() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", Some(task())));
    world.tick();
    world.set(PRIMARY, Mode::FailsRequests(500));
    world.request(&pool);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Ejected);
    world.pass(5.0);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Ejected, "checks pass, and requests failed");
    // The ejection ends while the check fails: no trial.
    world.set(PRIMARY, Mode::Status(503));
    world.pass(10.0);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Unhealthy);
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(FALLBACK, 10)]));
    world.set(PRIMARY, Mode::Up);
    world.pass(2.0);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Trial);
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(PRIMARY, 10)]));
}

#[test]
fn o26_a_passing_check_ends_an_ejection_early_only_after_a_failure_to_connect() {
    let ejected_for = |mode: Mode, change: fn(&mut ActiveHealthCheck)| {
        let mut world = World::new();
        let mut settings = every_second();
        change(&mut settings);
        let pool = world.pool(checked(spec("a", Some(task()), two()), &settings));
        world.tick();
        world.set(PRIMARY, mode);
        world.request(&pool);
        assert_eq!(world.phase(&pool, PRIMARY).state, Health::Ejected);
        let start = world.now;
        while world.phase(&pool, PRIMARY).state == Health::Ejected {
            world.pass(0.1);
        }
        world.now.since(start).as_secs_f64()
    };
    assert!(ejected_for(Mode::RefusesRequests, |_| {}) < 2.0);
    assert!(ejected_for(Mode::FailsRequests(500), |_| {}) >= 10.0);
    // A check of another port says nothing about this one.
    assert!(ejected_for(Mode::RefusesRequests, |settings| settings.port = Some(77)) >= 10.0);
}

#[test]
fn with_an_active_check_the_trial_begins_with_that_check() {
    let mut world = World::new();
    let settings = ActiveHealthCheck { interval: GatewayDuration::from_secs(60), ..every_second() };
    let pool = world.pool(checked(spec("a", Some(task()), two()), &settings));
    world.tick();
    world.set(PRIMARY, Mode::FailsRequests(500));
    world.request(&pool);
    let before = world.checks[&PRIMARY];
    world.pass(10.2);
    assert_eq!(
        world.checks[&PRIMARY],
        before + 1,
        "asked when the ejection time is over, not a minute later"
    );
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Trial);
    assert_eq!(world.probes.get(&PRIMARY), None, "no plain connection");
}

#[test]
fn a_failing_check_is_no_ejection_and_has_no_limit() {
    let mut world = World::new();
    let few = PassiveHealthCheck { max_ejection_percent: Percent::new(0).unwrap(), ..task() };
    let refs = vec![reference(0, 1, &[1, 2, 3]), reference(1, 1, &[FALLBACK])];
    let pool = world.pool(checked(spec("a", Some(few), refs), &every_second()));
    for port in [1, 2, 3] {
        world.set(port, Mode::Status(503));
    }
    world.tick();
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(FALLBACK, 10)]));
    for port in [1, 2, 3] {
        assert_eq!(world.phase(&pool, port).state, Health::Unhealthy);
    }
    let report = world.engine.reports(world.now, 0).remove(0);
    assert!(report.reason.contains("fails its active check: status 503"), "{}", report.reason);
    assert!(report.endpoints[0].last_error.as_deref() == Some("active check: status 503"));
    assert_eq!(report.endpoints[0].ejections, 0);
    assert!(!kinds(&world).contains(&"ejection"));
}

#[test]
fn one_endpoint_of_three_that_fails_its_check_counts_in_the_loads() {
    // P5: 2 of 3 primaries carry 93 %.
    let mut world = World::new();
    world.set(3, Mode::Refuses);
    let refs = vec![reference(0, 1, &[1, 2, 3]), reference(1, 1, &[FALLBACK])];
    let pool = world.pool(checked(spec("a", None, refs), &every_second()));
    world.tick();
    let report = world.engine.reports(world.now, 0).remove(0);
    assert_eq!(report.load, [(0, 93), (1, 7)]);
    assert_eq!(world.requests(&pool, 100).get(&3), None);
}

#[test]
fn an_endpoint_is_checked_once_however_many_pools_use_it() {
    let mut world = World::new();
    let pools: Vec<_> = (0..200).map(|n| world.pool(pool_of(&format!("pool-{n}"), Some(task())))).collect();
    assert_eq!(world.engine.pending_checks(), 2);
    world.pass(3.0);
    let before = world.checks[&PRIMARY];
    world.pass(10.0);
    let asked = world.checks[&PRIMARY] - before;
    assert!((9..=11).contains(&asked), "{asked} checks in 10 s");
    world.set(PRIMARY, Mode::Status(500));
    world.pass(1.1);
    for pool in &pools {
        assert_eq!(world.request(pool), Answer::Ok(FALLBACK), "all of them learn of it");
    }
    assert_eq!(kinds(&world).iter().filter(|kind| **kind == "unhealthy").count(), 1);
}

#[test]
fn a_thousand_pools_of_fifty_endpoints_make_exactly_fifty_checks_in_every_second() {
    let mut world = World::new();
    let ports: Vec<u16> = (1..=50).collect();
    let one = checked(spec("a", Some(task()), vec![reference(0, 1, &ports)]), &every_second());
    let _pools: Vec<_> = (0..1000)
        .map(|number| {
            let name = PoolName::new(format!("pool-{number}")).unwrap();
            world.pool(PoolSpec { name, ..one.clone() })
        })
        .collect();
    assert_eq!(world.engine.pending_checks(), 50);
    // The first round is at once; the second one spreads them over an interval, and ends half of one later.
    world.pass(3.0);
    for second in 1..=20 {
        let before = std::mem::take(&mut world.checks);
        assert!(before.len() == 50, "{before:?}");
        world.pass(1.0);
        assert_eq!(world.checks.values().sum::<u32>(), 50, "in second {second}: {:?}", world.checks);
        assert!(world.checks.values().all(|count| *count == 1), "in second {second}: {:?}", world.checks);
    }
}

#[test]
fn different_checks_of_one_endpoint_are_kept_apart() {
    let mut world = World::new();
    let other = ActiveHealthCheck { port: Some(77), ..every_second() };
    let pool = world.pool(pool_of("a", None));
    let by_port = world.pool(checked(spec("b", None, two()), &other));
    assert_eq!(world.engine.pending_checks(), 4);
    world.set(77, Mode::Refuses);
    world.tick();
    assert_eq!(world.request(&pool), Answer::Ok(PRIMARY));
    assert_eq!(world.phase(&by_port, PRIMARY).state, Health::Unhealthy);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Healthy);
}

#[test]
fn a_check_that_changes_or_is_added_keeps_an_endpoint_in_service_until_it_fails() {
    let mut world = World::new();
    let pool = world.pool(spec("a", Some(task()), two()));
    assert_eq!(world.request(&pool), Answer::Ok(PRIMARY));
    let pool_with = world.pool(pool_of("a", Some(task())));
    assert_eq!(world.request(&pool_with), Answer::Ok(PRIMARY), "before any result");
    world.tick();
    let faster = ActiveHealthCheck { interval: GatewayDuration::from_millis(500), ..every_second() };
    let pool_faster = world.pool(checked(spec("a", Some(task()), two()), &faster));
    drop((pool, pool_with));
    assert_eq!((world.request(&pool_faster), world.engine.pending_checks()), (Answer::Ok(PRIMARY), 0));
    world.set(PRIMARY, Mode::Refuses);
    world.pass(2.1);
    assert_eq!(world.phase(&pool_faster, PRIMARY).state, Health::Unhealthy);
    // And one that goes away takes its verdict along.
    let without = world.pool(spec("a", Some(task()), two()));
    assert_eq!(world.phase(&without, PRIMARY).state, Health::Healthy);
}

#[test]
fn a_new_endpoint_takes_nothing_before_it_passed_and_the_old_pool_still_learns() {
    let mut world = World::new();
    let old = world.pool(pool_of("a", Some(task())));
    world.tick();
    assert_eq!(world.request(&old), Answer::Ok(PRIMARY));
    let refs = vec![reference(0, 1, &[PRIMARY, 2]), reference(1, 1, &[FALLBACK])];
    let new = world.pool(checked(spec("a", Some(task()), refs), &every_second()));
    // P1: one of two carries 70 %, the fallback the rest.
    assert_eq!(world.requests(&new, 20).get(&2), None);
    // While the new pool waits for its first round, the old one serves, and both see what happens.
    world.set(PRIMARY, Mode::FailsRequests(500));
    world.request(&old);
    assert_eq!(world.request(&new), Answer::Ok(FALLBACK));
    assert_eq!(world.request(&old), Answer::Ok(FALLBACK));
    world.tick();
    assert_eq!(world.request(&new), Answer::Ok(2));
}

#[test]
fn checks_that_succeed_for_an_interval_prove_success() {
    // O23
    let growth = |checks: bool| {
        let mut world = World::new();
        let plain = spec("a", Some(task()), two());
        let pool = world.pool(if checks { checked(plain, &every_second()) } else { plain });
        world.tick();
        for _ in 0..2 {
            world.set(PRIMARY, Mode::FailsRequests(500));
            world.request(&pool);
            world.set(PRIMARY, Mode::Up);
            let remaining = world.phase(&pool, PRIMARY).remaining_ms.unwrap_or(0);
            world.pass(remaining as f64 / 1000.0 + 1.5);
            world.request(&pool);
        }
        world.pass(30.0);
        world.events();
        world.set(PRIMARY, Mode::FailsRequests(500));
        world.request(&pool);
        world.events().iter().find_map(|event| match event.kind {
            EventKind::Ejection { duration, .. } => Some(duration.as_secs()),
            _ => None,
        })
    };
    assert_eq!(growth(true), Some(10));
    assert_eq!(growth(false), Some(30), "time alone proves nothing");
}

/// The primary answers one request with the wish to get no more.
fn ask_for_no_traffic(world: &mut World, pool: &std::sync::Arc<understudy_engine::Pool>) {
    let mut exchange = Exchange::begin(pool.clone(), world.now);
    let choice = exchange.choose(common::GET, world.now, &mut world.rng).unwrap();
    assert_eq!(common::port_at(pool, choice), PRIMARY);
    exchange.fails_check(world.now);
    exchange.headers(200, world.now);
    exchange.finished(world.now);
}

#[test]
fn h7_an_endpoint_that_asks_for_no_traffic_gets_none_at_once_and_until_a_check_passes() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", None));
    world.tick();
    // A check that was under way says nothing about what came after it.
    let mut early = Vec::new();
    while early.is_empty() {
        world.now = world.now.after(std::time::Duration::from_millis(100));
        early = world.engine.tick(world.now).checks;
    }
    ask_for_no_traffic(&mut world, &pool);
    for check in early {
        world.engine.checked(check, CheckResult::Passed, world.now);
    }
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(FALLBACK, 10)]));
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Unhealthy);
    world.pass(2.1);
    assert_eq!(world.requests(&pool, 10), BTreeMap::from([(PRIMARY, 10)]));
    assert_eq!(kinds(&world), ["unhealthy", "failover", "healthy", "failback"]);
}

#[test]
fn h7_not_even_panic_makes_use_of_an_endpoint_that_asks_for_no_traffic() {
    let mut world = World::new();
    let pool = world.pool(pool_of("a", None));
    world.set(FALLBACK, Mode::Status(503));
    world.tick();
    ask_for_no_traffic(&mut world, &pool);
    world.hits.clear();
    for _ in 0..5 {
        assert_eq!(world.request(&pool), Answer::Failed(understudy_engine::Failure::Status(503)));
    }
    assert_eq!(world.hits.get(&PRIMARY), None);
    let alone = world.pool(checked(spec("b", None, vec![reference(0, 1, &[PRIMARY])]), &every_second()));
    assert!(matches!(world.request(&alone), Answer::NoEndpoint(_)));
}

#[test]
fn h7_without_an_active_check_the_wish_says_nothing() {
    let mut world = World::new();
    let pool = world.pool(spec("a", Some(task()), two()));
    ask_for_no_traffic(&mut world, &pool);
    assert_eq!(world.requests(&pool, 3), BTreeMap::from([(PRIMARY, 3)]));
}
