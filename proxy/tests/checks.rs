//! Active checks on real sockets: who serves, what is asked, and how often.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::{
    PATIENCE, Proxy, Setup, add_gateway, add_route, all, eventually, fallback, free_address, millis, primary,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, Backend, BackendName, Endpoint, EndpointAddress, Health, Hostname,
    HttpProbe, Payload, Policy, PolicyName, PoolRef, RefTarget, Reports, State, TcpProbe, UpstreamProtocol,
};
use understudy_testbed::{Answer, Backend as Upstream, Behaviour, Blackhole, Content};

fn check(probe: ActiveProbe) -> ActiveHealthCheck {
    ActiveHealthCheck { interval: millis(100), timeout: millis(1000), ..ActiveHealthCheck::new(probe) }
}

fn healthz() -> ActiveHealthCheck {
    check(ActiveProbe::Http(HttpProbe::get("/healthz")))
}

/// A pool with an active check and nothing else that detects.
fn checked(active: &Upstream, passive: &Upstream, check: ActiveHealthCheck) -> Setup {
    Setup::new(&[active.address()], &[passive.address()]).change_policy(|policy| {
        policy.passive = None;
        policy.active = Some(Arc::new(check));
    })
}

async fn reports(proxy: &Proxy) -> Reports {
    serde_json::from_slice(&proxy.admin("/pools").await.body).unwrap()
}

/// The state of the primary endpoint, and its last error.
async fn primary_health(proxy: &Proxy) -> (Health, Option<String>) {
    let endpoint = reports(proxy).await.pools[0].endpoints[0].clone();
    (endpoint.health.state, endpoint.last_error)
}

async fn until_served_by(proxy: &Proxy, pod: &str) {
    eventually(pod, async || proxy.pods(1).await == [pod]).await;
    assert_eq!(proxy.pods(10).await, all(pod, 10));
}

#[tokio::test]
async fn h1_a_primary_that_is_dead_at_the_start_gets_no_request_and_comes_back_when_it_heals() {
    let (active, passive) = (primary().await, fallback().await);
    active.kill().await;
    let proxy = checked(&active, &passive, healthz()).start().await;
    assert_eq!(proxy.pods(10).await, all("passive", 10));
    active.restart().await.unwrap();
    until_served_by(&proxy, "active").await;
    assert_eq!(active.observed().requests_to("GET", "/test"), 11);
    let kinds: Vec<_> = reports(&proxy).await.switches.into_iter().map(|switch| switch.kind).collect();
    use understudy_conf::SwitchKind as Kind;
    assert_eq!(kinds, [Kind::Unhealthy, Kind::Failover, Kind::Healthy, Kind::Failback]);
}

#[tokio::test]
async fn h1_a_primary_that_hangs_at_the_start_gets_no_request() {
    let (active, passive) = (primary().await, fallback().await);
    active.set(Behaviour::Hang);
    let proxy =
        checked(&active, &passive, ActiveHealthCheck { timeout: millis(200), ..healthz() }).start().await;
    assert_eq!(proxy.pods(10).await, all("passive", 10));
    assert_eq!(active.observed().requests_to("GET", "/test"), 0);
}

#[tokio::test]
async fn h2_a_bad_status_moves_traffic_at_once() {
    let (active, passive) = (primary().await, fallback().await);
    // So high a threshold that only "at once" can be the reason.
    let settings = ActiveHealthCheck { unhealthy_threshold: 1_000_000, ..healthz() };
    let proxy = checked(&active, &passive, settings).start().await;
    assert_eq!(proxy.pods(10).await, all("active", 10));
    active.set(Behaviour::Status(503));
    eventually("the check fails", async || primary_health(&proxy).await.0 == Health::Unhealthy).await;
    assert_eq!(proxy.pods(10).await, all("passive", 10));
    assert_eq!(primary_health(&proxy).await.1.as_deref(), Some("active check: status 503"));
    active.set(Behaviour::Echo);
    until_served_by(&proxy, "active").await;
}

#[tokio::test]
async fn h2_a_closed_port_moves_traffic_after_the_threshold() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = checked(&active, &passive, healthz()).start().await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
    // Connections that stand live on: only a new one shows that the port is closed.
    active.refuse().await;
    eventually("the check fails", async || primary_health(&proxy).await.0 == Health::Unhealthy).await;
    assert_eq!(primary_health(&proxy).await.1.as_deref(), Some("active check: connection refused"));
    let metrics = proxy.admin("/metrics").await.text();
    let failed = metrics
        .lines()
        .find_map(|line| line.strip_prefix("understudy_probes_total{kind=\"check\",result=\"failed\"} "))
        .and_then(|count| count.parse::<u64>().ok());
    assert!(failed >= Some(3), "{metrics}");
    assert_eq!(proxy.pods(10).await, all("passive", 10));
}

#[tokio::test]
async fn h6_the_request_is_as_the_policy_says_and_its_answer_is_looked_at() {
    let (active, passive) = (primary().await, fallback().await);
    let probe = HttpProbe {
        method: "POST".to_owned(),
        hostname: Some("health.example.com".to_owned()),
        expected_statuses: [202].into(),
        expected_response: Some(Payload::Text("all is well".to_owned())),
        request_body: Some(Payload::Text("are you well?".to_owned())),
        ..HttpProbe::get("/deep/check?full=1")
    };
    active.set(Answer::status(202).content(Content::Bytes(b"yes, all is well.".to_vec())).chunked());
    passive.set(Answer::status(202).content(Content::Bytes(b"all is lost".to_vec())));
    let proxy = checked(&active, &passive, check(ActiveProbe::Http(probe))).start().await;
    let pool = reports(&proxy).await.pools.remove(0);
    let states: Vec<_> = pool.endpoints.iter().map(|endpoint| endpoint.health.state).collect();
    assert_eq!(states, [Health::Healthy, Health::Unhealthy]);
    let expected = Some("active check: the answer is not the expected one");
    assert_eq!(pool.endpoints[1].last_error.as_deref(), expected);
    let seen = active.observed();
    let request = seen.log().next().unwrap();
    assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/deep/check?full=1"));
    assert_eq!(request.header("host"), Some("health.example.com"));
    assert_eq!(request.header("content-length"), Some("13"));
}

#[tokio::test]
async fn without_a_hostname_the_host_is_the_routes_or_the_address() {
    for (hostnames, expected) in
        [(vec!["*.example.org", "shop.example.com"], Some("shop.example.com")), (vec![], None)]
    {
        let (active, passive) = (primary().await, fallback().await);
        let setup = checked(&active, &passive, healthz());
        let mut state = setup.state();
        let route = Arc::make_mut(state.routes.values_mut().next().unwrap());
        route.attachments[0].hostnames = hostnames.iter().map(|name| Hostname::new(*name).unwrap()).collect();
        let _proxy = Proxy::start(&state, Vec::new(), None).await;
        let address = active.address().to_string();
        let seen = active.observed();
        assert_eq!(seen.log().next().unwrap().header("host"), Some(expected.unwrap_or(&address)));
    }
}

/// Answers PING with PONG, as long as it lives.
async fn ping_server() -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 4];
            if stream.read_exact(&mut asked).await.is_ok() && &asked == b"PING" {
                let _ = stream.write_all(b"+PONG\r\n").await;
            }
        }
    });
    (address, task)
}

#[tokio::test]
async fn h6_a_tcp_check_on_a_port_of_its_own() {
    let (active, passive) = (primary().await, fallback().await);
    let (server, task) = ping_server().await;
    let probe = TcpProbe {
        send: Some(Payload::Text("PING".to_owned())),
        receive: Some(Payload::Text("PONG".to_owned())),
    };
    let settings = ActiveHealthCheck { port: Some(server.port()), ..check(ActiveProbe::Tcp(probe)) };
    let proxy = checked(&active, &passive, settings).start().await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
    assert_eq!(active.requests(), 5, "the endpoint's own port is not checked");
    task.abort();
    // Both endpoints have the same address, and with it the same checked port: the primary serves in panic.
    let unhealthy = async || {
        let endpoints = reports(&proxy).await.pools.remove(0).endpoints;
        endpoints.iter().all(|endpoint| endpoint.health.state == Health::Unhealthy)
    };
    eventually("both checks fail", unhealthy).await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
}

#[tokio::test]
async fn a_tcp_check_that_gets_the_wrong_bytes_or_none_fails() {
    let (active, passive) = (primary().await, fallback().await);
    // The backend waits for a request's end, and says nothing.
    let probe = TcpProbe { send: None, receive: Some(Payload::Text("PONG".to_owned())) };
    let settings = ActiveHealthCheck { timeout: millis(100), ..check(ActiveProbe::Tcp(probe)) };
    let proxy = checked(&active, &passive, settings).start().await;
    let expected = Some("active check: no answer within the check's timeout");
    assert_eq!(primary_health(&proxy).await.1.as_deref(), expected);
}

#[tokio::test]
async fn a_tcp_check_needs_no_more_than_a_connection() {
    let (active, passive) = (primary().await, fallback().await);
    active.set(Behaviour::Status(503));
    let probe = check(ActiveProbe::Tcp(TcpProbe::default()));
    let proxy = checked(&active, &passive, probe).start().await;
    assert_eq!(primary_health(&proxy).await.0, Health::Healthy);
    active.kill().await;
    eventually("the check fails", async || primary_health(&proxy).await.0 == Health::Unhealthy).await;
    assert_eq!(proxy.pods(5).await, all("passive", 5));
    active.set(Behaviour::Echo);
    active.restart().await.unwrap();
    until_served_by(&proxy, "active").await;
}

#[tokio::test]
async fn endpoints_on_unix_sockets_are_checked_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("active.sock");
    let active: Upstream<PathBuf> = Upstream::start_unix(&path, "active").await.unwrap();
    let passive = fallback().await;
    let mut setup = Setup::new(&[], &[passive.address()]).change_policy(|policy| {
        policy.passive = None;
        policy.active = Some(Arc::new(healthz()));
    });
    setup.refs[0].1 = vec![EndpointAddress::Unix { path }];
    let proxy = setup.start().await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
    assert_eq!(active.observed().log().next().unwrap().header("host"), Some("localhost"));
    active.set(Behaviour::Status(500));
    eventually("the check fails", async || primary_health(&proxy).await.0 == Health::Unhealthy).await;
    assert_eq!(proxy.pods(5).await, all("passive", 5));
}

#[tokio::test]
async fn o26_with_detection_too_a_passing_check_ends_an_ejection_after_a_failure_to_connect() {
    let (active, passive) = (primary().await, fallback().await);
    // The ejection alone would last a minute.
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .change_policy(|policy| policy.active = Some(Arc::new(healthz())));
    let proxy = setup.start().await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
    active.kill().await;
    assert_eq!(proxy.pods(10).await, all("passive", 10));
    active.restart().await.unwrap();
    // The client has a trial's answer a moment before the trial counts as ended.
    eventually("the return", async || proxy.pods(10).await == all("active", 10)).await;
}

#[tokio::test]
async fn a_check_that_stays_silent_delays_a_new_state_but_does_not_stop_it() {
    let (active, passive) = (primary().await, fallback().await);
    let mut proxy = checked(&active, &passive, healthz()).start().await;
    let hole = Blackhole::start().await.unwrap();
    let settings = ActiveHealthCheck { timeout: millis(600_000), ..healthz() };
    let mut setup = checked(&active, &passive, settings);
    setup.gateway = proxy.address;
    setup.refs[0].1.push(hole.address().into());
    let start = Instant::now();
    proxy.publish(&setup.state()).await;
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    for pod in proxy.pods(10).await {
        assert!(["active", "passive"].contains(&pod.as_str()), "{pod}");
    }
}

const ENDPOINTS: usize = 50;
const ROUTES: usize = 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_rules_with_one_check_of_fifty_endpoints_make_fifty_probes_a_second() {
    let mut backends = Vec::new();
    for number in 0..ENDPOINTS {
        backends.push(Upstream::start(format!("pod-{number}")).await.unwrap());
    }
    let settings = ActiveHealthCheck { interval: millis(1000), ..healthz() };
    let policy = Policy {
        active: Some(Arc::new(settings)),
        ..Policy::unset(PolicyName::new("backendtrafficpolicy/default/checks").unwrap())
    };
    let name = BackendName::new("backend/default/all").unwrap();
    let endpoints = backends.iter().map(|backend| Endpoint::at(backend.address().into())).collect();
    let backend = Backend { name: name.clone(), protocol: UpstreamProtocol::Http1, tls: None, endpoints };
    let mut state = State::default();
    add_gateway(&mut state, "gateway/default/eg", &[free_address()]);
    state.backends.insert(name.clone(), Arc::new(backend));
    let reference = PoolRef { target: RefTarget::Backend(name), priority: 0, weight: 1, filters: Vec::new() };
    for number in 0..ROUTES {
        let refs = vec![reference.clone()];
        add_route(
            &mut state,
            &format!("route-{number}"),
            "gateway/default/eg",
            refs,
            Some(policy.name.clone()),
        );
    }
    for (number, route) in state.routes.values_mut().enumerate() {
        // Each route has a hostname of its own, and still no check of its own.
        let route = Arc::make_mut(route);
        route.attachments[0].hostnames = vec![Hostname::new(format!("r{number}.example.com")).unwrap()];
    }
    state.policies.insert(policy.name.clone(), Arc::new(policy));
    let proxy = Proxy::start(&state, Vec::new(), None).await;
    let count =
        || backends.iter().map(|backend| backend.observed().requests_to("GET", "/healthz")).sum::<u64>();
    assert!(count() >= ENDPOINTS as u64, "all were checked before anything was served");
    assert_eq!(reports(&proxy).await.pools.len(), ROUTES);
    // After the first interval and a half the checks are spread. That they are exactly fifty in every second the
    // engine shows on a clock of its own; here a busy machine moves some out of one window into the next. One
    // prober more for each endpoint would be 100 in all of them.
    sleep(Duration::from_secs(2)).await;
    let mut rates = Vec::new();
    while !rates.iter().any(|rate| (49.0..=51.0).contains(rate)) {
        assert!(rates.len() < 10, "{rates:?} probes a second");
        let (before, start) = (count(), Instant::now());
        sleep(Duration::from_secs(2)).await;
        let (counted, took) = (count() - before, start.elapsed());
        rates.push(counted as f64 / took.as_secs_f64());
        let most = ENDPOINTS as u64 * (took.as_secs() + 2);
        assert!(counted <= most, "{counted} probes in {took:?}");
    }
}

#[tokio::test]
async fn h7_an_answer_that_asks_for_no_traffic_moves_the_next_request_if_there_is_an_active_check() {
    let wish = || Answer::status(200).header("X-Envoy-Immediate-Health-Check-Fail", "1");
    let (active, passive) = (primary().await, fallback().await);
    let slow = ActiveHealthCheck { interval: millis(60_000), ..healthz() };
    let proxy = checked(&active, &passive, slow).start().await;
    assert_eq!(proxy.pods(1).await, ["active"]);
    active.next(1, wish());
    assert_eq!(proxy.get().await.status, 200, "the answer itself goes to the client");
    assert_eq!(proxy.pods(10).await, all("passive", 10));
    let expected = Some("active check: it asks to get no traffic".to_owned());
    assert_eq!(primary_health(&proxy).await, (Health::Unhealthy, expected));
    // Without an active check the header is like any other.
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.next(1, wish());
    assert_eq!(proxy.get().await.status, 200);
    assert_eq!(proxy.pods(5).await, all("active", 5));
}
