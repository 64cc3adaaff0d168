//! Names that an endpoint's certificate must be for in place of the one that is sent, on real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod pki;

use std::net::SocketAddr;
use std::sync::Arc;

use common::{Proxy, Setup, all, eventually, fallback, millis, primary};
use pki::{Authority, secure, trust};
use rcgen::SanType;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, Backend, BackendName, BackendTls, Endpoint, Health, HttpFilter, Pool,
    PoolName, PoolRef, RefTarget, Reports, RequestMirror, State, SubjectAltName, TcpProbe, UpstreamProtocol,
};
use understudy_testbed::{Backend as Upstream, H2Backend};

/// What is sent.
const SENT: &str = "sent.example.com";
const ID: &str = "spiffe://example.com/shop";

fn host(name: &str) -> SubjectAltName {
    SubjectAltName::Hostname(name.to_owned())
}

fn uri(name: &str) -> SubjectAltName {
    SubjectAltName::Uri(name.to_owned())
}

/// Shows these names and this URI.
fn shown(authority: &Authority, names: &[&str], uri: Option<&str>) -> Arc<ServerConfig> {
    let add = |params: &mut rcgen::CertificateParams| {
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
    };
    authority.sign_with(names, add).server()
}

/// A primary that must show one of these names, and a fallback without TLS.
fn state(setup: &Setup, authority: &Authority, names: &[SubjectAltName]) -> State {
    let mut state = setup.state();
    let tls = BackendTls {
        server_name: Some(SENT.to_owned()),
        subject_alt_names: names.to_vec(),
        ..BackendTls::new(trust(&mut state, "good", &[authority]))
    };
    secure(&mut state, 0, tls);
    state
}

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

struct Pair {
    authority: Authority,
    primary: Upstream,
    fallback: Upstream,
}

impl Pair {
    async fn new() -> Self {
        Self { authority: Authority::new("good"), primary: primary().await, fallback: fallback().await }
    }

    fn setup(&self) -> Setup {
        // Where a certificate is refused, nothing weaker may be used: the request fails, those after it fall over.
        Setup::new(&[self.primary.address()], &[self.fallback.address()])
    }
}

#[tokio::test]
async fn t9_one_name_of_the_certificate_has_to_be_wanted_and_the_one_that_is_sent_is_not_verified() {
    for (names, id, wanted, fits) in [
        // Neither name nor URI is the one that is sent.
        (&["other.example.com"][..], None, vec![host("other.example.com")], true),
        (&["*.example.com"], None, vec![host("other.example.com")], true),
        (&[], Some(ID), vec![uri(ID)], true),
        (&[SENT], Some(ID), vec![uri("spiffe://example.com/till"), uri(ID)], true),
        (&[SENT], Some(ID), vec![uri("spiffe://example.com/till"), host("other.example.com")], false),
        (&[SENT], None, vec![host("other.example.com")], false),
        (&[], Some(ID), vec![host(SENT)], false),
    ] {
        let pair = Pair::new().await;
        pair.primary.set_tls(Some(shown(&pair.authority, names, id)));
        let proxy = start(&state(&pair.setup(), &pair.authority, &wanted)).await;
        let pods = proxy.pods(6).await;
        if fits {
            assert_eq!(pods, all("active", 6), "{names:?} {id:?} {wanted:?}");
        } else {
            assert!(!pods.contains(&"active".to_owned()), "{names:?} {id:?} {wanted:?}: {pods:?}");
            assert_eq!(pair.primary.requests(), 0);
            let metrics = String::from_utf8(proxy.admin("/metrics").await.body).unwrap();
            assert!(metrics.contains("outcome=\"certificate_refused\""), "{metrics}");
        }
    }
}

#[tokio::test]
async fn t9_the_signature_is_verified_as_ever() {
    let pair = Pair::new().await;
    let stranger = Authority::new("stranger");
    pair.primary.set_tls(Some(shown(&stranger, &["other.example.com"], Some(ID))));
    let proxy = start(&state(&pair.setup(), &pair.authority, &[host("other.example.com"), uri(ID)])).await;
    assert!(!proxy.pods(4).await.contains(&"active".to_owned()));
    assert_eq!(pair.primary.requests(), 0);
}

#[tokio::test]
async fn t9_a_certificate_is_looked_at_once_and_a_new_one_again() {
    let pair = Pair::new().await;
    pair.primary.set_tls(Some(shown(&pair.authority, &[], Some(ID))));
    let setup = pair.setup().change_policy(|policy| {
        policy.circuit_breaker.max_requests_per_connection = Some(1);
    });
    let proxy = start(&state(&setup, &pair.authority, &[uri(ID)])).await;
    // One connection for each request, and one to see the certificate.
    assert_eq!(proxy.pods(5).await, all("active", 5));
    assert_eq!(pair.primary.connections(), 6);
    assert_eq!(proxy.pods(5).await, all("active", 5));
    assert_eq!(pair.primary.connections(), 11);
    pair.primary.set_tls(Some(shown(&pair.authority, &[SENT], Some(ID))));
    assert_eq!(proxy.pods(5).await, all("active", 5));
    assert_eq!(pair.primary.connections(), 17);
    pair.primary.set_tls(Some(shown(&pair.authority, &[SENT], None)));
    let requests = pair.primary.requests();
    assert!(!proxy.pods(5).await.contains(&"active".to_owned()));
    assert_eq!(pair.primary.requests(), requests);
}

/// An endpoint that shows one certificate after the other, a connection each. `None`: it closes the connection.
async fn in_turn(turns: Vec<Option<Arc<ServerConfig>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for turn in turns.iter().cycle() {
            let (stream, _) = listener.accept().await.unwrap();
            let Some(config) = turn.clone() else { continue };
            tokio::spawn(async move {
                let Ok(mut stream) = TlsAcceptor::from(config).accept(stream).await else { return };
                if stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                    stream.shutdown().await.unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn t9_an_endpoint_with_several_certificates_is_asked_until_it_has_shown_the_one() {
    let authority = Authority::new("good");
    let certificate = || Some(shown(&authority, &["other.example.com"], None));
    let primary = in_turn(vec![certificate(), certificate()]).await;
    let setup = Setup::new(&[primary], &[]);
    let proxy = start(&state(&setup, &authority, &[host("other.example.com")])).await;
    assert_eq!(proxy.get().await.status, 200);
}

#[tokio::test]
async fn t9_an_endpoint_that_breaks_before_its_names_are_known_is_no_stranger() {
    let (authority, fallback) = (Authority::new("good"), fallback().await);
    let mut turns = vec![None; 100];
    turns[0] = Some(shown(&authority, &["other.example.com"], None));
    let setup = Setup::new(&[in_turn(turns).await], &[fallback.address()]);
    let proxy = start(&state(&setup, &authority, &[host("other.example.com")])).await;
    // A refused certificate would keep the request from the fallback, which has no TLS.
    assert_eq!(proxy.pods(1).await, ["passive"]);
}

#[tokio::test]
async fn t9_endpoints_of_http_2_are_held_to_the_names_too() {
    let authority = Authority::new("good");
    let primary = H2Backend::start("active").await.unwrap();
    let fallback = fallback().await;
    let mut setup = Setup::new(&[primary.address()], &[fallback.address()]);
    setup.h2 = vec![0];
    primary.set_tls(Some(shown(&authority, &["other.example.com"], Some(ID))));
    let mut proxy = start(&state(&setup, &authority, &[uri(ID)])).await;
    assert_eq!(proxy.get().await.status, 200);
    assert_eq!(primary.requests(), 1);
    // Another policy has connections of its own.
    proxy.publish(&state(&setup, &authority, &[uri("spiffe://example.com/till")])).await;
    for _ in 0..4 {
        proxy.get().await;
    }
    assert_eq!(primary.requests(), 1);
}

#[tokio::test]
async fn t9_active_checks_are_held_to_the_names_too() {
    let pair = Pair::new().await;
    let check = ActiveHealthCheck {
        interval: millis(50),
        timeout: millis(2000),
        ..ActiveHealthCheck::new(ActiveProbe::Tcp(TcpProbe::default()))
    };
    let setup = pair.setup().change_policy(|policy| {
        policy.passive = None;
        policy.active = Some(Arc::new(check));
    });
    pair.primary.set_tls(Some(shown(&pair.authority, &[SENT], None)));
    let proxy = start(&state(&setup, &pair.authority, &[uri(ID)])).await;
    let health = async || {
        let reports: Reports = serde_json::from_slice(&proxy.admin("/pools").await.body).unwrap();
        let endpoint = reports.pools[0].endpoints[0].clone();
        (endpoint.health.state, endpoint.last_error)
    };
    eventually("a failed check", async || health().await.0 == Health::Unhealthy).await;
    assert_eq!(health().await.1.as_deref(), Some("active check: certificate not accepted"));
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    pair.primary.set_tls(Some(shown(&pair.authority, &[SENT], Some(ID))));
    eventually("the return", async || proxy.pods(1).await == ["active"]).await;
}

#[tokio::test]
async fn t9_mirrors_are_held_to_the_names_too() {
    for (wanted, fits) in [(uri(ID), true), (uri("spiffe://example.com/till"), false)] {
        let pair = Pair::new().await;
        let mirror = Upstream::start("mirror").await.unwrap();
        mirror.set_tls(Some(shown(&pair.authority, &[], Some(ID))));
        let mut state = Setup::new(&[pair.primary.address()], &[]).state();
        let tls = BackendTls {
            server_name: Some(SENT.to_owned()),
            subject_alt_names: vec![wanted],
            ..BackendTls::new(trust(&mut state, "good", &[&pair.authority]))
        };
        let name = BackendName::new("backend/default/mirror").unwrap();
        let endpoints = vec![Endpoint::at(mirror.address().into())];
        let protocol = UpstreamProtocol::Http1;
        let backend = Backend { name: name.clone(), protocol, tls: Some(tls), endpoints };
        state.backends.insert(name.clone(), Arc::new(backend));
        let pool = PoolName::new("mirror").unwrap();
        let target = RefTarget::Backend(name);
        let refs = vec![PoolRef { target, priority: 0, weight: 1, filters: Vec::new() }];
        state.pools.insert(pool.clone(), Arc::new(Pool { name: pool.clone(), policy: None, refs }));
        let route = Arc::make_mut(state.routes.values_mut().next().unwrap());
        let mirror_of_all = RequestMirror { pool, numerator: 1, denominator: 1 };
        route.rules[0].filters.push(HttpFilter::RequestMirror(mirror_of_all));
        let proxy = start(&state).await;
        assert_eq!(proxy.pods(3).await, all("active", 3));
        let outcome = if fits { "outcome=\"answered\"} 3" } else { "outcome=\"failed\"} " };
        eventually("the mirrors' end", async || {
            let metrics = String::from_utf8(proxy.admin("/metrics").await.body).unwrap();
            let mut mirrors = metrics.lines().filter(|line| line.starts_with("understudy_mirrors_total"));
            mirrors.any(|line| line.contains(outcome) && !line.ends_with(" 0"))
        })
        .await;
        assert_eq!(mirror.requests(), if fits { 3 } else { 0 });
    }
}
