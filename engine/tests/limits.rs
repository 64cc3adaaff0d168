//! Limits of a pool: what overflows, what waits, and who is next.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use common::{GET, Mode, SENT, World, port_at, reference, spec, task};
use proptest::prelude::*;
use understudy_conf::{CircuitBreaker, Health, Overflow, PoolName, RetryTrigger, UpstreamProtocol};
use understudy_engine::{Exchange, Failure, Next, NoEndpoint, Pool, PoolSpec};

fn limited(breaker: CircuitBreaker) -> PoolSpec {
    let refs = vec![reference(0, 1, &[1, 2]), reference(1, 1, &[9])];
    PoolSpec { circuit_breaker: breaker, ..spec("a", Some(task()), refs) }
}

/// Begins a request: its exchange, and the port or why there is none.
fn begin(world: &mut World, pool: &Arc<Pool>) -> (Exchange, Result<u16, NoEndpoint>) {
    let mut exchange = Exchange::begin(pool.clone(), world.now);
    let port = again(world, &mut exchange);
    (exchange, port)
}

fn again(world: &mut World, exchange: &mut Exchange) -> Result<u16, NoEndpoint> {
    let choice = exchange.choose(GET, world.now, &mut world.rng)?;
    Ok(port_at(exchange.pool(), choice))
}

/// The same endpoints, but those of these priorities speak HTTP/2 with so many streams on a connection.
fn over_h2(mut spec: PoolSpec, priorities: &[u32], streams: u32) -> PoolSpec {
    spec.streams_per_connection = streams;
    for reference in spec.refs.iter_mut().filter(|reference| priorities.contains(&reference.priority)) {
        for member in std::sync::Arc::make_mut(&mut reference.members) {
            member.identity.protocol = UpstreamProtocol::H2c;
        }
    }
    spec
}

/// How many requests are let in at once, and what the next one is told.
fn let_in(world: &mut World, pool: &Arc<Pool>) -> (usize, NoEndpoint) {
    let mut under_way = Vec::new();
    loop {
        match begin(world, pool) {
            (exchange, Ok(_)) => under_way.push(exchange),
            (_, Err(error)) => return (under_way.len(), error),
        }
    }
}

#[test]
fn b3_connections_of_http_2_let_in_as_many_requests_as_they_carry() {
    let breaker = CircuitBreaker {
        max_connections: 2,
        max_pending_requests: 1,
        overflow: Overflow::Reject,
        ..CircuitBreaker::default()
    };
    let mut world = World::new();
    let pool = world.pool(over_h2(limited(breaker.clone()), &[0], 10));
    assert_eq!(let_in(&mut world, &pool), (20, NoEndpoint::Wait));
    // Requests are counted as ever.
    let parallel = CircuitBreaker { max_parallel_requests: 5, ..breaker.clone() };
    let pool = world.pool(over_h2(PoolSpec { name: name("b"), ..limited(parallel) }, &[0], 10));
    assert_eq!(let_in(&mut world, &pool), (5, NoEndpoint::Overflow));
    // Both endpoints of the primary pool together.
    let each = CircuitBreaker { max_connections: 1024, max_connections_per_endpoint: Some(1), ..breaker };
    let pool = world.pool(over_h2(PoolSpec { name: name("c"), ..limited(each.clone()) }, &[0], 10));
    assert_eq!(let_in(&mut world, &pool), (20, NoEndpoint::Wait));
    // Where some speak HTTP/1.1, a connection may be needed for each request.
    let mut mixed =
        limited(CircuitBreaker { max_connections: 2, max_connections_per_endpoint: None, ..each });
    mixed.refs.push(reference(0, 1, &[3]));
    let mut mixed = over_h2(PoolSpec { name: name("d"), ..mixed }, &[0], 10);
    std::sync::Arc::make_mut(&mut mixed.refs[0].members)[0].identity.protocol = UpstreamProtocol::Http1;
    let pool = world.pool(mixed);
    assert_eq!(let_in(&mut world, &pool), (2, NoEndpoint::Wait));
}

fn name(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

#[derive(Default)]
struct Calls(AtomicUsize);

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn is_called(exchange: &Exchange) -> bool {
    let mut room = exchange.room().unwrap();
    let waker = Waker::noop();
    std::pin::Pin::new(&mut room).poll(&mut Context::from_waker(waker)) == Poll::Ready(())
}

#[test]
fn b1_every_limit_is_1024_unless_set() {
    let breaker = CircuitBreaker::default();
    let limits = [
        breaker.max_connections,
        breaker.max_pending_requests,
        breaker.max_parallel_requests,
        breaker.max_parallel_retries,
    ];
    assert_eq!(limits, [1024; 4]);
    assert_eq!((breaker.max_requests_per_connection, breaker.max_connections_per_endpoint), (None, None));
    let mut world = World::new();
    let pool = world.pool(PoolSpec {
        circuit_breaker: CircuitBreaker { overflow: Overflow::Reject, ..breaker },
        ..limited(CircuitBreaker::default())
    });
    let all: Vec<_> = (0..2049).map(|_| begin(&mut world, &pool)).collect();
    let count =
        |wanted: fn(&Result<u16, NoEndpoint>) -> bool| all.iter().filter(|(_, got)| wanted(got)).count();
    assert_eq!(count(|got| got.is_ok()), 1024);
    assert_eq!(count(|got| *got == Err(NoEndpoint::Wait)), 1024);
    assert_eq!(count(|got| *got == Err(NoEndpoint::Overflow)), 1);
}

#[test]
fn b2_requests_beyond_the_limit_overflow_to_the_fallback_while_it_has_room() {
    let mut world = World::new();
    let pool = world.pool(limited(CircuitBreaker { max_parallel_requests: 5, ..CircuitBreaker::default() }));
    let all: Vec<_> = (0..12).map(|_| begin(&mut world, &pool)).collect();
    let ports: Vec<_> = all.iter().map(|(_, port)| *port).collect();
    assert!(ports[..5].iter().all(|port| matches!(port, Ok(1 | 2))), "{ports:?}");
    assert!(ports[5..10].iter().all(|port| *port == Ok(9)), "the fallback has the same limit: {ports:?}");
    assert_eq!(ports[10..], [Err(NoEndpoint::Overflow); 2]);
    drop(all);
    assert!(matches!(begin(&mut world, &pool).1, Ok(1 | 2)), "the room is free again");
}

#[test]
fn b2_an_overflow_is_rejected_where_that_is_asked_for_and_charged_to_nobody() {
    // O9
    let mut world = World::new();
    let breaker =
        CircuitBreaker { max_parallel_requests: 5, overflow: Overflow::Reject, ..CircuitBreaker::default() };
    let pool = world.pool(limited(breaker));
    let all: Vec<_> = (0..12).map(|_| begin(&mut world, &pool)).collect();
    assert_eq!(all.iter().filter(|(_, port)| *port == Err(NoEndpoint::Overflow)).count(), 7);
    assert!(all.iter().filter(|(_, port)| port.is_err()).all(|(exchange, _)| exchange.attempts() == 0));
    for port in [1, 2, 9] {
        assert_eq!(world.phase(&pool, port).state, Health::Healthy);
    }
    assert_eq!(pool.members()[2].record.requests(), 0);
}

#[test]
fn b2_a_retry_needs_room_too() {
    let mut world = World::new();
    let retry = Some(understudy_conf::Retry {
        triggers: [RetryTrigger::Status5xx].into(),
        ..understudy_conf::Retry::default()
    });
    let breaker =
        CircuitBreaker { max_parallel_requests: 1, overflow: Overflow::Reject, ..CircuitBreaker::default() };
    let refs = vec![reference(0, 1, &[1]), reference(1, 1, &[9])];
    let pool = world.pool(PoolSpec { retry, circuit_breaker: breaker, ..spec("a", Some(task()), refs) });
    let (mut one, _) = begin(&mut world, &pool);
    assert!(matches!(one.failed(Failure::Status(500), SENT, world.now, &mut world.rng), Next::Retry { .. }));
    let (other, port) = begin(&mut world, &pool);
    assert_eq!(port, Ok(9), "the primary was ejected");
    assert_eq!(again(&mut world, &mut one), Err(NoEndpoint::Overflow));
    drop(other);
    assert_eq!(again(&mut world, &mut one), Ok(9));
}

#[test]
fn b3_at_the_limit_of_connections_requests_wait_and_then_overflow() {
    let mut world = World::new();
    let breaker = CircuitBreaker { max_connections: 2, max_pending_requests: 1, ..CircuitBreaker::default() };
    let pool = world.pool(limited(breaker.clone()));
    let all: Vec<_> = (0..12).map(|_| begin(&mut world, &pool)).collect();
    let ports: Vec<_> = all.iter().map(|(_, port)| *port).collect();
    assert!(ports[..2].iter().all(|port| matches!(port, Ok(1 | 2))), "{ports:?}");
    assert_eq!(ports[2], Err(NoEndpoint::Wait));
    assert_eq!(ports[3..5], [Ok(9); 2], "the fallback's connections");
    assert_eq!(ports[5..], [Err(NoEndpoint::Overflow); 7]);
    drop(all);
    let pool = world.pool(limited(CircuitBreaker { overflow: Overflow::Reject, ..breaker }));
    let all: Vec<_> = (0..12).map(|_| begin(&mut world, &pool)).collect();
    assert_eq!(all.iter().filter(|(_, port)| *port == Err(NoEndpoint::Overflow)).count(), 9);
}

#[test]
fn b3_those_that_wait_are_called_in_their_order_and_nobody_overtakes_them() {
    let mut world = World::new();
    let breaker = CircuitBreaker { max_connections: 1, max_pending_requests: 9, ..CircuitBreaker::default() };
    let pool = world.pool(limited(breaker));
    let (first, _) = begin(&mut world, &pool);
    let (mut second, port) = begin(&mut world, &pool);
    assert_eq!(port, Err(NoEndpoint::Wait));
    let (mut third, _) = begin(&mut world, &pool);
    let calls = Arc::new(Calls::default());
    let mut room = second.room().unwrap();
    let waker = Waker::from(calls.clone());
    assert!(std::pin::Pin::new(&mut room).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(first);
    assert_eq!(calls.0.load(Ordering::SeqCst), 1, "the one that waits is woken");
    assert!(!is_called(&third), "and only that one");
    let (late, port) = begin(&mut world, &pool);
    assert_eq!(port, Err(NoEndpoint::Wait), "a newcomer does not overtake");
    assert!(again(&mut world, &mut second).is_ok());
    assert_eq!(again(&mut world, &mut third), Err(NoEndpoint::Wait));
    drop(second);
    assert!(is_called(&third) && !is_called(&late));
    drop(third);
    assert!(is_called(&late), "one that gives up hands its call on");
}

#[test]
fn b3_a_raised_limit_lets_all_that_wait_in() {
    let mut world = World::new();
    let breaker = CircuitBreaker { max_connections: 1, max_pending_requests: 9, ..CircuitBreaker::default() };
    let pool = world.pool(limited(breaker.clone()));
    let (first, _) = begin(&mut world, &pool);
    let raised = world.pool(limited(CircuitBreaker { max_connections: 9, ..breaker }));
    let mut waiting: Vec<_> = (0..4).map(|_| begin(&mut world, &pool).0).collect();
    let (newcomer, port) = begin(&mut world, &raised);
    assert_eq!(port, Err(NoEndpoint::Wait), "the queue outlives a change");
    drop(first);
    // The requests of before keep their limit; the newcomer, whose turn comes after them, opens the door.
    for _ in 0..4 {
        assert!(is_called(&waiting[0]));
        assert!(again(&mut world, &mut waiting[0]).is_ok());
        waiting.remove(0);
    }
    assert!(is_called(&newcomer));
}

#[test]
fn a_limit_of_one_endpoint_moves_requests_to_the_others() {
    let mut world = World::new();
    let breaker = CircuitBreaker {
        max_connections_per_endpoint: Some(2),
        max_pending_requests: 1,
        ..CircuitBreaker::default()
    };
    let pool = world.pool(limited(breaker));
    let mut all: Vec<_> = (0..9).map(|_| begin(&mut world, &pool)).collect();
    let mut ports: Vec<_> = all.iter().map(|(_, port)| *port).collect();
    ports[..4].sort_unstable_by_key(|port| port.ok());
    let (wait, over) = (Err(NoEndpoint::Wait), Err(NoEndpoint::Overflow));
    assert_eq!(ports, [Ok(1), Ok(1), Ok(2), Ok(2), wait, Ok(9), Ok(9), over, over]);
    let freed = all.remove(0).1.unwrap();
    let waiting = &mut all[3].0;
    assert!(is_called(waiting));
    assert_eq!(again(&mut world, waiting), Ok(freed));
}

#[test]
fn a_pool_without_connections_has_no_room_at_all() {
    let mut world = World::new();
    let pool = world.pool(limited(CircuitBreaker { max_connections: 0, ..CircuitBreaker::default() }));
    assert_eq!(begin(&mut world, &pool).1, Err(NoEndpoint::Overflow));
}

#[test]
fn counts_go_on_when_the_pool_is_built_anew() {
    let mut world = World::new();
    let breaker =
        CircuitBreaker { max_parallel_requests: 1, overflow: Overflow::Reject, ..CircuitBreaker::default() };
    let pool = world.pool(limited(breaker.clone()));
    let (held, _) = begin(&mut world, &pool);
    let mut spec = limited(breaker);
    spec.refs.push(reference(0, 1, &[3]));
    let pool = world.pool(spec);
    assert_eq!(begin(&mut world, &pool).1, Err(NoEndpoint::Overflow));
    drop(held);
    assert!(begin(&mut world, &pool).1.is_ok());
}

#[test]
fn b3_no_call_is_lost_between_threads() {
    struct Unpark(std::thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let world = World::new();
    let breaker = CircuitBreaker { max_connections: 2, max_pending_requests: 8, ..CircuitBreaker::default() };
    let pool =
        world.pool(PoolSpec { circuit_breaker: breaker, ..spec("a", None, vec![reference(0, 1, &[1])]) });
    let (under_way, most, now) = (AtomicUsize::new(0), AtomicUsize::new(0), world.now);
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (pool, under_way, most) = (&pool, &under_way, &most);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(seed);
                let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
                for _ in 0..500 {
                    let mut exchange = Exchange::begin(pool.clone(), now);
                    while exchange.choose(GET, now, &mut rng) == Err(NoEndpoint::Wait) {
                        let mut room = exchange.room().unwrap();
                        while std::pin::Pin::new(&mut room)
                            .poll(&mut Context::from_waker(&waker))
                            .is_pending()
                        {
                            std::thread::park();
                        }
                    }
                    most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::yield_now();
                    under_way.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    assert_eq!(most.load(Ordering::SeqCst), 2);
}

/// A step of a random story.
#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// The exchange with this number, modulo their count, ends.
    End(usize),
    /// It fails, and chooses again if it may.
    Fail(usize),
    Try(usize),
    Mode(u16, Mode),
}

proptest! {
    #[test]
    fn whatever_happens_limits_hold_nothing_leaks_and_nobody_waits_beside_free_room(
        story in prop::collection::vec(prop_oneof![
            3 => Just(Step::Begin),
            2 => any::<usize>().prop_map(Step::End),
            1 => any::<usize>().prop_map(Step::Fail),
            2 => any::<usize>().prop_map(Step::Try),
            1 => (prop_oneof![Just(1_u16), Just(2), Just(9)], prop_oneof![Just(Mode::Up), Just(Mode::Refuses)])
                .prop_map(|(port, mode)| Step::Mode(port, mode)),
        ], 1..120),
        connections in 1_u32..4, pending in 0_u32..4, per_endpoint in prop::option::of(1_u32..3),
    ) {
        let mut world = World::new();
        let breaker = CircuitBreaker {
            max_connections: connections,
            max_pending_requests: pending,
            max_connections_per_endpoint: per_endpoint,
            ..CircuitBreaker::default()
        };
        let pool = world.pool(limited(breaker));
        let mut all: Vec<(Exchange, Result<u16, NoEndpoint>)> = Vec::new();
        for step in story {
            match step {
                Step::Begin => all.push(begin(&mut world, &pool)),
                Step::Mode(port, mode) => world.set(port, mode),
                Step::End(index) if !all.is_empty() => {
                    let index = index % all.len();
                    drop(all.swap_remove(index));
                }
                Step::Fail(index) if !all.is_empty() => {
                    let index = index % all.len();
                    let refused = Failure::Connect(understudy_engine::ConnectFailure::Refused);
                    let (exchange, got) = &mut all[index];
                    if got.is_ok() {
                        match exchange.failed(refused, SENT, world.now, &mut world.rng) {
                            Next::Retry { .. } => *got = again(&mut world, exchange),
                            Next::GiveUp(_) => drop(all.swap_remove(index)),
                        }
                    }
                }
                Step::Try(index) if !all.is_empty() => {
                    let index = index % all.len();
                    let (exchange, got) = &mut all[index];
                    if *got == Err(NoEndpoint::Wait) && is_called(exchange) {
                        *got = again(&mut world, exchange);
                    }
                }
                _ => {}
            }
            let on = |ports: &[u16]| all.iter().filter(|(_, got)| got.is_ok_and(|port| ports.contains(&port))).count();
            for lane in [&[1, 2][..], &[9]] {
                prop_assert!(on(lane) <= connections as usize);
            }
            for port in [1, 2, 9] {
                prop_assert!(per_endpoint.is_none_or(|limit| on(&[port]) <= limit as usize));
            }
            let waiting: Vec<&Exchange> =
                all.iter().filter(|(_, got)| *got == Err(NoEndpoint::Wait)).map(|(exchange, _)| exchange).collect();
            prop_assert!(waiting.len() <= 2 * pending as usize, "each pool has its queue");
            if !waiting.is_empty() && on(&[1, 2, 9]) == 0 {
                prop_assert!(waiting.iter().any(|exchange| is_called(exchange)), "someone is called");
            }
        }
        // Those that wait are served one after the other, as soon as room is free.
        all.retain(|(_, got)| *got == Err(NoEndpoint::Wait));
        for _ in 0..200 {
            let Some(index) = all.iter().position(|(exchange, _)| is_called(exchange)) else { break };
            let (mut exchange, _) = all.swap_remove(index);
            if again(&mut world, &mut exchange) == Err(NoEndpoint::Wait) {
                all.push((exchange, Err(NoEndpoint::Wait)));
            }
        }
        prop_assert!(all.is_empty(), "{} wait for ever", all.len());
        for member in pool.members() {
            prop_assert_eq!(member.record.endpoint().active(), 0);
        }
        let free: Vec<_> = (0..connections).map(|_| begin(&mut world, &pool).1).collect();
        prop_assert!(per_endpoint.is_some() || free.iter().all(Result::is_ok), "{:?}", free);
    }
}
