//! UDP listeners on real sockets: sessions, failover, and what ends a session.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod l4;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use common::{Proxy, eventually, free_address, millis, no_retry};
use l4::{Asker, change_policy, listen, names, refs, route, state, udp};
use tokio::net::UdpSocket;
use understudy_conf::{ActiveHealthCheck, ActiveProbe, Endpoint, Protocol, RouteKind, State, TcpProbe};
use understudy_proxy::access_log::LogDestination;
use understudy_testbed::{TcpEcho, UdpEcho};

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

async fn active() -> UdpEcho {
    UdpEcho::start("active").await.unwrap()
}

async fn passive() -> UdpEcho {
    UdpEcho::start("passive").await.unwrap()
}

/// A port of UDP that nobody has, and that the system gives to nobody else while the tests run.
fn dead() -> SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    // Connected to another port, it takes nothing from anybody else: what comes is answered as a closed port is.
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], 9)).into()).unwrap();
    std::mem::forget(socket);
    address
}

/// A port of UDP for a listener: nobody else is given it meanwhile, since it is one of no other's address.
fn gateway() -> SocketAddr {
    let ip = std::net::Ipv4Addr::new(127, fastrand::u8(1..), fastrand::u8(..), fastrand::u8(1..255));
    std::net::UdpSocket::bind((ip, 0)).unwrap().local_addr().unwrap()
}

async fn before(active: &UdpEcho, passive: &UdpEcho, change: impl FnOnce(&mut State)) -> Proxy {
    let mut state = udp(gateway(), active.address(), passive.address());
    change(&mut state);
    start(&state).await
}

async fn losses(proxy: &Proxy, reason: &str) -> u64 {
    let metrics = proxy.admin("/metrics").await.text();
    let name = format!("understudy_udp_datagrams_lost_total{{reason=\"{reason}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&*name)).unwrap().parse().unwrap()
}

async fn sessions(proxy: &Proxy) -> u64 {
    let metrics = proxy.admin("/metrics").await.text();
    metrics.lines().find_map(|line| line.strip_prefix("understudy_udp_sessions ")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn datagrams_of_a_client_share_a_session_and_clients_have_their_own() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |_| {}).await;
    let (one, two) = (Asker::new(proxy.address).await, Asker::new(proxy.address).await);
    for _ in 0..3 {
        assert_eq!(one.ask("a").await, "active:a");
        assert_eq!(two.ask("b").await, "active:b");
    }
    // An empty datagram is one.
    assert_eq!(one.ask("").await, "active:");
    let long = "x".repeat(60_000);
    assert_eq!(two.ask(&long).await, format!("active:{long}"));
    let senders: BTreeSet<SocketAddr> = active.senders().into_iter().collect();
    assert_eq!((senders.len(), active.senders().len()), (2, 8));
    assert_eq!(sessions(&proxy).await, 2);
}

#[tokio::test]
async fn with_the_safe_retry_the_first_datagram_lands_on_the_fallback() {
    let passive = passive().await;
    let proxy = start(&udp(gateway(), dead(), passive.address())).await;
    let client = Asker::new(proxy.address).await;
    assert_eq!(client.ask("first").await, "passive:first");
    assert_eq!(client.ask("second").await, "passive:second");
    assert_eq!(Asker::new(proxy.address).await.ask("third").await, "passive:third");
    eventually("one retry and one ejection", || async {
        let metrics = proxy.admin("/metrics").await.text();
        let ejected = "understudy_ejections_total{pool=\"udproute/default/dns/rule/0\"} 1";
        ["understudy_retries_total 1", ejected].iter().all(|line| metrics.lines().any(|known| known == *line))
    })
    .await;
}

#[tokio::test]
async fn without_any_retry_the_datagram_after_the_first_lands_on_the_fallback() {
    let passive = passive().await;
    let mut state = udp(gateway(), dead(), passive.address());
    change_policy(&mut state, |policy| policy.retry = Some(no_retry()));
    let proxy = start(&state).await;
    let client = Asker::new(proxy.address).await;
    client.send("lost").await;
    eventually("the loss", || async { losses(&proxy, "no_endpoint").await == 1 }).await;
    eventually("the end of the session", || async { sessions(&proxy).await == 0 }).await;
    assert_eq!(client.ask("second").await, "passive:second");
}

#[tokio::test]
async fn a_primary_that_dies_in_a_session_is_left_at_the_next_datagram() {
    let (mut active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |_| {}).await;
    let client = Asker::new(proxy.address).await;
    assert_eq!(client.ask("a").await, "active:a");
    active.kill().await;
    assert_eq!(client.ask("b").await, "passive:b");
    assert_eq!(client.ask("c").await, "passive:c");
}

#[tokio::test]
async fn a_primary_that_is_revived_gets_new_sessions_again() {
    let (mut active, passive) = (active().await, passive().await);
    active.kill().await;
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| {
            policy.passive.as_mut().unwrap().base_ejection_time = millis(300);
        });
    })
    .await;
    assert_eq!(Asker::new(proxy.address).await.ask("a").await, "passive:a");
    active.revive().await.unwrap();
    eventually("the return", || async {
        // No client loses anything meanwhile.
        Asker::new(proxy.address).await.ask("b").await == "active:b"
    })
    .await;
}

/// An endpoint of UDP with one of TCP on the same port, which answers its checks.
async fn checked(name: &str) -> (TcpEcho, UdpEcho) {
    loop {
        let health = TcpEcho::start("health").await.unwrap();
        if let Ok(echo) = UdpEcho::start_at(name, health.address()).await {
            return (health, echo);
        }
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_its_active_check_loses_its_sessions() {
    // Checks go over TCP, to the same port unless they have their own.
    let ((mut health, active), (_passive_health, passive)) =
        (checked("active").await, checked("passive").await);
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| {
            let mut check = ActiveHealthCheck::new(ActiveProbe::Tcp(TcpProbe::default()));
            check.interval = millis(50);
            (check.healthy_threshold, check.unhealthy_threshold) = (1, 1);
            policy.active = Some(Arc::new(check));
        });
    })
    .await;
    let client = Asker::new(proxy.address).await;
    assert_eq!(client.ask("a").await, "active:a");
    health.kill().await;
    // It still answers; no datagram is lost.
    eventually("the move", || async { client.ask("b").await == "passive:b" }).await;
    health.revive().await.unwrap();
    eventually("the return", || async { Asker::new(proxy.address).await.ask("c").await == "active:c" }).await;
    assert_eq!(client.ask("d").await, "passive:d", "a session that is served stays");
}

#[tokio::test]
async fn an_endpoint_that_leaves_the_pool_loses_its_sessions() {
    let (active, passive) = (active().await, passive().await);
    let mut state = udp(gateway(), active.address(), passive.address());
    let mut proxy = start(&state).await;
    let client = Asker::new(proxy.address).await;
    assert_eq!(client.ask("a").await, "active:a");
    let primary = state.backends.get_mut(&*format!("backend/default/{}", active.address())).unwrap();
    Arc::make_mut(primary).endpoints[0] = Endpoint::at(passive.address().into());
    proxy.publish(&state).await;
    assert_eq!(client.ask("b").await, "passive:b");
}

#[tokio::test]
async fn weights_share_sessions_among_the_references_of_a_pool() {
    let (one, two) = (UdpEcho::start("one").await.unwrap(), UdpEcho::start("two").await.unwrap());
    let (mut state, address) = (state(), gateway());
    listen(&mut state, "udp", Protocol::Udp, address, None);
    let refs = refs(&mut state, &[(0, 9, one.address().into()), (0, 1, two.address().into())]);
    route(&mut state, (RouteKind::Udp, "dns"), "udp", &[], refs);
    let _proxy = start(&state).await;
    let mut count = 0;
    for _ in 0..400 {
        let client = Asker::new(address).await;
        let first = client.ask("x").await;
        assert_eq!(client.ask("x").await, first, "a session stays where it is");
        count += usize::from(first == "two:x");
    }
    // 40 are expected; so far from it are fewer than one run in a million.
    assert!((10..=75).contains(&count), "{count} of 400");
}

#[tokio::test]
async fn a_session_on_which_nothing_moves_ends() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| policy.timeouts.connection_idle = millis(200));
    })
    .await;
    let client = Asker::new(proxy.address).await;
    assert_eq!(client.ask("a").await, "active:a");
    eventually("the end of the session", || async { sessions(&proxy).await == 0 }).await;
    assert_eq!(client.ask("b").await, "active:b");
    let senders: BTreeSet<SocketAddr> = active.senders().into_iter().collect();
    assert_eq!(senders.len(), 2, "another session");
}

#[tokio::test]
async fn b1_sessions_beyond_the_limit_of_a_pool_are_refused_and_counted() {
    let active = active().await;
    let (mut state, address) = (state(), gateway());
    listen(&mut state, "udp", Protocol::Udp, address, None);
    change_policy(&mut state, |policy| policy.circuit_breaker.max_connections = 2);
    let refs = refs(&mut state, &[(0, 1, active.address().into())]);
    route(&mut state, (RouteKind::Udp, "dns"), "udp", &[], refs);
    let proxy = start(&state).await;
    let (one, two) = (Asker::new(address).await, Asker::new(address).await);
    assert_eq!((one.ask("a").await, two.ask("b").await), ("active:a".to_owned(), "active:b".to_owned()));
    let three = Asker::new(address).await;
    three.send("c").await;
    eventually("the loss", || async { losses(&proxy, "no_endpoint").await == 1 }).await;
    assert_eq!(one.ask("d").await, "active:d");
}

#[tokio::test]
async fn sessions_outlive_a_reload_and_end_with_their_listener() {
    let (active, passive) = (active().await, passive().await);
    let mut proxy = before(&active, &passive, |_| {}).await;
    let client = Asker::new(proxy.address).await;
    assert_eq!(client.ask("a").await, "active:a");
    // The other way round.
    proxy.publish(&udp(proxy.address, passive.address(), active.address())).await;
    assert_eq!(client.ask("b").await, "active:b");
    assert_eq!(Asker::new(proxy.address).await.ask("c").await, "passive:c");
    let elsewhere = gateway();
    proxy.publish(&udp(elsewhere, active.address(), passive.address())).await;
    assert_eq!(Asker::new(elsewhere).await.ask("d").await, "active:d");
    // The port is free again at once.
    UdpSocket::bind(proxy.address).await.unwrap();
}

#[tokio::test]
async fn without_a_route_datagrams_are_dropped_and_counted() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |state| state.routes.clear()).await;
    Asker::new(proxy.address).await.send("a").await;
    eventually("the loss", || async { losses(&proxy, "no_route").await == 1 }).await;
    assert!(active.senders().is_empty());
}

#[tokio::test]
async fn a_listener_of_udp_and_one_of_tcp_may_have_the_same_port_and_the_same_endpoints() {
    let (active, passive) = (active().await, passive().await);
    let tcp = TcpEcho::start("tcp").await.unwrap();
    let address = gateway();
    let mut state = udp(address, active.address(), passive.address());
    listen(&mut state, "tcp", Protocol::Tcp, address, None);
    // Over TCP nobody listens at the first one, which says nothing of UDP there.
    let refs = l4::pair(&mut state, active.address(), tcp.address());
    route(&mut state, (RouteKind::Tcp, "dns"), "tcp", &[], refs);
    let _proxy = start(&state).await;
    assert_eq!(names(address, 2).await, ["tcp", "tcp"]);
    assert_eq!(Asker::new(address).await.ask("a").await, "active:a");
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_and_bound_when_it_is_free() {
    let (active, passive) = (active().await, passive().await);
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let proxy = start(&udp(address, active.address(), passive.address())).await;
    let named = format!("UDP port {} of 127.0.0.1 is taken", address.port());
    proxy.wait_for_acknowledgement(|ack| ack.degraded.iter().any(|line| line.starts_with(&named))).await;
    drop(taken);
    proxy.wait_for_acknowledgement(|ack| ack.degraded.is_empty()).await;
    assert_eq!(Asker::new(address).await.ask("a").await, "active:a");
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_session() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("access.log");
    let passive = passive().await;
    let mut state = udp(gateway(), dead(), passive.address());
    change_policy(&mut state, |policy| policy.timeouts.connection_idle = millis(200));
    let proxy = Proxy::start_with(&state, |options| {
        options.access_log.destination = LogDestination::File(file.clone());
    })
    .await;
    assert_eq!(Asker::new(proxy.address).await.ask("12345").await, "passive:12345");
    eventually("the line", || async { std::fs::read_to_string(&file).unwrap().ends_with('\n') }).await;
    let line = std::fs::read_to_string(&file).unwrap();
    for part in [
        " 0 \"\" \"\" \"\" UDP ",
        " in=5 out=13 ",
        " route=udproute/default/dns/rule/0 pool=fallback ",
        &format!(" endpoint={} attempts=2 retries=1\n", passive.address()),
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[tokio::test]
async fn a_proxy_that_stops_answers_what_it_was_asked() {
    let slow = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let passive = passive().await;
    let mut proxy = start(&udp(gateway(), slow.local_addr().unwrap(), passive.address())).await;
    let client = Asker::new(proxy.address).await;
    client.send("a").await;
    let mut buffer = [0; 16];
    let (length, session) = slow.recv_from(&mut buffer).await.unwrap();
    proxy.begin_to_stop();
    slow.send_to(b"answered", session).await.unwrap();
    assert_eq!((length, client.receive().await), (1, "answered".to_owned()));
    tokio::time::timeout(common::PATIENCE, proxy.stop()).await.unwrap();
}

#[tokio::test]
async fn a_listener_on_every_address_answers_from_the_one_that_was_asked() {
    let (active, passive) = (active().await, passive().await);
    let port = free_address().port();
    let _proxy = start(&udp(([0, 0, 0, 0], port).into(), active.address(), passive.address())).await;
    for host in [1, 2, 3] {
        // A connected client takes answers from nowhere else.
        assert_eq!(Asker::new(([127, 0, 0, host], port).into()).await.ask("a").await, "active:a");
    }
}
