//! How an endpoint is chosen: random, by hash, and with a growing share.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{Answer, GET, Mode, World, reference, spec, task};
use proptest::prelude::*;
use understudy_conf::{ConsistentHash, GatewayDuration, HashKey, LoadBalancer};
use understudy_engine::{Pool, PoolSpec, RefSpec, RequestTraits, hash};

fn hashing(refs: Vec<RefSpec>) -> PoolSpec {
    let by = HashKey::Headers(vec!["x-user".to_owned()]);
    let load_balancer = LoadBalancer::ConsistentHash(ConsistentHash { by, table_size: 1009 });
    PoolSpec { load_balancer, ..spec("a", Some(task()), refs) }
}

fn user(number: u32) -> RequestTraits {
    RequestTraits { hash: Some(hash(format!("user-{number}").as_bytes())), ..GET }
}

/// Where each user goes.
fn homes(world: &mut World, pool: &Arc<Pool>, users: u32) -> Vec<u16> {
    (0..users)
        .map(|number| match world.request_with(pool, user(number)) {
            Answer::Ok(port) => port,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn counts(homes: &[u16]) -> BTreeMap<u16, u32> {
    let mut counts = BTreeMap::new();
    for port in homes {
        *counts.entry(*port).or_default() += 1;
    }
    counts
}

#[test]
fn l3_random_spreads_evenly_whatever_is_under_way() {
    let mut world = World::new();
    let refs = vec![reference(0, 1, &[1, 2, 3, 4])];
    let pool = world.pool(PoolSpec { load_balancer: LoadBalancer::Random, ..spec("a", None, refs) });
    let answers = world.requests(&pool, 8000);
    assert!(answers.len() == 4 && answers.values().all(|count| (1800..2200).contains(count)), "{answers:?}");
}

#[test]
fn l5_equal_requests_go_to_one_endpoint_and_all_of_them_are_spread() {
    let mut world = World::new();
    let pool = world.pool(hashing(vec![reference(0, 1, &[1, 2, 3, 4]), reference(1, 1, &[9])]));
    let before = homes(&mut world, &pool, 2000);
    assert_eq!(homes(&mut world, &pool, 2000), before);
    let counts = counts(&before);
    assert!(counts.len() == 4 && counts.values().all(|count| (400..600).contains(count)), "{counts:?}");
}

#[test]
fn l5_a_request_with_nothing_to_hash_goes_anywhere() {
    let mut world = World::new();
    let pool = world.pool(hashing(vec![reference(0, 1, &[1, 2, 3, 4])]));
    let answers = world.requests(&pool, 400);
    assert!(answers.len() == 4 && answers.values().all(|count| *count > 50), "{answers:?}");
}

#[test]
fn l5_weights_of_references_hold_and_stick() {
    let mut world = World::new();
    let pool = world.pool(hashing(vec![reference(0, 3, &[1]), reference(0, 1, &[2])]));
    let before = homes(&mut world, &pool, 4000);
    assert!((2850..3150).contains(&counts(&before)[&1]), "{:?}", counts(&before));
    assert_eq!(homes(&mut world, &pool, 4000), before);
}

#[test]
fn l5_an_ejected_endpoint_moves_its_own_requests_only_and_has_them_back_after_its_ramp() {
    let mut world = World::new();
    let pool = world.pool(hashing(vec![reference(0, 1, &[1, 2, 3, 4])]));
    let before = homes(&mut world, &pool, 1000);
    world.set(2, Mode::Refuses);
    homes(&mut world, &pool, 1000);
    let without = homes(&mut world, &pool, 1000);
    for (was, is) in before.iter().zip(&without) {
        assert!(*is != 2 && (*was == 2 || was == is), "{was} became {is}");
    }
    let heirs = counts(
        &before.iter().zip(&without).filter(|(was, _)| **was == 2).map(|(_, is)| *is).collect::<Vec<_>>(),
    );
    assert!(heirs.len() == 3 && heirs.values().all(|count| *count > 50), "spread over the others: {heirs:?}");
    world.set(2, Mode::Up);
    for _ in 0..20 {
        world.pass(2.0);
        homes(&mut world, &pool, 100);
    }
    assert_eq!(homes(&mut world, &pool, 1000), before);
}

#[test]
fn l5_a_retry_goes_where_the_requests_will_go_from_then_on() {
    let mut world = World::new();
    let pool = world.pool(hashing(vec![reference(0, 1, &[1, 2, 3, 4])]));
    world.set(3, Mode::Refuses);
    let moved = homes(&mut world, &pool, 200);
    assert_eq!(homes(&mut world, &pool, 200), moved);
}

#[test]
fn p4_the_hash_picks_the_priority_too() {
    let mut world = World::new();
    // 1 of 3 healthy: 46/54 (P5). Who goes to the fallback stays there.
    let mut spec = hashing(vec![reference(0, 1, &[1, 2, 3]), reference(1, 1, &[8, 9])]);
    spec.retry = common::no_retry();
    let pool = world.pool(spec);
    for port in [1, 2] {
        world.set(port, Mode::Refuses);
    }
    for number in 0..200 {
        world.request_with(&pool, user(number));
    }
    let first = homes(&mut world, &pool, 2000);
    let primary = counts(&first)[&3];
    assert!((46 - 4..=46 + 4).contains(&(primary / 20)), "{primary} of 2000");
    assert_eq!(homes(&mut world, &pool, 2000), first);
}

#[test]
fn l6_an_endpoint_that_joins_gets_a_growing_share() {
    let mut world = World::new();
    for (number, balancer) in [LoadBalancer::RoundRobin, LoadBalancer::LeastRequest].into_iter().enumerate() {
        let slow = |ports: &[u16]| PoolSpec {
            load_balancer: balancer.clone(),
            slow_start: Some(GatewayDuration::from_secs(100)),
            ..spec(&format!("pool-{number}"), None, vec![reference(0, 1, ports)])
        };
        let _old = world.pool(slow(&[1, 2]));
        let even = world.requests(&_old, 2000);
        assert!(even.values().all(|count| (900..1100).contains(count)), "all new is none new: {even:?}");
        let pool = world.pool(slow(&[1, 2, 3]));
        let mut shares = Vec::new();
        for _ in 0..3 {
            shares.push(world.requests(&pool, 6000).get(&3).copied().unwrap_or(0));
            world.pass(50.0);
        }
        assert!((120..280).contains(&shares[0]), "10 % of a third: {shares:?}");
        assert!((850..1150).contains(&shares[1]), "50 %: {shares:?}");
        assert!((1850..2150).contains(&shares[2]), "all of it: {shares:?}");
    }
}

#[test]
fn l6_a_returning_endpoint_has_the_slow_start_in_place_of_the_ramp() {
    let mut world = World::new();
    let pool = world.pool(PoolSpec {
        slow_start: Some(GatewayDuration::from_secs(200)),
        ..spec("a", Some(task()), vec![reference(0, 1, &[1, 2])])
    });
    world.set(1, Mode::Refuses);
    world.requests(&pool, 20);
    world.set(1, Mode::Up);
    while world.phase(&pool, 1).state != understudy_conf::Health::Ramping {
        world.pass(1.0);
        world.requests(&pool, 5);
    }
    // The ramp would be over after 6 s.
    world.pass(20.0);
    let answers = world.requests(&pool, 4000);
    assert!((140..280).contains(&answers[&1]), "10 % of a half: {answers:?}");
    world.pass(100.0);
    let answers = world.requests(&pool, 4000);
    assert!((1050..1350).contains(&answers[&1]), "60 % of a half: {answers:?}");
    world.pass(80.0);
    let answers = world.requests(&pool, 4000);
    assert!((1850..2150).contains(&answers[&1]), "all of a half: {answers:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn l5_when_endpoints_die_only_their_share_moves(
        count in 3_u16..12, dead in prop::collection::btree_set(1_u16..12, 1..4),
    ) {
        let mut world = World::new();
        let ports: Vec<u16> = (1..=count).collect();
        let dead: Vec<u16> = dead.into_iter().filter(|port| *port < count).collect();
        prop_assume!(dead.len() * 2 < usize::from(count));
        let pool = world.pool(hashing(vec![reference(0, 1, &ports)]));
        let before = homes(&mut world, &pool, 500);
        for port in &dead {
            world.set(*port, Mode::Refuses);
        }
        let after = homes(&mut world, &pool, 500);
        for (was, is) in before.into_iter().zip(after) {
            prop_assert!(!dead.contains(&is));
            prop_assert!(was == is || dead.contains(&was), "{} became {}", was, is);
        }
    }

    #[test]
    fn l5_when_an_endpoint_leaves_the_pool_little_more_than_its_share_moves(count in 3_u16..12, gone in 1_u16..12) {
        prop_assume!(gone <= count);
        let mut world = World::new();
        let ports: Vec<u16> = (1..=count).collect();
        let rest: Vec<u16> = ports.iter().copied().filter(|port| *port != gone).collect();
        let pool = world.pool(hashing(vec![reference(0, 1, &ports)]));
        let before = homes(&mut world, &pool, 1000);
        let pool = world.pool(hashing(vec![reference(0, 1, &rest)]));
        let after = homes(&mut world, &pool, 1000);
        let moved = before.iter().zip(&after).filter(|(was, is)| **was != gone && was != is).count();
        prop_assert!(moved < 200, "{} of 1000 moved that need not", moved);
    }
}
