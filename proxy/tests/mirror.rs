//! Copies of requests for mirrors, on real sockets: what they get, and that nobody notices them.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod pki;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::{
    HOST, PATIENCE, Proxy, Setup, all, endpoint, eventually, fallback, free_address, primary, retry,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::Instant;
use understudy_conf::{
    Backend, BackendName, BackendTls, Endpoint, HeaderValue, Health, HttpFilter, PathRewrite, Pool, PoolName,
    PoolRef, RefTarget, Reports, RequestMirror, RetryTrigger, State, TlsVersion, UpstreamProtocol,
    UrlRewrite,
};
use understudy_testbed::{Backend as Upstream, Behaviour, Blackhole, H2Backend, Request};

/// Where a mirror stands in the rule.
#[derive(Clone, Copy)]
enum At {
    Rule,
    /// At this reference.
    Ref(usize),
}

/// The state with a mirror for each address and its share.
fn mirrored(setup: &Setup, at: At, mirrors: &[(SocketAddr, u32, u32)]) -> State {
    let mut state = setup.state();
    let mut filters = Vec::new();
    for (index, (address, numerator, denominator)) in mirrors.iter().copied().enumerate() {
        let name = BackendName::new(format!("backend/default/mirror-{index}")).unwrap();
        let endpoints = vec![Endpoint::at(address.into())];
        let backend = Backend { name: name.clone(), protocol: UpstreamProtocol::Http1, tls: None, endpoints };
        state.backends.insert(name.clone(), Arc::new(backend));
        let pool = PoolName::new(format!("httproute/default/ha-example/rule/0/mirror/{index}")).unwrap();
        let target = RefTarget::Backend(name);
        let refs = vec![PoolRef { target, priority: 0, weight: 1, filters: Vec::new() }];
        let policy = setup.policy.as_ref().map(|policy| policy.name.clone());
        state.pools.insert(pool.clone(), Arc::new(Pool { name: pool.clone(), policy, refs }));
        filters.push(HttpFilter::RequestMirror(RequestMirror { pool, numerator, denominator }));
    }
    match at {
        At::Rule => {
            let route = state.routes.values_mut().next().unwrap();
            Arc::make_mut(route).rules[0].filters.extend(filters);
        }
        At::Ref(index) => {
            let pool = state.pools.get_mut("httproute/default/ha-example/rule/0").unwrap();
            Arc::make_mut(pool).refs[index].filters.extend(filters);
        }
    }
    state
}

async fn start(setup: &Setup, mirrors: &[SocketAddr]) -> Proxy {
    let all: Vec<_> = mirrors.iter().map(|address| (*address, 100, 100)).collect();
    Proxy::start(&mirrored(setup, At::Rule, &all), Vec::new(), None).await
}

async fn mirror() -> Upstream {
    Upstream::start("mirror").await.unwrap()
}

async fn requests(upstream: &Upstream, count: u64) {
    assert!(
        upstream.wait_until(PATIENCE, |observed| observed.requests == count).await,
        "{} requests",
        upstream.requests()
    );
}

/// How many copies ended so.
async fn outcomes(proxy: &Proxy, outcome: &str) -> u64 {
    let line = format!("understudy_mirrors_total{{outcome=\"{outcome}\"}} ");
    let metrics = proxy.admin("/metrics").await.text();
    metrics.lines().find_map(|text| text.strip_prefix(&line)).unwrap().parse().unwrap()
}

async fn outcome(proxy: &Proxy, name: &str, count: u64) {
    let start = Instant::now();
    while outcomes(proxy, name).await != count {
        let metrics = proxy.admin("/metrics").await.text();
        let mirrors: Vec<_> = metrics.lines().filter(|line| line.contains("mirrors_total")).collect();
        assert!(start.elapsed() < PATIENCE, "not {count} {name}: {mirrors:#?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A mirror that sends on the body of every request, as long as it is whole.
async fn reader(length: usize) -> (SocketAddr, mpsc::UnboundedReceiver<Vec<u8>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let address = endpoint(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut body = vec![0; length];
            if stream.read_exact(&mut body).await.is_ok() {
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                let _ = sender.send(body);
            }
        }
    })
    .await;
    (address, receiver)
}

#[tokio::test]
async fn each_mirror_gets_what_the_endpoint_gets_and_its_answer_is_thrown_away() {
    let (active, passive, one, two) = (primary().await, fallback().await, mirror().await, mirror().await);
    let mut setup = Setup::new(&[active.address()], &[passive.address()]);
    let header = HeaderValue { name: "x-rule".to_owned(), value: "set".to_owned() };
    setup.filters = vec![
        HttpFilter::RequestHeaders {
            set: vec![header],
            add: Vec::new(),
            remove: vec!["x-secret".to_owned()],
        },
        HttpFilter::UrlRewrite(UrlRewrite {
            hostname: None,
            path: Some(PathRewrite::Prefix("/inner".to_owned())),
        }),
    ];
    let proxy = start(&setup, &[one.address(), two.address()]).await;
    one.set(Behaviour::Status(500));
    two.set(Behaviour::Garbage(b"SSH-2.0\r\n\r\n".to_vec()));
    for _ in 0..5 {
        let request = Request::get(HOST, "/test/a?b=c").header("x-secret", "1").header("Expect", "nothing");
        let response = proxy.send(&request).await.unwrap();
        assert_eq!((response.status, response.pod().as_deref()), (200, Some("active")));
    }
    requests(&one, 5).await;
    requests(&two, 5).await;
    let seen = active.observed().log().last().unwrap().clone();
    for copy in [one.observed().log().last().unwrap(), two.observed().log().last().unwrap()] {
        assert_eq!((copy.method.as_str(), copy.target.as_str()), ("GET", "/inner/a?b=c"));
        assert_eq!(copy.header("host"), Some(HOST), "the Host is the request's own");
        for name in ["x-rule", "x-forwarded-for", "x-request-id"] {
            assert_eq!(copy.header(name).is_some(), seen.header(name).is_some(), "{name}");
        }
        assert_eq!((copy.header("x-rule"), copy.header("x-secret")), (Some("set"), None));
    }
    outcome(&proxy, "answered", 5).await;
    outcome(&proxy, "failed", 5).await;
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn connections_to_a_mirror_are_used_again() {
    let (active, passive, shadow) = (primary().await, fallback().await, mirror().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let state = mirrored(&setup, At::Rule, &[(shadow.address(), 100, 100)]);
    let proxy = Proxy::start_with(&state, |options| options.threads = 1).await;
    for count in 1..=5 {
        assert_eq!(proxy.pods(1).await, ["active"]);
        outcome(&proxy, "answered", count).await;
    }
    assert_eq!(shadow.connections(), 1);
}

#[tokio::test]
async fn a_share_of_the_requests_is_mirrored() {
    let (active, passive) = (primary().await, fallback().await);
    let (none, half, thousandths, every) = (mirror().await, mirror().await, mirror().await, mirror().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let mirrors = [
        (none.address(), 0, 100),
        (half.address(), 50, 100),
        (thousandths.address(), 250, 1000),
        (every.address(), 1, 1),
    ];
    let proxy = Proxy::start(&mirrored(&setup, At::Rule, &mirrors), Vec::new(), None).await;
    let mut client = understudy_testbed::Client::connect(proxy.address).await.unwrap();
    for _ in 0..400 {
        assert_eq!(client.get(HOST, "/test").await.unwrap().status, 200);
    }
    requests(&every, 400).await;
    eventually("the end of all copies", async || {
        half.observed().answers + thousandths.observed().answers + 400 == outcomes(&proxy, "answered").await
    })
    .await;
    assert_eq!(none.requests(), 0);
    // Seven standard deviations each way.
    assert!((130..=270).contains(&half.requests()), "{}", half.requests());
    assert!((40..=160).contains(&thousandths.requests()), "{}", thousandths.requests());
}

#[tokio::test]
async fn a_body_of_a_mebibyte_arrives_at_the_mirror() {
    let (active, passive) = (primary().await, fallback().await);
    let length = 1024 * 1024;
    let (shadow, mut bodies) = reader(length).await;
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let proxy = start(&setup, &[shadow]).await;
    let body: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
    let response = proxy.send(&Request::new("POST", HOST, "/test").body(body.clone())).await.unwrap();
    assert_eq!(response.status, 200);
    assert!(bodies.recv().await.unwrap() == body);
    outcome(&proxy, "answered", 1).await;
    // A mirror reads chunks where the request had them.
    let shadow = mirror().await;
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let proxy = start(&setup, &[shadow.address()]).await;
    let response = proxy.send(&Request::new("POST", HOST, "/test").chunked_body(body)).await.unwrap();
    assert_eq!(response.status, 200);
    outcome(&proxy, "answered", 1).await;
    assert_eq!(shadow.observed().log().last().unwrap().header("transfer-encoding"), Some("chunked"));
}

#[tokio::test]
async fn a_mirror_that_hangs_refuses_or_swallows_changes_nothing_for_the_client() {
    let (active, passive, hanging, resetting) =
        (primary().await, fallback().await, mirror().await, mirror().await);
    hanging.set(Behaviour::Hang);
    resetting.set(Behaviour::ResetBeforeHeaders);
    let hole = Blackhole::start().await.unwrap();
    // Reads the head and nothing else, so that a body does not fit.
    let deaf = endpoint(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let mirrors = [hanging.address(), resetting.address(), hole.address(), free_address(), deaf];
    let proxy = start(&setup, &mirrors).await;
    for _ in 0..3 {
        let body = vec![b'b'; 16 * 1024 * 1024];
        let start = Instant::now();
        let response = proxy.send(&Request::new("POST", HOST, "/test").body(body)).await.unwrap();
        assert_eq!((response.status, response.pod().as_deref()), (200, Some("active")));
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
    // What refuses has failed; what takes nothing is given up as soon as too much waits for it.
    eventually("drops", async || outcomes(&proxy, "dropped").await >= 6).await;
    eventually("failures", async || outcomes(&proxy, "failed").await >= 3).await;
    assert_eq!(proxy.pods(10).await, all("active", 10));
    assert_eq!(passive.requests(), 0);
}

#[tokio::test]
async fn a_request_that_is_retried_is_mirrored_once_with_its_whole_body() {
    let (active, passive) = (primary().await, fallback().await);
    let length = 20 * 1024;
    let (shadow, mut bodies) = reader(length).await;
    let setup = Setup::new(&[active.address()], &[passive.address()])
        .with_retry(retry(&[RetryTrigger::RetriableStatusCodes]));
    let proxy = start(&setup, &[shadow]).await;
    let body: Vec<u8> = (0..length).map(|index| (index % 253) as u8).collect();
    let post = || Request::new("POST", HOST, "/test").body(body.clone());
    active.set(Behaviour::Status(503));
    let response = proxy.send(&post()).await.unwrap();
    assert_eq!((response.status, response.pod().as_deref()), (200, Some("passive")));
    assert_eq!((active.requests(), passive.requests()), (1, 1));
    assert!(bodies.recv().await.unwrap() == body);
    outcome(&proxy, "answered", 1).await;
    // The same where the first endpoint is not even reached.
    let (active, passive) = (primary().await, fallback().await);
    let (shadow, mut bodies) = reader(length).await;
    let proxy = start(&Setup::new(&[active.address()], &[passive.address()]), &[shadow]).await;
    active.kill().await;
    assert_eq!(proxy.send(&post()).await.unwrap().pod().as_deref(), Some("passive"));
    assert!(bodies.recv().await.unwrap() == body);
    outcome(&proxy, "answered", 1).await;
    assert!(bodies.try_recv().is_err(), "once");
}

#[tokio::test]
async fn a_mirror_at_a_reference_gets_what_that_reference_gets_and_leaves_failover_intact() {
    // G6
    let (active, passive, shadow) = (primary().await, fallback().await, mirror().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let state = mirrored(&setup, At::Ref(0), &[(shadow.address(), 100, 100)]);
    let proxy = Proxy::start(&state, Vec::new(), None).await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
    requests(&shadow, 3).await;
    active.kill().await;
    assert_eq!(proxy.pods(5).await, all("passive", 5));
    outcome(&proxy, "answered", 3).await;
    assert_eq!(shadow.requests(), 3);
}

#[tokio::test]
async fn what_a_mirror_answers_says_nothing_of_its_endpoint_and_a_refused_connection_does() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    // The fallback is the mirror, too.
    let proxy = start(&setup, &[passive.address()]).await;
    let health = async || -> Health {
        let reports: Reports = serde_json::from_slice(&proxy.admin("/pools").await.body).unwrap();
        let pool = reports.pools.iter().find(|pool| !pool.pool.as_str().contains("mirror")).unwrap().clone();
        pool.endpoints[1].health.state
    };
    passive.set(Behaviour::Status(500));
    assert_eq!(proxy.pods(5).await, all("active", 5));
    outcome(&proxy, "answered", 5).await;
    assert_eq!(health().await, Health::Healthy);
    passive.kill().await;
    eventually("a refused copy ejects", async || {
        assert_eq!(proxy.pods(1).await, ["active"]);
        health().await == Health::Ejected
    })
    .await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_its_body_leaves_no_copy_behind() {
    let (active, passive, shadow) = (primary().await, fallback().await, mirror().await);
    let setup = Setup::new(&[active.address()], &[passive.address()]);
    let proxy = start(&setup, &[shadow.address()]).await;
    let mut client = understudy_testbed::Client::connect(proxy.address).await.unwrap();
    let head = format!("POST /test HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 1000\r\n\r\npart");
    client.send(head.as_bytes()).await.unwrap();
    requests(&shadow, 1).await;
    client.reset();
    outcome(&proxy, "incomplete", 1).await;
    assert!(shadow.wait_until(PATIENCE, |observed| observed.open == 0).await);
    assert_eq!(proxy.pods(3).await, all("active", 3));
}

#[tokio::test]
async fn a_mirror_of_http_2_gets_its_copies_in_http_2() {
    let (active, copy) = (primary().await, H2Backend::start("mirror").await.unwrap());
    let mut state = mirrored(&Setup::new(&[active.address()], &[]), At::Rule, &[(copy.address(), 100, 100)]);
    let backend = state.backends.get_mut("backend/default/mirror-0").unwrap();
    Arc::make_mut(backend).protocol = UpstreamProtocol::H2c;
    let proxy = Proxy::start(&state, Vec::new(), None).await;
    let request = Request::new("POST", HOST, "/test").body(vec![b'x'; 100_000]);
    let response = proxy.send(&request).await.unwrap();
    assert_eq!(response.status, 200);
    eventually("the copy", || async { copy.requests() == 1 && copy.open_streams() == 0 }).await;
    let seen = &copy.log()[0];
    assert_eq!((seen.method.as_str(), seen.uri.host(), seen.uri.path()), ("POST", Some(HOST), "/test"));
}

#[tokio::test]
async fn a_mirror_whose_tls_is_older_than_allowed_gets_nothing() {
    let (active, copy) = (primary().await, mirror().await);
    let authority = pki::Authority::new("good");
    copy.set_tls(Some(authority.sign(&["127.0.0.1"]).server_with(&[&rustls::version::TLS12], None)));
    let mut state = mirrored(&Setup::new(&[active.address()], &[]), At::Rule, &[(copy.address(), 100, 100)]);
    let mut tls = BackendTls::new(pki::trust(&mut state, "good", &[&authority]));
    tls.min_version = TlsVersion::Tls13;
    let backend = state.backends.get_mut("backend/default/mirror-0").unwrap();
    Arc::make_mut(backend).tls = Some(tls);
    let proxy = Proxy::start(&state, Vec::new(), None).await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
    eventually("the copies' end", || async {
        let text = String::from_utf8(proxy.admin("/metrics").await.body).unwrap();
        text.contains("understudy_mirrors_total{outcome=\"failed\"} 3\n")
    })
    .await;
    assert_eq!(copy.requests(), 0);
}
