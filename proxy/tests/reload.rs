//! States that come, go and break while requests are served.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{HOST, Proxy, Setup, add_gateway, add_route, all, eventually, fallback, millis, primary};
use understudy_conf::store::Writer;
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, Backend, BackendName, Endpoint, EndpointAddress, GatewayDuration,
    HttpProbe, PathMatch, Policy, PolicyName, PoolRef, RefTarget, State, UpstreamProtocol,
};
use understudy_testbed::{Behaviour, Blackhole, Client, DnsAnswer, DnsServer, Request};

fn backend_ref(state: &mut State, name: &str, address: SocketAddr) -> PoolRef {
    let name = BackendName::new(name).unwrap();
    let endpoints = vec![Endpoint::at(address.into())];
    state.backends.insert(
        name.clone(),
        Arc::new(Backend { name: name.clone(), protocol: UpstreamProtocol::Http1, tls: None, endpoints }),
    );
    PoolRef { target: RefTarget::Backend(name), priority: 0, weight: 1, filters: Vec::new() }
}

#[tokio::test]
async fn two_gateways_on_one_port_serve_their_own_routes_only() {
    let (one, two) = (primary().await, fallback().await);
    let port = common::free_address().port();
    let sockets: [SocketAddr; 2] = [([127, 0, 0, 1], port).into(), ([127, 0, 0, 2], port).into()];
    let mut state = State::default();
    add_gateway(&mut state, "gateway/default/one", &[sockets[0]]);
    add_gateway(&mut state, "gateway/default/two", &[sockets[1]]);
    let to_one = backend_ref(&mut state, "backend/default/one", one.address());
    let to_two = backend_ref(&mut state, "backend/default/two", two.address());
    add_route(&mut state, "one", "gateway/default/one", vec![to_one], None);
    add_route(&mut state, "two", "gateway/default/two", vec![to_two], None);
    let _proxy = Proxy::start(&state, Vec::new(), None).await;
    for (socket, pod) in sockets.into_iter().zip(["active", "passive"]) {
        let response = understudy_testbed::get(socket, HOST, "/test").await.unwrap();
        assert_eq!(
            response.pod().as_deref(),
            Some(pod),
            "the bound socket selects the gateway before any hostname"
        );
    }
}

#[tokio::test]
async fn who_connects_to_an_endpoint_that_leaves_goes_elsewhere_at_once() {
    let passive = fallback().await;
    // A pod whose address is gone: it neither accepts nor refuses.
    let gone = Blackhole::start().await.unwrap();
    let setup = Setup::new(&[gone.address()], &[passive.address()])
        .change_policy(|policy| policy.timeouts.connect = millis(600_000));
    let mut proxy = setup.start().await;
    let address = proxy.address;
    let connecting = tokio::spawn(async move {
        let mut client = Client::connect(address).await.unwrap().with_timeout(Duration::from_secs(60));
        client.get(HOST, "/test").await.unwrap()
    });
    eventually("the request", || async { proxy.active().await == 1 }).await;
    let mut without = setup.clone();
    without.refs[0].1.clear();
    proxy.publish(&without.state()).await;
    assert_eq!(connecting.await.unwrap().pod().as_deref(), Some("passive"));
}

#[tokio::test]
async fn changes_under_load_fail_no_request_and_close_no_connection() {
    let (one, two) = (primary().await, fallback().await);
    let setup = Setup::new(&[one.address()], &[two.address()]);
    let mut other = setup.clone();
    other.refs.reverse();
    other.refs[0].0 = 0;
    other.refs[1].0 = 1;
    let mut proxy = setup.start().await;
    let running = Arc::new(AtomicBool::new(true));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (running, address) = (running.clone(), proxy.address);
            tokio::spawn(async move {
                let mut client = Client::connect(address).await.unwrap();
                let mut count = 0;
                while running.load(Ordering::Relaxed) {
                    assert_eq!(client.get(HOST, "/test").await.unwrap().status, 200);
                    count += 1;
                }
                count
            })
        })
        .collect();
    for round in 0..20 {
        proxy.publish(&if round % 2 == 0 { other.state() } else { setup.state() }).await;
    }
    running.store(false, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn health_outlives_a_reload() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let mut proxy = setup.start().await;
    active.kill().await;
    assert_eq!(proxy.pods(2).await, all("passive", 2));
    active.restart().await.unwrap();
    let mut changed = setup.clone();
    changed.filters.push(understudy_conf::HttpFilter::RequestHeaders {
        set: Vec::new(),
        add: Vec::new(),
        remove: vec!["x-any".to_owned()],
    });
    proxy.publish(&changed.state()).await;
    assert_eq!(proxy.pods(5).await, all("passive", 5), "still ejected");
}

#[tokio::test]
async fn a_broken_state_leaves_the_last_good_one_in_service_and_says_so() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let mut proxy = setup.start().await;
    let good = std::fs::read(proxy.root_file()).unwrap();
    let newer = String::from_utf8(good.clone()).unwrap().replace("format: 1", "format: 999");
    for bad in [b"{ not the state".to_vec(), good[..good.len() / 2].to_vec(), newer.into_bytes()] {
        std::fs::write(proxy.root_file(), &bad).unwrap();
        let ack = proxy.wait_for_acknowledgement(|ack| ack.refused.is_some()).await;
        assert!(!ack.refused.unwrap().reason.is_empty());
        assert_eq!(ack.serving, Some(1), "the version before goes on");
        assert_eq!(proxy.pods(3).await, all("active", 3));
        let ready = proxy.admin("/ready").await;
        assert_eq!(ready.status, 200);
        assert!(ready.text().contains("refused"), "{}", ready.text());
        assert!(proxy.admin("/metrics").await.text().contains("understudy_state_refused 1"));
        std::fs::write(proxy.root_file(), &good).unwrap();
        proxy.wait_for_acknowledgement(|ack| ack.refused.is_none()).await;
    }
    std::fs::remove_file(proxy.root_file()).unwrap();
    proxy.wait_for_acknowledgement(|ack| ack.refused.is_some()).await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
    std::fs::write(proxy.root_file(), &good).unwrap();
    proxy.wait_for_acknowledgement(|ack| ack.refused.is_none()).await;
    proxy.publish(&State::default()).await;
    assert!(Client::connect(proxy.address).await.is_err(), "an empty complete state is a valid one");
}

#[tokio::test]
async fn the_proxy_is_not_ready_until_the_first_complete_state() {
    let folder = tempfile::TempDir::new().unwrap();
    let admin = common::free_address();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let options = understudy_proxy::ProxyOptions {
        state: folder.path().join("not-there-yet"),
        admin: Some(admin),
        resolve: Vec::new(),
        dns: None,
        threads: 1,
        access_log: understudy_proxy::AccessLogOptions::off(),
        drain_delay: std::time::Duration::ZERO,
        drain: common::PATIENCE,
        reuse_port: false,
        h2_idle: understudy_proxy::H2_IDLE,
    };
    let state_folder = options.state.clone();
    let task = tokio::spawn(understudy_proxy::run(options, async move {
        let _ = stopped.await;
    }));
    let ready = || async {
        understudy_testbed::get(admin, "a", "/ready").await.map_or(0, |response| response.status)
    };
    eventually("the admin address", || async { ready().await == 503 }).await;
    assert_eq!(understudy_testbed::get(admin, "a", "/live").await.unwrap().status, 200);
    let mut writer = understudy_conf::store::Writer::open(&state_folder).unwrap();
    writer.publish(&State::default()).unwrap();
    eventually("readiness", || async { ready().await == 200 }).await;
    drop(stop);
    task.await.unwrap().unwrap();
}

#[tokio::test]
async fn health_is_reported_for_people_and_for_the_controller() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.kill().await;
    proxy.pods(2).await;
    let reports = || async {
        serde_json::from_slice::<understudy_conf::Reports>(&proxy.admin("/pools").await.body).unwrap()
    };
    let seen = reports().await;
    assert_eq!(seen.pools[0].state, understudy_conf::PoolState::Fallback);
    assert!(seen.pools[0].reason.contains("connection refused"), "{}", seen.pools[0].reason);
    eventually("the report on disk", || async {
        understudy_conf::store::read_reports(proxy.folder()).unwrap().is_some_and(|reports| {
            reports.switches.iter().any(|switch| switch.kind == understudy_conf::SwitchKind::Failover)
        })
    })
    .await;
    let metrics = proxy.admin("/metrics").await.text();
    assert!(metrics.contains("understudy_failovers_total"), "{metrics}");
    assert_eq!(proxy.send(&Request::get(HOST, "/test")).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_state_folder_that_is_removed_stays_so_and_the_one_in_its_place_is_acknowledged() {
    let (active, passive) = (primary().await, fallback().await);
    let state = Setup::new(&[active.address()], &[passive.address()]).state();
    let proxy = Proxy::start(&state, Vec::new(), None).await;
    std::fs::remove_dir_all(proxy.folder()).unwrap();
    eventually("the loss", async || proxy.admin("/ready").await.text().contains("is refused")).await;
    // Nobody writes into it, or looks for it, in a way that makes it again: reports are due every second.
    for _ in 0..60 {
        assert!(!proxy.folder().exists());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(proxy.pods(3).await, all("active", 3));
    let version = Writer::open(proxy.folder()).unwrap().publish(&state).unwrap().version;
    proxy.wait_for(version).await;
    eventually("ready", async || !proxy.admin("/ready").await.text().contains("is refused")).await;
}

/// A route of its own path beside the one of the set-up.
fn add_beside(state: &mut State, name: &str, endpoint: EndpointAddress, policy: Option<PolicyName>) {
    let backend = BackendName::new(format!("backend/default/{name}")).unwrap();
    let endpoints = vec![Endpoint::at(endpoint)];
    let (protocol, tls) = (UpstreamProtocol::Http1, None);
    let object = Backend { name: backend.clone(), protocol, tls, endpoints };
    state.backends.insert(backend.clone(), Arc::new(object));
    let reference =
        PoolRef { target: RefTarget::Backend(backend), priority: 0, weight: 1, filters: Vec::new() };
    add_route(state, name, "gateway/default/eg", vec![reference], policy);
    let route = state.routes.get_mut(format!("httproute/default/{name}").as_str()).unwrap();
    Arc::make_mut(route).rules[0].matches[0].path = PathMatch::Prefix(format!("/{name}"));
}

async fn status(proxy: &Proxy, path: &str) -> u16 {
    proxy.send(&Request::get(HOST, path)).await.unwrap().status
}

/// Publishes a state with `/new`, which waits, and `/fresh`, which must not; then asks until `/new` answers.
async fn new_waits_alone(proxy: &mut Proxy, state: &State, release: impl FnOnce()) {
    let before = proxy.wait_for_acknowledgement(|ack| ack.serving.is_some()).await.serving;
    proxy.writer.publish(state).unwrap();
    let published = tokio::time::Instant::now();
    eventually("the route whose endpoint is known", async || status(proxy, "/fresh").await == 200).await;
    assert_eq!(status(proxy, "/new").await, 404, "{:?} after it was published", published.elapsed());
    assert_eq!(proxy.pods(1).await, all("active", 1));
    let acknowledged = proxy.wait_for_acknowledgement(|_| true).await.serving;
    assert_eq!(acknowledged, before, "what is not served yet is not acknowledged");
    release();
    let start = tokio::time::Instant::now();
    loop {
        match status(proxy, "/new").await {
            200 => break,
            404 => assert!(start.elapsed() < common::PATIENCE),
            other => panic!("{other} before 200"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    proxy.wait_for_acknowledgement(|ack| ack.serving > before).await;
}

#[tokio::test]
async fn a_name_server_that_is_silent_delays_only_the_route_that_asks_it() {
    let (active, passive) = (primary().await, fallback().await);
    let dns = DnsServer::start().await.unwrap();
    dns.set("slow.example", DnsAnswer::Silent);
    let mut state = Setup::new(&[active.address()], &[passive.address()]).state();
    let mut proxy = Proxy::start(&state, Vec::new(), Some(dns.address())).await;
    let port = active.address().port();
    let slow = EndpointAddress::Fqdn { hostname: "slow.example".to_owned(), port };
    add_beside(&mut state, "new", slow, None);
    add_beside(&mut state, "fresh", active.address().into(), None);
    let answer = DnsAnswer::addresses(&[active.address().ip()], 60);
    new_waits_alone(&mut proxy, &state, || dns.set("slow.example", answer)).await;
}

#[tokio::test]
async fn h1_an_active_check_without_an_answer_delays_only_its_own_route() {
    let (active, passive, slow) = (primary().await, fallback().await, primary().await);
    slow.set(Behaviour::Hang);
    let mut state = Setup::new(&[active.address()], &[passive.address()]).state();
    let mut proxy = Proxy::start(&state, Vec::new(), None).await;
    let check = ActiveHealthCheck {
        interval: GatewayDuration::from_millis(100),
        timeout: GatewayDuration::from_secs(2),
        ..ActiveHealthCheck::new(ActiveProbe::Http(HttpProbe::get("/healthz")))
    };
    let name = PolicyName::new("checked").unwrap();
    let policy = Policy { active: Some(Arc::new(check)), ..Policy::unset(name.clone()) };
    state.policies.insert(name.clone(), Arc::new(policy));
    add_beside(&mut state, "new", slow.address().into(), Some(name));
    add_beside(&mut state, "fresh", active.address().into(), None);
    new_waits_alone(&mut proxy, &state, || slow.set(Behaviour::default())).await;
}
