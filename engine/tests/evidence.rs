//! What is known of endpoints stays right where pools are rebuilt, policies change and endpoints are shared.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{Answer, GET, Mode, POST, SENT, World, no_retry, reference, spec, task};
use understudy_conf::{Health, PassiveHealthCheck, Percent, Retry, RetryTrigger};
use understudy_engine::{ConnectFailure, Exchange, Facts, Failure, GiveUp, Next, PoolSpec, RefSpec};

const PRIMARY: u16 = 1;
const FALLBACK: u16 = 9;

fn two() -> Vec<RefSpec> {
    vec![reference(0, 1, &[PRIMARY]), reference(1, 1, &[FALLBACK])]
}

#[test]
fn what_a_request_of_the_pool_before_a_rebuild_learns_is_obeyed_at_once() {
    let mut world = World::new();
    let before = world.pool(spec("a", Some(task()), two()));
    let mut under_way = Exchange::begin(before.clone(), world.now);
    under_way.choose(GET, world.now, &mut world.rng).unwrap();
    let threshold = Percent::new(40).unwrap();
    let after = world.pool(PoolSpec { panic_threshold: threshold, ..spec("a", Some(task()), two()) });
    assert_eq!(world.request(&after), Answer::Ok(PRIMARY));
    world.set(PRIMARY, Mode::Refuses);
    let refused = Failure::Connect(ConnectFailure::Refused);
    assert!(matches!(under_way.failed(refused, SENT, world.now, &mut world.rng), Next::Retry { .. }));
    world.hits.clear();
    assert_eq!(world.request(&after), Answer::Ok(FALLBACK));
    assert_eq!(world.hits.get(&PRIMARY), None, "no request goes to an endpoint that is known to be dead");
}

#[test]
fn o13_a_threshold_that_is_lowered_during_a_run_still_ejects() {
    let mut world = World::new();
    let five = PassiveHealthCheck { consecutive_5xx_errors: 5, ..task() };
    let two_errors = PassiveHealthCheck { consecutive_5xx_errors: 2, ..task() };
    let pool = world.pool(PoolSpec { retry: no_retry(), ..spec("a", Some(five), two()) });
    world.set(PRIMARY, Mode::Status(500));
    for _ in 0..3 {
        world.request(&pool);
    }
    let pool = world.pool(PoolSpec { retry: no_retry(), ..spec("a", Some(two_errors), two()) });
    for _ in 0..2 {
        assert_eq!(world.request(&pool), Answer::Failed(Failure::Status(500)));
    }
    assert_eq!(world.request(&pool), Answer::Ok(FALLBACK));
}

#[test]
fn detection_that_is_turned_off_and_on_again_starts_anew() {
    let mut world = World::new();
    let pool = world.pool(PoolSpec { retry: no_retry(), ..spec("a", Some(task()), two()) });
    world.set(PRIMARY, Mode::Status(500));
    world.request(&pool);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Ejected);
    let off = world.pool(PoolSpec { retry: no_retry(), ..spec("a", None, two()) });
    for _ in 0..3 {
        assert_eq!(world.request(&off), Answer::Failed(Failure::Status(500)));
    }
    let on = world.pool(PoolSpec { retry: no_retry(), ..spec("a", Some(task()), two()) });
    assert_eq!(world.request(&on), Answer::Failed(Failure::Status(500)));
    assert_eq!(world.request(&on), Answer::Ok(FALLBACK));
}

#[test]
fn o5_a_failing_status_whose_body_is_cut_counts_once() {
    let mut world = World::new();
    let three = PassiveHealthCheck { consecutive_5xx_errors: 3, ..task() };
    let pool = world.pool(spec("a", Some(three), two()));
    for _ in 0..2 {
        assert_eq!(world.phase(&pool, PRIMARY).state, Health::Healthy);
        let mut exchange = Exchange::begin(pool.clone(), world.now);
        exchange.choose(GET, world.now, &mut world.rng).unwrap();
        exchange.failed(Failure::Status(500), SENT, world.now, &mut world.rng);
        let cut = Facts { response_started: true, ..SENT };
        exchange.failed(Failure::Body, cut, world.now, &mut world.rng);
    }
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Healthy, "two failures are not three");
}

#[test]
fn a_stream_that_dies_after_it_counted_as_success_counts_once() {
    let mut world = World::new();
    let twice = PassiveHealthCheck { consecutive_5xx_errors: 2, ..task() };
    let pool = world.pool(spec("a", Some(twice), two()));
    let mut exchange = Exchange::begin(pool.clone(), world.now);
    exchange.choose(GET, world.now, &mut world.rng).unwrap();
    exchange.finished(world.now);
    let cut = Facts { response_started: true, ..SENT };
    for _ in 0..3 {
        exchange.failed(Failure::Body, cut, world.now, &mut world.rng);
    }
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Healthy);
}

/// A pool whose primary was ejected and is ready for real trial requests.
fn on_trial(world: &mut World) -> std::sync::Arc<understudy_engine::Pool> {
    let pool = world.pool(PoolSpec { retry: no_retry(), ..spec("a", Some(task()), two()) });
    world.set(PRIMARY, Mode::Refuses);
    world.request(&pool);
    world.set(PRIMARY, Mode::Up);
    world.pass(10.2);
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Trial);
    pool
}

#[test]
fn a_trial_that_finds_its_pooled_connection_dead_is_still_a_trial() {
    let mut world = World::new();
    let retry = Retry { triggers: [RetryTrigger::Retriable4xx].into(), ..Retry::default() };
    let _before = on_trial(&mut world);
    let pool = world.pool(PoolSpec { retry: Some(retry), ..spec("a", Some(task()), two()) });
    let mut exchange = Exchange::begin(pool.clone(), world.now);
    assert!(exchange.choose(GET, world.now, &mut world.rng).unwrap().trial);
    let next = exchange.failed(Failure::StalePooled, SENT, world.now, &mut world.rng);
    assert!(matches!(next, Next::Retry { .. }));
    let again = exchange.choose(GET, world.now, &mut world.rng).unwrap();
    assert!(again.trial && common::port_at(&pool, again) == PRIMARY);
    // So its failure is replayed, though the policy does not ask for it.
    let next = exchange.failed(Failure::Reset, SENT, world.now, &mut world.rng);
    assert!(matches!(next, Next::Retry { .. }), "{next:?}");
    assert_eq!(world.phase(&pool, PRIMARY).state, Health::Ejected);
}

#[test]
fn a_trial_request_that_must_not_be_done_twice_is_not_replayed_once_it_was_sent() {
    for (failure, replayed) in [
        (Failure::Reset, false),
        (Failure::Status(500), false),
        (Failure::Connect(ConnectFailure::Refused), true),
    ] {
        let mut world = World::new();
        let pool = on_trial(&mut world);
        world.pass(2.1);
        let mut exchange = Exchange::begin(pool.clone(), world.now);
        assert!(exchange.choose(POST, world.now, &mut world.rng).unwrap().trial);
        let next = exchange.failed(failure, SENT, world.now, &mut world.rng);
        assert_eq!(matches!(next, Next::Retry { .. }), replayed, "{failure:?}");
        assert_eq!(world.phase(&pool, PRIMARY).state, Health::Ejected);
    }
}

#[test]
fn an_endpoint_that_is_in_both_pools_is_tried_once() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[PRIMARY]), reference(1, 1, &[PRIMARY, FALLBACK])];
    for _ in 0..20 {
        let pool = world.pool(spec("a", None, refs.clone()));
        world.set(PRIMARY, Mode::Refuses);
        assert_eq!(world.request(&pool), Answer::Ok(FALLBACK));
    }
    assert_eq!(world.hits[&PRIMARY], 20);
    let alone = vec![reference(0, 1, &[PRIMARY]), reference(1, 1, &[PRIMARY])];
    let pool = world.pool(spec("b", None, alone));
    let mut exchange = Exchange::begin(pool, world.now);
    exchange.choose(GET, world.now, &mut world.rng).unwrap();
    let refused = Failure::Connect(ConnectFailure::Refused);
    let next = exchange.failed(refused, SENT, world.now, &mut world.rng);
    assert_eq!(next, Next::GiveUp(GiveUp::Exhausted));
}

#[test]
fn a_reference_without_weight_stands_in_for_nobody() {
    // On trial is chosen before any ejected endpoint when nothing is healthy.
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[PRIMARY, 2]), reference(0, 0, &[7]), reference(1, 1, &[FALLBACK])];
    let pool = world.pool(PoolSpec { retry: no_retry(), ..spec("a", Some(task()), refs) });
    for port in [PRIMARY, 2, FALLBACK] {
        world.set(port, Mode::Refuses);
    }
    for _ in 0..40 {
        world.request(&pool);
    }
    for port in [PRIMARY, 2, FALLBACK] {
        assert_eq!(world.phase(&pool, port).state, Health::Ejected, "{port}");
    }
    world.pass(5.0);
    // One of them returns to its trial while the others are ejected again.
    world.set(2, Mode::Up);
    world.pass(5.3);
    assert_eq!(world.phase(&pool, 2).state, Health::Trial);
    let first = Exchange::begin(pool.clone(), world.now).choose(GET, world.now, &mut world.rng).unwrap();
    assert!(first.trial);
    // The place for the trial is taken again, so this is a choice among those that are not healthy.
    let mut trial = Exchange::begin(pool.clone(), world.now);
    assert!(trial.choose(GET, world.now, &mut world.rng).unwrap().trial);
    for _ in 0..20 {
        let mut exchange = Exchange::begin(pool.clone(), world.now);
        let choice = exchange.choose(GET, world.now, &mut world.rng).unwrap();
        assert_eq!(common::port_at(&pool, choice), 2);
    }
}
