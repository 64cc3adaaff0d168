//! Choosing among references and endpoints, and choosing again.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Answer, GET, Mode, SENT, World, reference, spec, task};
use proptest::prelude::*;
use understudy_conf::{CircuitBreaker, LoadBalancer, Retry, RetryBudget, RetryTrigger};
use understudy_engine::{Exchange, Failure, GiveUp, Next, PoolSpec};

fn policy(num_retries: u32, triggers: &[RetryTrigger]) -> Option<Retry> {
    Some(Retry { num_retries, triggers: triggers.iter().copied().collect(), ..Retry::default() })
}

#[test]
fn weights_choose_among_the_references_of_one_pool_and_never_between_pools() {
    let mut world = World::new();
    let refs = vec![reference(0, 3, &[1]), reference(0, 1, &[2]), reference(1, 1000, &[9])];
    let pool = world.pool(spec("a", Some(task()), refs));
    let answers = world.requests(&pool, 8000);
    assert_eq!(answers.get(&9), None);
    assert!((5800..6200).contains(&answers[&1]), "{answers:?}");
}

#[test]
fn a_weight_of_zero_takes_nothing_even_when_all_else_fails() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1]), reference(0, 0, &[2]), reference(1, 0, &[9])];
    let pool = world.pool(spec("a", Some(task()), refs));
    world.set(1, Mode::Refuses);
    world.requests(&pool, 20);
    assert_eq!(world.hits.keys().copied().collect::<Vec<_>>(), [1]);
}

#[test]
fn ejection_moves_no_weight_until_a_reference_has_no_usable_endpoint() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1, 2, 3, 4]), reference(0, 1, &[5]), reference(1, 1, &[9])];
    let pool = world.pool(spec("a", Some(task()), refs));
    world.set(1, Mode::Refuses);
    world.requests(&pool, 100);
    let answers = world.requests(&pool, 4000);
    assert!((1850..2150).contains(&answers[&5]), "half of the traffic still: {answers:?}");
    for port in [2, 3, 4] {
        world.set(port, Mode::Refuses);
    }
    world.requests(&pool, 100);
    assert!(!world.requests(&pool, 100).keys().any(|port| *port <= 4));
}

#[test]
fn l1_round_robin_takes_one_after_the_other() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1, 2, 3])];
    let pool = world.pool(PoolSpec { load_balancer: LoadBalancer::RoundRobin, ..spec("a", None, refs) });
    assert_eq!(world.requests(&pool, 300), BTreeMap::from([(1, 100), (2, 100), (3, 100)]));
}

#[test]
fn l2_least_request_avoids_the_busy_endpoint() {
    let mut world = World::new();
    let pool = world.pool(spec("a", None, vec![reference(0, 1, &[1, 2])]));
    let mut busy = Exchange::begin(pool.clone(), world.now);
    let choice = busy.choose(GET, world.now, &mut world.rng).unwrap();
    let busy_port = common::port_at(&pool, choice);
    let answers = world.requests(&pool, 50);
    assert_eq!(answers.get(&busy_port), None);
}

#[test]
fn a_retry_never_goes_to_an_endpoint_tried_before_while_another_can_serve() {
    // R10 and R11, replaced: it leaves the primary pool when no untried endpoint is left there.
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1, 2]), reference(1, 1, &[9])];
    let retry = policy(5, &[RetryTrigger::Status5xx]);
    let pool = world.pool(PoolSpec { retry, ..spec("a", None, refs) });
    world.set(1, Mode::Status(500));
    world.set(2, Mode::Status(500));
    for _ in 0..50 {
        world.hits.clear();
        assert_eq!(world.request(&pool), Answer::Ok(9));
        assert_eq!(world.hits, BTreeMap::from([(1, 1), (2, 1), (9, 1)]));
    }
}

#[test]
fn r11_after_so_many_attempts_in_a_priority_the_next_one_is_taken() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1, 2, 3]), reference(1, 1, &[9])];
    let retry = policy(5, &[RetryTrigger::Status5xx])
        .map(|retry| Retry { num_attempts_per_priority: Some(1), ..retry });
    let pool = world.pool(PoolSpec { retry, ..spec("a", None, refs) });
    for port in 1..=3 {
        world.set(port, Mode::Status(500));
    }
    for attempts in 1..=20 {
        assert_eq!(world.request(&pool), Answer::Ok(9));
        assert_eq!(world.hits.values().sum::<u32>(), attempts * 2, "always at the second attempt");
    }
}

#[test]
fn r9_when_all_fail_the_policys_retries_are_used_and_no_more() {
    let mut world = World::new();
    let retry = policy(2, &[RetryTrigger::Status5xx]);
    let pool = world.pool(PoolSpec { retry, ..spec("a", None, vec![reference(0, 1, &[1])]) });
    world.set(1, Mode::Status(503));
    assert_eq!(world.request(&pool), Answer::Failed(Failure::Status(503)));
    assert_eq!(world.hits[&1], 3);
}

#[test]
fn the_safe_retry_tries_each_endpoint_once() {
    let mut world = World::new();
    let pool = world.pool(spec("a", None, vec![reference(0, 1, &[1, 2, 3])]));
    for port in 1..=3 {
        world.set(port, Mode::Refuses);
    }
    assert!(matches!(world.request(&pool), Answer::Failed(Failure::Connect(_))));
    assert_eq!(world.hits, BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
    let many = world.pool(spec("b", None, vec![reference(0, 1, &(100..120).collect::<Vec<_>>())]));
    for port in 100..120 {
        world.set(port, Mode::Refuses);
    }
    world.hits.clear();
    world.request(&many);
    assert_eq!(world.hits.values().sum::<u32>(), 6, "the first attempt and five moves");
}

#[test]
fn a_pooled_connection_found_dead_is_replaced_at_the_same_endpoint_and_charges_nobody() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1]), reference(1, 1, &[9])];
    let pool = world.pool(spec("a", Some(task()), refs));
    let mut exchange = Exchange::begin(pool.clone(), world.now);
    exchange.choose(GET, world.now, &mut world.rng).unwrap();
    let next = exchange.failed(Failure::StalePooled, SENT, world.now, &mut world.rng);
    assert!(matches!(next, Next::Retry { .. }));
    let choice = exchange.choose(GET, world.now, &mut world.rng).unwrap();
    assert_eq!(common::port_at(&pool, choice), 1);
    assert_eq!(world.phase(&pool, 1).state, understudy_conf::Health::Healthy);
}

#[test]
fn r8_retries_under_way_are_limited() {
    let mut world = World::new();
    let retry = policy(3, &[RetryTrigger::Status5xx]);
    let breaker = CircuitBreaker { max_parallel_retries: 2, ..CircuitBreaker::default() };
    let refs = vec![reference(0, 1, &[1]), reference(1, 1, &[9])];
    let pool = world.pool(PoolSpec { retry, circuit_breaker: breaker, ..spec("a", None, refs) });
    let mut under_way = Vec::new();
    for index in 0..3 {
        let mut exchange = Exchange::begin(pool.clone(), world.now);
        exchange.choose(GET, world.now, &mut world.rng).unwrap();
        match exchange.failed(Failure::Status(500), SENT, world.now, &mut world.rng) {
            Next::Retry { .. } => {
                exchange.choose(GET, world.now, &mut world.rng).unwrap();
                under_way.push(exchange);
            }
            Next::GiveUp(reason) => assert_eq!((index, reason), (2, GiveUp::Overflow)),
        }
    }
    assert_eq!(under_way.len(), 2);
}

#[test]
fn r8_a_retry_budget_is_a_share_of_the_requests_under_way() {
    let mut world = World::new();
    let budget = RetryBudget { numerator: 20, denominator: 100, min_retry_concurrency: 1 };
    let breaker =
        CircuitBreaker { max_parallel_retries: 0, retry_budget: Some(budget), ..CircuitBreaker::default() };
    let retry = policy(3, &[RetryTrigger::Status5xx]);
    let refs = vec![reference(0, 1, &[1]), reference(1, 1, &[9])];
    let pool = world.pool(PoolSpec { retry, circuit_breaker: breaker, ..spec("a", None, refs) });
    let mut exchanges: Vec<Exchange> = (0..20).map(|_| Exchange::begin(pool.clone(), world.now)).collect();
    let mut granted = 0;
    for exchange in &mut exchanges {
        exchange.choose(GET, world.now, &mut world.rng).unwrap();
        let next = exchange.failed(Failure::Status(500), SENT, world.now, &mut world.rng);
        if matches!(next, Next::Retry { .. }) {
            exchange.choose(GET, world.now, &mut world.rng).unwrap();
            granted += 1;
        }
    }
    assert_eq!(granted, 4, "20 % of 20");
}

/// A step of a random story.
#[derive(Debug, Clone)]
enum Step {
    Mode(u16, Mode),
    Requests(u32),
    Pass(u32),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mode = prop_oneof![
        Just(Mode::Up),
        Just(Mode::Refuses),
        Just(Mode::Status(500)),
        Just(Mode::Status(503)),
        Just(Mode::Resets),
        Just(Mode::CutsBody),
    ];
    let step = prop_oneof![
        (1u16..7, mode).prop_map(|(port, mode)| Step::Mode(port, mode)),
        (1u32..30).prop_map(Step::Requests),
        (1u32..150).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..60)
}

proptest! {
    #[test]
    fn whatever_happens_a_healthy_endpoint_ends_refused_requests_and_nothing_leaks(story in steps()) {
        let mut world = World::new();
        // Ports 1 to 4 are primary, 5 and 6 fallback.
        let refs = vec![reference(0, 2, &[1, 2]), reference(0, 1, &[3, 4]), reference(1, 1, &[5, 6])];
        let pool = world.pool(spec("a", Some(task()), refs));
        for step in story {
            match step {
                Step::Mode(port, mode) => world.set(port, mode),
                Step::Pass(tenths) => world.pass(f64::from(tenths) / 10.0),
                Step::Requests(count) => for _ in 0..count {
                    let answer = world.request(&pool);
                    let refusing = (1..7).filter(|port| world.modes.get(port) == Some(&Mode::Refuses)).count();
                    if refusing == 6 { continue; }
                    // Six endpoints, five moves: a refused connection is never what the client sees.
                    prop_assert!(!matches!(answer, Answer::Failed(Failure::Connect(_))), "{:?}", answer);
                    prop_assert!(!matches!(answer, Answer::NoEndpoint(_)), "{:?}", answer);
                },
            }
            for member in pool.members() {
                prop_assert_eq!(member.record.endpoint().active(), 0);
            }
        }
        // All well again: after the longest ejection, probes and trials, the primary pool carries everything.
        for port in 1..7 { world.set(port, Mode::Up); }
        for _ in 0..40 {
            world.pass(10.0);
            world.requests(&pool, 20);
        }
        let answers = world.requests(&pool, 200);
        prop_assert!(answers.keys().all(|port| (1..=4).contains(port)), "{:?}", answers);
    }
}
