//! TLS policies in one pool: identity, and what a request may not be moved to.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::{GET, SENT, World, checked, every_second, port_at, reference, spec, task};
use understudy_conf::{CircuitBreaker, Health, Overflow, Retry, RetryTrigger};
use understudy_engine::{
    ConnectFailure, Exchange, Failure, GiveUp, Next, NoEndpoint, PoolSpec, RefSpec, TlsIdentity, TlsStrength,
};

fn over_tls(mut reference: RefSpec, policy: u64, strength: TlsStrength) -> RefSpec {
    for member in Arc::make_mut(&mut reference.members) {
        let tls = TlsIdentity { policy, server_name: "shop.example.com".into(), strength };
        member.identity.tls = Some(Arc::new(tls));
    }
    reference
}

fn verified(reference: RefSpec) -> RefSpec {
    over_tls(reference, 1, TlsStrength::Verified)
}

fn unverified(reference: RefSpec) -> RefSpec {
    over_tls(reference, 2, TlsStrength::Unverified)
}

const CERTIFICATE: Failure = Failure::Connect(ConnectFailure::Certificate);

/// The ports that a request goes to while every attempt fails like this.
fn ports(world: &mut World, spec: PoolSpec, failure: Failure) -> (Vec<u16>, Result<GiveUp, NoEndpoint>) {
    let pool = world.pool(spec);
    let mut exchange = Exchange::begin(pool.clone(), world.now);
    let mut ports = Vec::new();
    loop {
        match exchange.choose(GET, world.now, &mut world.rng) {
            Ok(choice) => ports.push(port_at(&pool, choice)),
            Err(error) => return (ports, Err(error)),
        }
        match exchange.failed(failure, SENT, world.now, &mut world.rng) {
            Next::Retry { .. } => {}
            Next::GiveUp(why) => return (ports, Ok(why)),
        }
    }
}

#[test]
fn after_a_certificate_that_failed_verification_a_request_only_moves_to_a_way_as_strong() {
    let mut world = World::new();
    let refs = || {
        vec![
            verified(reference(0, 1, &[1, 2])),
            unverified(reference(1, 1, &[3])),
            reference(2, 1, &[4]),
            verified(reference(3, 1, &[5])),
        ]
    };
    let (mut tried, end) = ports(&mut world, spec("a", None, refs()), CERTIFICATE);
    tried[..2].sort_unstable();
    assert_eq!((tried, end), (vec![1, 2, 5], Ok(GiveUp::Exhausted)));
    // Any other failure says nothing of who answered.
    for failure in [ConnectFailure::Refused, ConnectFailure::Tls] {
        let (mut tried, _) = ports(&mut world, spec("b", None, refs()), Failure::Connect(failure));
        tried[..2].sort_unstable();
        assert_eq!(tried, [1, 2, 3, 4, 5], "{failure:?}");
    }
}

#[test]
fn what_was_verified_by_nobody_may_move_to_what_is_verified_and_not_to_clear_text() {
    let mut world = World::new();
    let refs =
        vec![unverified(reference(0, 1, &[1])), reference(1, 1, &[2]), verified(reference(2, 1, &[3]))];
    let (tried, _) = ports(&mut world, spec("a", None, refs), CERTIFICATE);
    assert_eq!(tried, [1, 3]);
}

#[test]
fn a_retry_that_the_policy_asks_for_keeps_to_the_strength_too() {
    let mut world = World::new();
    let retry =
        Retry { num_retries: 10, triggers: [RetryTrigger::ConnectFailure].into(), ..Retry::default() };
    let refs = vec![verified(reference(0, 1, &[1])), reference(1, 1, &[2])];
    let pool = PoolSpec { retry: Some(retry), ..spec("a", None, refs) };
    let (tried, end) = ports(&mut world, pool, CERTIFICATE);
    assert_eq!((tried, end), (vec![1; 11], Ok(GiveUp::Exhausted)));
}

#[test]
fn an_overflow_does_not_lead_to_a_weaker_way_either() {
    let mut world = World::new();
    let breaker = CircuitBreaker {
        max_connections: 1,
        max_pending_requests: 0,
        overflow: Overflow::Fallback,
        ..CircuitBreaker::default()
    };
    let refs = vec![verified(reference(0, 1, &[1])), verified(reference(1, 1, &[2])), reference(2, 1, &[3])];
    let pool = world.pool(PoolSpec { circuit_breaker: breaker, ..spec("a", None, refs) });
    let mut mine = Exchange::begin(pool.clone(), world.now);
    assert_eq!(port_at(&pool, mine.choose(GET, world.now, &mut world.rng).unwrap()), 1);
    let mut other = Exchange::begin(pool.clone(), world.now);
    assert_eq!(port_at(&pool, other.choose(GET, world.now, &mut world.rng).unwrap()), 2);
    let next = mine.failed(CERTIFICATE, SENT, world.now, &mut world.rng);
    assert!(matches!(next, Next::Retry { .. }), "{next:?}");
    assert_eq!(mine.choose(GET, world.now, &mut world.rng), Err(NoEndpoint::Overflow));
}

#[test]
fn a_passing_check_disproves_what_was_wrong_with_tls_since_it_makes_the_same_handshake() {
    // O26, replaced: an active check ends an ejection early where a failure to connect was the cause.
    for failure in [ConnectFailure::Certificate, ConnectFailure::Tls] {
        let mut world = World::new();
        let refs = vec![verified(reference(0, 1, &[1])), verified(reference(1, 1, &[9]))];
        let pool = world.pool(checked(spec("a", Some(task()), refs), &every_second()));
        world.tick();
        let mut exchange = Exchange::begin(pool.clone(), world.now);
        assert_eq!(port_at(&pool, exchange.choose(GET, world.now, &mut world.rng).unwrap()), 1);
        exchange.failed(Failure::Connect(failure), SENT, world.now, &mut world.rng);
        drop(exchange);
        assert_eq!(world.phase(&pool, 1).state, Health::Ejected);
        world.pass(2.5);
        assert_eq!(world.phase(&pool, 1).state, Health::Trial, "{failure:?}: before the 10 s are over");
    }
}

#[test]
fn one_address_under_two_policies_is_two_endpoints() {
    let mut world = World::new();
    let pools = [
        world.pool(spec("a", Some(task()), vec![verified(reference(0, 1, &[1])), reference(1, 1, &[9])])),
        world.pool(spec(
            "b",
            Some(task()),
            vec![over_tls(reference(0, 1, &[1]), 7, TlsStrength::Verified), reference(1, 1, &[9])],
        )),
        world.pool(spec("c", Some(task()), vec![verified(reference(0, 1, &[1])), reference(1, 1, &[9])])),
    ];
    let mut exchange = Exchange::begin(pools[0].clone(), world.now);
    exchange.choose(GET, world.now, &mut world.rng).unwrap();
    exchange.failed(CERTIFICATE, SENT, world.now, &mut world.rng);
    drop(exchange);
    let first: Vec<u16> = pools
        .iter()
        .map(|pool| {
            let mut exchange = Exchange::begin(pool.clone(), world.now);
            port_at(pool, exchange.choose(GET, world.now, &mut world.rng).unwrap())
        })
        .collect();
    assert_eq!(first, [9, 1, 9], "what is ejected is the endpoint under this policy, in every pool");
}
