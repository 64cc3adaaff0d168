//! TCP listeners on real sockets: bytes, failover, and what ends a connection.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod l4;
mod pki;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use common::{PATIENCE, Proxy, all, eventually, free_address, millis, no_retry};
use l4::{change_policy, converse, listen, names, pair, refs, route, state, tcp};
use pki::{Authority, trust};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::{Instant, timeout};
use understudy_conf::{
    Action, BackendTls, ConsistentHash, HashKey, LoadBalancer, PoolRef, Protocol, RefTarget, RouteKind,
    State, TcpKeepalive, UpstreamProtocol,
};
use understudy_proxy::access_log::LogDestination;
use understudy_testbed::TcpEcho;

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

async fn active() -> TcpEcho {
    TcpEcho::start("active").await.unwrap()
}

async fn passive() -> TcpEcho {
    TcpEcho::start("passive").await.unwrap()
}

/// A proxy before a primary and a fallback.
async fn before(active: &TcpEcho, passive: &TcpEcho, change: impl FnOnce(&mut State)) -> Proxy {
    let mut state = tcp(free_address(), active.address(), passive.address());
    change(&mut state);
    start(&state).await
}

/// Waits until the metrics have these lines: a connection is counted when it has ended, a little after its client saw that.
async fn counted(proxy: &Proxy, lines: &[String]) {
    eventually(&format!("{lines:?}"), || async {
        let metrics = proxy.admin("/metrics").await.text();
        lines.iter().all(|line| metrics.lines().any(|known| known == line))
    })
    .await;
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_by_itself() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |_| {}).await;
    let mut conversation = converse(proxy.address).await.unwrap();
    assert_eq!(conversation.name, "active");
    for text in ["a", "second", "\r\nGET / HTTP/1.1\r\n\r\n\0\u{1}"] {
        conversation.echo(text.as_bytes()).await.unwrap();
    }
    // What comes after the client's end still arrives.
    assert_eq!(conversation.leave().await.unwrap(), "bye\n");
    assert_eq!((active.connections(), passive.connections()), (1, 0));
}

#[tokio::test]
async fn more_than_any_buffer_holds_arrives_whole() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |_| {}).await;
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sent: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
    let expected = [b"active\n", &*sent, b"bye\n"].concat();
    let writing = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer.shutdown().await.unwrap();
    });
    let mut read = Vec::new();
    timeout(PATIENCE, reader.read_to_end(&mut read)).await.unwrap().unwrap();
    assert!(read == expected, "{} bytes", read.len());
    writing.await.unwrap();
}

#[tokio::test]
async fn with_the_safe_retry_the_first_connection_lands_on_the_fallback() {
    let passive = passive().await;
    let state = tcp(free_address(), free_address(), passive.address());
    let proxy = start(&state).await;
    assert_eq!(names(proxy.address, 5).await, all("passive", 5));
    let pool = "pool=\"tcproute/default/db/rule/0\"";
    counted(
        &proxy,
        &[
            // Ejected at once, so one only.
            "understudy_retries_total 1".to_owned(),
            format!("understudy_upstream_attempts_total{{outcome=\"connect_failed\",{pool}}} 1"),
            format!("understudy_ejections_total{{{pool}}} 1"),
            format!("understudy_failovers_total{{{pool}}} 1"),
            "understudy_streams_total{outcome=\"ended\",route=\"tcproute/default/db/rule/0\"} 5".to_owned(),
        ],
    )
    .await;
}

#[tokio::test]
async fn without_any_retry_the_connection_after_the_first_lands_on_the_fallback() {
    let passive = passive().await;
    let mut state = tcp(free_address(), free_address(), passive.address());
    change_policy(&mut state, |policy| policy.retry = Some(no_retry()));
    let proxy = start(&state).await;
    assert_eq!(names(proxy.address, 4).await, ["-", "passive", "passive", "passive"]);
}

#[tokio::test]
async fn without_any_policy_the_safe_retry_alone_leads_every_connection_to_the_fallback() {
    let passive = passive().await;
    let mut state = tcp(free_address(), free_address(), passive.address());
    for pool in state.pools.values_mut() {
        Arc::make_mut(pool).policy = None;
    }
    let proxy = start(&state).await;
    assert_eq!(names(proxy.address, 5).await, all("passive", 5));
}

#[tokio::test]
async fn a_primary_that_is_killed_and_revived_is_left_and_returned_to() {
    let (mut active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| {
            policy.passive.as_mut().unwrap().base_ejection_time = millis(300);
        });
    })
    .await;
    assert_eq!(names(proxy.address, 3).await, all("active", 3));
    active.kill().await;
    assert_eq!(names(proxy.address, 5).await, all("passive", 5));
    active.revive().await.unwrap();
    // Proof before return: probes, then real connections. None of them fails.
    eventually("the return", || async {
        let names = names(proxy.address, 1).await;
        assert_ne!(names, ["-"]);
        names == ["active"]
    })
    .await;
    eventually("all on the primary", || async { names(proxy.address, 10).await == all("active", 10) }).await;
}

#[tokio::test]
async fn a_connection_dies_with_its_endpoint_and_the_next_one_is_served() {
    let (mut active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |_| {}).await;
    let mut conversation = converse(proxy.address).await.unwrap();
    active.kill().await;
    conversation.ends().await;
    assert_eq!(names(proxy.address, 1).await, ["passive"]);
}

#[tokio::test]
async fn weights_share_connections_among_the_references_of_a_pool() {
    let (one, two, none) =
        (TcpEcho::start("one").await.unwrap(), TcpEcho::start("two").await.unwrap(), active().await);
    let mut state = state();
    let gateway = free_address();
    listen(&mut state, "tcp", Protocol::Tcp, gateway, None);
    let weighted =
        [(0, 9, one.address().into()), (0, 1, two.address().into()), (0, 0, none.address().into())];
    let refs = refs(&mut state, &weighted);
    route(&mut state, (RouteKind::Tcp, "db"), "tcp", &[], refs);
    let _proxy = start(&state).await;
    let count = names(gateway, 400).await.iter().filter(|name| *name == "two").count();
    // 40 are expected; so far from it are fewer than one run in a million.
    assert!((10..=75).contains(&count), "{count} of 400");
    assert_eq!(none.connections(), 0);
}

#[tokio::test]
async fn l5_the_clients_address_chooses_the_endpoint_where_it_is_hashed() {
    let mut echoes = Vec::new();
    for name in ["a", "b", "c", "d"] {
        echoes.push(TcpEcho::start(name).await.unwrap());
    }
    let mut state = state();
    let gateway = free_address();
    listen(&mut state, "tcp", Protocol::Tcp, gateway, None);
    change_policy(&mut state, |policy| {
        policy.load_balancer =
            LoadBalancer::ConsistentHash(ConsistentHash { by: HashKey::SourceIp, table_size: 1009 });
    });
    let of: Vec<_> = echoes.iter().map(|echo| (0, 1, echo.address().into())).collect();
    let refs = refs(&mut state, &of);
    route(&mut state, (RouteKind::Tcp, "db"), "tcp", &[], refs);
    let _proxy = start(&state).await;
    let mine: BTreeSet<String> = names(gateway, 20).await.into_iter().collect();
    assert_eq!(mine.len(), 1, "{mine:?}");
    let mut others = BTreeSet::new();
    for host in 2..60 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 7, host], 0).into()).unwrap();
        let stream = socket.connect(gateway).await.unwrap();
        others.insert(l4::Conversation::begin(stream).await.unwrap().name);
    }
    assert_eq!(others.len(), 4);
}

#[tokio::test]
async fn without_a_route_or_a_valid_backend_a_connection_is_closed() {
    let (active, passive) = (active().await, passive().await);
    let mut proxy = before(&active, &passive, |_| {}).await;
    let whole = tcp(proxy.address, active.address(), passive.address());
    let mut without = whole.clone();
    without.routes.clear();
    let mut responds = whole.clone();
    for route in responds.routes.values_mut() {
        Arc::make_mut(route).rules[0].action = Action::Respond(500);
    }
    let mut invalid = whole.clone();
    for pool in invalid.pools.values_mut() {
        let target = RefTarget::Invalid("backend/default/gone is not there".to_owned());
        Arc::make_mut(pool).refs = vec![PoolRef { target, priority: 0, weight: 1, filters: vec![] }];
    }
    for state in [without, responds, invalid] {
        proxy.publish(&state).await;
        assert_eq!(names(proxy.address, 2).await, all("-", 2));
        proxy.publish(&whole).await;
        assert_eq!(names(proxy.address, 1).await, ["active"]);
    }
}

#[tokio::test]
async fn of_several_routes_on_a_listener_the_oldest_has_it() {
    let (active, passive) = (active().await, passive().await);
    let mut state = state();
    let gateway = free_address();
    listen(&mut state, "tcp", Protocol::Tcp, gateway, None);
    for (name, created, echo) in
        [("a", 3, &passive), ("b", 2, &active), ("c", 2, &passive), ("d", 0, &passive)]
    {
        let refs = refs(&mut state, &[(0, 1, echo.address().into())]);
        route(&mut state, (RouteKind::Tcp, name), "tcp", &[], refs);
        let route = state.routes.get_mut(format!("tcproute/default/{name}").as_str()).unwrap();
        Arc::make_mut(route).created = created;
    }
    let mut proxy = start(&state).await;
    assert_eq!(names(gateway, 3).await, all("active", 3));
    state.routes.remove("tcproute/default/b");
    proxy.publish(&state).await;
    assert_eq!(names(gateway, 3).await, all("passive", 3));
}

#[tokio::test]
async fn open_connections_outlive_a_reload_and_their_listener() {
    let (active, passive) = (active().await, passive().await);
    let mut proxy = before(&active, &passive, |_| {}).await;
    let mut conversation = converse(proxy.address).await.unwrap();
    // Another endpoint, then another listener.
    let swapped = tcp(proxy.address, passive.address(), active.address());
    proxy.publish(&swapped).await;
    assert_eq!(names(proxy.address, 1).await, ["passive"]);
    conversation.echo(b"still there").await.unwrap();
    let elsewhere = tcp(free_address(), active.address(), passive.address());
    proxy.publish(&elsewhere).await;
    assert!(TcpStream::connect(proxy.address).await.is_err());
    conversation.echo(b"and still").await.unwrap();
    assert_eq!(conversation.leave().await.unwrap(), "bye\n");
}

#[tokio::test]
async fn a_socket_that_spoke_http_carries_tcp_after_a_reload() {
    let (active, passive) = (active().await, passive().await);
    let mut proxy = before(&active, &passive, |_| {}).await;
    let tcp = tcp(proxy.address, active.address(), passive.address());
    let mut http = tcp.clone();
    Arc::make_mut(http.gateways.values_mut().next().unwrap()).listeners[0].protocol = Protocol::Http;
    proxy.publish(&http).await;
    let answer = understudy_testbed::get(proxy.address, "any", "/").await.unwrap();
    assert_eq!(answer.status, 404);
    proxy.publish(&tcp).await;
    assert_eq!(names(proxy.address, 1).await, ["active"]);
}

#[tokio::test]
async fn a_connection_on_which_nothing_moves_is_closed_and_one_that_is_used_is_not() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| policy.timeouts.connection_idle = millis(400));
    })
    .await;
    let mut used = converse(proxy.address).await.unwrap();
    let mut idle = converse(proxy.address).await.unwrap();
    let begun = Instant::now();
    let ends = async {
        idle.ends().await;
        begun.elapsed()
    };
    let uses = async {
        // Each pause is far below the limit, all together far above.
        for _ in 0..20 {
            used.echo(b"x").await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (ended_after, ()) = tokio::join!(ends, uses);
    assert!(ended_after >= Duration::from_millis(350), "{ended_after:?}");
    let line = "understudy_streams_total{outcome=\"idle\",route=\"tcproute/default/db/rule/0\"} 1";
    counted(&proxy, &[line.to_owned()]).await;
}

#[tokio::test]
async fn b1_connections_beyond_the_limit_of_a_pool_go_to_the_fallback() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| {
            policy.circuit_breaker.max_connections = 1;
            policy.circuit_breaker.max_pending_requests = 0;
        });
    })
    .await;
    let first = converse(proxy.address).await.unwrap();
    let second = converse(proxy.address).await.unwrap();
    assert_eq!((first.name.as_str(), second.name.as_str()), ("active", "passive"));
    assert!(converse(proxy.address).await.is_err(), "neither has room");
    assert_eq!(first.leave().await.unwrap(), "bye\n");
    eventually("room", || async { converse(proxy.address).await.is_ok_and(|third| third.name == "active") })
        .await;
}

#[tokio::test]
async fn a_connection_waits_for_room_as_requests_do() {
    let active = active().await;
    let mut state = state();
    let gateway = free_address();
    listen(&mut state, "tcp", Protocol::Tcp, gateway, None);
    change_policy(&mut state, |policy| policy.circuit_breaker.max_connections = 1);
    let refs = refs(&mut state, &[(0, 1, active.address().into())]);
    route(&mut state, (RouteKind::Tcp, "db"), "tcp", &[], refs);
    let _proxy = start(&state).await;
    let first = converse(gateway).await.unwrap();
    let second = tokio::spawn(converse(gateway));
    assert_eq!(first.leave().await.unwrap(), "bye\n");
    assert_eq!(second.await.unwrap().unwrap().name, "active");
}

#[tokio::test]
async fn an_endpoint_may_be_a_unix_socket() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("a.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"unix\n").await;
        }
    });
    let mut state = state();
    let gateway = free_address();
    listen(&mut state, "tcp", Protocol::Tcp, gateway, None);
    let refs = refs(&mut state, &[(0, 1, understudy_conf::EndpointAddress::Unix { path })]);
    route(&mut state, (RouteKind::Tcp, "db"), "tcp", &[], refs);
    let _proxy = start(&state).await;
    assert_eq!(converse(gateway).await.unwrap().name, "unix");
}

#[tokio::test]
async fn a_reset_after_connecting_says_nothing_of_the_endpoint() {
    // As in Envoy: only what keeps a connection from coming about ejects.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let primary = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Only once something came it is sure that the connection stood.
            let _ = stream.read_u8().await;
            let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    });
    let passive = passive().await;
    let state = tcp(free_address(), primary, passive.address());
    let proxy = start(&state).await;
    for _ in 0..5 {
        let mut client = TcpStream::connect(proxy.address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        let read = timeout(PATIENCE, client.read(&mut [0; 8])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    assert_eq!(passive.connections(), 0);
}

#[tokio::test]
async fn a_proxy_that_stops_waits_for_open_connections() {
    let (active, passive) = (active().await, passive().await);
    let mut proxy = before(&active, &passive, |_| {}).await;
    let mut conversation = converse(proxy.address).await.unwrap();
    proxy.begin_to_stop();
    let gateway = proxy.address;
    eventually("the end of the socket", || async { TcpStream::connect(gateway).await.is_err() }).await;
    conversation.echo(b"not yet").await.unwrap();
    assert_eq!(conversation.leave().await.unwrap(), "bye\n");
    timeout(PATIENCE, proxy.stop()).await.unwrap();
}

#[tokio::test]
async fn the_access_log_has_a_line_for_each_connection() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("access.log");
    let passive = passive().await;
    let mut state = tcp(free_address(), free_address(), passive.address());
    change_policy(&mut state, |policy| policy.passive = None);
    let proxy = Proxy::start_with(&state, |options| {
        options.access_log.destination = LogDestination::File(file.clone());
    })
    .await;
    let mut conversation = converse(proxy.address).await.unwrap();
    conversation.echo(b"12345").await.unwrap();
    conversation.leave().await.unwrap();
    eventually("the line", || async { std::fs::read_to_string(&file).unwrap().ends_with('\n') }).await;
    let line = std::fs::read_to_string(&file).unwrap();
    for part in [
        " 0 \"\" \"\" \"\" TCP ",
        " in=5 out=17 ",
        " route=tcproute/default/db/rule/0 pool=fallback ",
        &format!(" endpoint={} attempts=2 retries=1\n", passive.address()),
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
}

#[tokio::test]
async fn what_one_route_learns_of_an_endpoint_every_route_knows() {
    // What cannot be connected to, cannot be connected to by anybody.
    let passive = passive().await;
    let dead = free_address();
    let mut state = tcp(free_address(), dead, passive.address());
    let other = free_address();
    listen(&mut state, "other", Protocol::Tcp, other, None);
    change_policy(&mut state, |policy| policy.retry = Some(no_retry()));
    let refs = pair(&mut state, dead, passive.address());
    route(&mut state, (RouteKind::Tcp, "other"), "other", &[], refs);
    let proxy = start(&state).await;
    assert_eq!(names(proxy.address, 1).await, ["-"]);
    assert_eq!(names(other, 1).await, ["passive"]);
}

/// A proxy before a primary under a TLS policy and a fallback in clear text, whose certificates are of these authorities.
async fn before_tls(trusted: &Authority, used: &Authority, passive: &TcpEcho) -> (TcpEcho, Proxy) {
    let active = TcpEcho::start_with("active", Some(used.sign(&["127.0.0.1"]).server())).await.unwrap();
    let mut state = tcp(free_address(), active.address(), passive.address());
    let policy = BackendTls::new(trust(&mut state, "authority", &[trusted]));
    let backend = state.backends.get_mut(&*format!("backend/default/{}", active.address())).unwrap();
    Arc::make_mut(backend).tls = Some(policy);
    let proxy = start(&state).await;
    (active, proxy)
}

#[tokio::test]
async fn an_endpoint_under_a_tls_policy_is_spoken_to_over_tls() {
    let (authority, passive) = (Authority::new("good"), passive().await);
    let (mut active, proxy) = before_tls(&authority, &authority, &passive).await;
    let mut conversation = converse(proxy.address).await.unwrap();
    assert_eq!(conversation.name, "active");
    conversation.echo(&[b'x'; 100_000]).await.unwrap();
    assert_eq!(conversation.leave().await.unwrap(), "bye\n");
    active.kill().await;
    assert_eq!(names(proxy.address, 3).await, all("passive", 3));
}

#[tokio::test]
async fn connections_to_endpoints_are_asked_whether_they_still_stand_over_tls_too() {
    let authority = Authority::new("good");
    for tls in [None, Some(authority.sign(&["127.0.0.1"]).server())] {
        let over_tls = tls.is_some();
        let active = TcpEcho::start_with("active", tls).await.unwrap();
        let mut state = tcp(free_address(), active.address(), free_address());
        change_policy(&mut state, |policy| {
            let (idle_time, interval) = (millis(7_200_000), millis(60_000));
            policy.tcp_keepalive = Some(TcpKeepalive { probes: 3, idle_time, interval });
        });
        if over_tls {
            let policy = BackendTls::new(trust(&mut state, "authority", &[&authority]));
            let backend = state.backends.get_mut(&*format!("backend/default/{}", active.address())).unwrap();
            Arc::make_mut(backend).tls = Some(policy);
        }
        let proxy = start(&state).await;
        let _open = converse(proxy.address).await.unwrap();
        // A connection to the endpoint, with the timer of keepalive.
        let remote = format!("0100007F:{:04X}", active.address().port());
        eventually(&format!("the timer, over TLS: {over_tls}"), async || {
            let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
            sockets.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|socket| {
                socket.get(2) == Some(&&*remote)
                    && socket.get(5).is_some_and(|timer| timer.starts_with("02:"))
            })
        })
        .await;
    }
}

#[tokio::test]
async fn t2_a_connection_never_moves_to_a_less_protected_endpoint_after_a_certificate_that_failed() {
    let (good, bad, passive) = (Authority::new("good"), Authority::new("bad"), passive().await);
    let (_active, proxy) = before_tls(&good, &bad, &passive).await;
    // The next one never met the endpoint whose certificate failed.
    assert_eq!(names(proxy.address, 3).await, ["-", "passive", "passive"]);
}

#[tokio::test]
async fn a_connection_to_an_endpoint_of_http_2_takes_the_room_of_one_connection() {
    let (active, passive) = (active().await, passive().await);
    let proxy = before(&active, &passive, |state| {
        change_policy(state, |policy| {
            policy.circuit_breaker.max_connections = 1;
            policy.circuit_breaker.max_pending_requests = 0;
        });
        for backend in state.backends.values_mut() {
            Arc::make_mut(backend).protocol = UpstreamProtocol::H2c;
        }
    })
    .await;
    let first = converse(proxy.address).await.unwrap();
    let second = converse(proxy.address).await.unwrap();
    assert_eq!((first.name.as_str(), second.name.as_str()), ("active", "passive"));
}
