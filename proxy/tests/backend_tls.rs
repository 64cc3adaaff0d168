//! TLS to endpoints on real sockets: what is verified, what follows from a failure, and what stays apart.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod pki;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;

use common::{
    HOST, PATIENCE, Proxy, Setup, all, eventually, fallback, free_address, millis, no_retry, primary,
};
use pki::{Authority, expired, secure, trust};
use rustls::crypto::ring::default_provider;
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ServerConfig, SupportedProtocolVersion, version};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsAcceptor;
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, BackendTls, EndpointAddress, GrpcProbe, Health, HttpProbe, Reports,
    State, TcpProbe, TlsVersion, Trust,
};
use understudy_testbed::{Backend as Upstream, Client, H2Backend, Request};

const LOCAL: &str = "127.0.0.1";

/// A primary over TLS, verified by one authority, and a fallback verified by it too.
struct Pair {
    authority: Authority,
    primary: Upstream,
    fallback: Upstream,
    setup: Setup,
}

impl Pair {
    async fn new() -> Self {
        let (primary, fallback) = (primary().await, fallback().await);
        let authority = Authority::new("good");
        let good = authority.sign(&[LOCAL]).server();
        primary.set_tls(Some(good.clone()));
        fallback.set_tls(Some(good));
        let setup = Setup::new(&[primary.address()], &[fallback.address()]);
        Self { authority, primary, fallback, setup }
    }

    /// Both endpoints verified by the authority.
    fn state(&self) -> State {
        self.state_with(|_, _| {})
    }

    /// The same, with the primary's policy changed.
    fn state_with(&self, change: impl FnOnce(&mut BackendTls, &mut State)) -> State {
        let mut state = self.setup.state();
        let good = BackendTls::new(trust(&mut state, "good", &[&self.authority]));
        let mut of_primary = good.clone();
        change(&mut of_primary, &mut state);
        secure(&mut state, 0, of_primary);
        secure(&mut state, 1, good);
        state
    }

    async fn start(&self) -> Proxy {
        start(&self.state()).await
    }
}

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

/// The same world behind another address, where a proxy before it may still listen.
fn elsewhere(mut state: State) -> State {
    let gateway = Arc::make_mut(state.gateways.values_mut().next().unwrap());
    gateway.listeners[0].bind = vec![free_address()];
    state
}

/// The pods that answered requests on one connection, so that each finds what the one before gave back.
async fn kept(proxy: &Proxy, count: usize) -> Vec<String> {
    let mut client = Client::connect(proxy.address).await.unwrap();
    let mut pods = Vec::new();
    for _ in 0..count {
        let response = client.send_request(&Request::get(HOST, "/test")).await.unwrap();
        // A backend of HTTP/2 says its name in a header.
        let name = || response.header("x-backend").map(str::to_owned);
        pods.push(response.pod().or_else(name).unwrap_or_else(|| response.status.to_string()));
    }
    pods
}

async fn reports(proxy: &Proxy) -> Reports {
    serde_json::from_slice(&proxy.admin("/pools").await.body).unwrap()
}

/// The state of the primary endpoint, and its last error.
async fn primary_health(proxy: &Proxy) -> (Health, Option<String>) {
    let endpoint = reports(proxy).await.pools[0].endpoints[0].clone();
    (endpoint.health.state, endpoint.last_error)
}

async fn metric(proxy: &Proxy, part: &str) -> bool {
    let text = String::from_utf8(proxy.admin("/metrics").await.body).unwrap();
    text.lines().any(|line| line.contains(part) && !line.ends_with(" 0"))
}

#[tokio::test]
async fn an_endpoint_with_a_certificate_for_its_address_is_served_over_connections_that_are_kept() {
    let pair = Pair::new().await;
    let proxy = pair.start().await;
    assert_eq!(kept(&proxy, 20).await, all("active", 20));
    assert_eq!(pair.primary.connections(), 1);
    assert_eq!((pair.primary.observed().failed_handshakes, pair.fallback.connections()), (0, 0));
}

#[tokio::test]
async fn t8_an_endpoint_of_http_2_is_spoken_to_in_http_2_over_tls_and_fails_over_when_its_certificate_goes_wrong()
 {
    let authority = Authority::new("good");
    let primary = H2Backend::start("active").await.unwrap();
    primary.set_tls(Some(authority.sign(&[LOCAL]).server()));
    let fallback = fallback().await;
    fallback.set_tls(Some(authority.sign(&[LOCAL]).server()));
    let mut setup = Setup::new(&[primary.address()], &[fallback.address()]).change_policy(|policy| {
        policy.passive.as_mut().unwrap().base_ejection_time = millis(200);
    });
    setup.h2 = vec![0];
    let mut state = setup.state();
    let good = BackendTls::new(trust(&mut state, "good", &[&authority]));
    secure(&mut state, 0, good.clone());
    secure(&mut state, 1, good);
    let proxy = start(&state).await;
    assert_eq!(kept(&proxy, 20).await, all("active", 20));
    assert_eq!((primary.connections(), primary.requests()), (1, 20));
    assert_eq!(primary.log()[0].uri.scheme_str(), Some("https"));

    // What stands goes on; the next connection is refused, and nobody fails.
    primary.set_tls(Some(Authority::new("bad").sign(&[LOCAL]).server()));
    primary.restart().await.unwrap();
    assert_eq!(kept(&proxy, 10).await, all("passive", 10));
    assert!(metric(&proxy, "certificate_refused").await);
    primary.set_tls(Some(authority.sign(&[LOCAL]).server()));
    primary.restart().await.unwrap();
    eventually("the primary's return", || async { kept(&proxy, 1).await == all("active", 1) }).await;
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ejects_and_its_request_moves_to_an_endpoint_that_does() {
    for (what, names, change) in [
        ("expired", [LOCAL], expired as fn(&mut rcgen::CertificateParams)),
        ("another name", ["other.example.com"], |_| {}),
        ("another address", ["127.0.0.2"], |_| {}),
    ] {
        let pair = Pair::new().await;
        pair.primary.set_tls(Some(pair.authority.sign_with(&names, change).server()));
        let proxy = pair.start().await;
        assert_eq!(proxy.pods(5).await, all("passive", 5), "{what}");
        assert_eq!(pair.primary.requests(), 0, "{what}");
        let (health, error) = primary_health(&proxy).await;
        assert_eq!((health, error.as_deref()), (Health::Ejected, Some("certificate not accepted")), "{what}");
        assert!(metric(&proxy, "outcome=\"certificate_refused\"").await, "{what}");
        let reports = reports(&proxy).await;
        assert!(reports.switches.iter().any(|switch| switch.cause.contains("certificate not accepted")));
    }
}

#[tokio::test]
async fn a_stranger_s_authority_is_not_taken_whoever_else_is_trusted() {
    let pair = Pair::new().await;
    let (stranger, friend) = (Authority::new("stranger"), Authority::new("friend"));
    pair.primary.set_tls(Some(stranger.sign(&[LOCAL]).server()));
    let proxy = start(&pair.state_with(|tls, state| {
        tls.trust = trust(state, "others", &[&friend, &pair.authority]);
    }))
    .await;
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    // Nor do the system's authorities know it.
    let proxy = start(&elsewhere(pair.state_with(|tls, _| tls.trust = Trust::System))).await;
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    assert_eq!(pair.primary.requests(), 0);
}

#[tokio::test]
async fn any_authority_of_any_bundle_will_do() {
    let pair = Pair::new().await;
    let others: Vec<Authority> = (0..3).map(|number| Authority::new(&format!("ca-{number}"))).collect();
    for authority in &others {
        pair.primary.set_tls(Some(authority.sign(&[LOCAL]).server()));
        let state = pair.state_with(|tls, state| {
            let two = trust(state, "two", &[&others[0], &others[1]]);
            let (Trust::Bundles(mut names), Trust::Bundles(one)) = (two, trust(state, "one", &[&others[2]]))
            else {
                panic!()
            };
            names.extend(one);
            tls.trust = Trust::Bundles(names);
        });
        let proxy = start(&elsewhere(state)).await;
        assert_eq!(proxy.pods(3).await, all("active", 3));
    }
}

#[tokio::test]
async fn a_request_never_moves_to_a_weaker_way_than_the_one_whose_certificate_did_not_verify() {
    for weaker in [None, Some(BackendTls::new(Trust::Nothing))] {
        let pair = Pair::new().await;
        pair.primary.set_tls(Some(Authority::new("stranger").sign(&[LOCAL]).server()));
        let mut state = pair.state();
        match weaker {
            Some(tls) => secure(&mut state, 1, tls),
            None => {
                pair.fallback.set_tls(None);
                Arc::make_mut(state.backends.values_mut().nth(1).unwrap()).tls = None;
            }
        }
        let proxy = start(&state).await;
        assert_eq!(proxy.get().await.status, 503);
        assert_eq!((pair.primary.requests(), pair.fallback.connections()), (0, 0));
        // The endpoint is ejected now: the requests after it go where their route says, and fail nowhere.
        assert_eq!(proxy.pods(3).await, all("passive", 3));
    }
}

#[tokio::test]
async fn a_request_with_a_body_moves_whole_and_once() {
    let pair = Pair::new().await;
    pair.primary.set_tls(Some(Authority::new("stranger").sign(&[LOCAL]).server()));
    let proxy = pair.start().await;
    let body = vec![b'x'; 100_000];
    let response = proxy.send(&Request::new("POST", HOST, "/test").body(body)).await.unwrap();
    assert_eq!((response.status, response.pod().as_deref()), (200, Some("passive")));
    assert_eq!((pair.primary.requests(), pair.fallback.requests()), (0, 1));
}

#[tokio::test]
async fn an_endpoint_that_speaks_no_tls_is_a_failed_connection_and_may_be_replaced_by_any() {
    let pair = Pair::new().await;
    let setup =
        Setup { refs: vec![(0, vec![clear_text().await.into()]), pair.setup.refs[1].clone()], ..pair.setup };
    let pair = Pair { setup, ..pair };
    pair.fallback.set_tls(None);
    let mut state = pair.state();
    Arc::make_mut(state.backends.values_mut().nth(1).unwrap()).tls = None;
    let proxy = start(&state).await;
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    assert_eq!(primary_health(&proxy).await.1.as_deref(), Some("TLS handshake failed"));
    assert!(metric(&proxy, "outcome=\"tls_failed\"").await);
}

#[tokio::test]
async fn without_a_retry_the_one_request_that_finds_it_fails() {
    let pair = Pair::new().await;
    pair.primary.set_tls(Some(Authority::new("stranger").sign(&[LOCAL]).server()));
    let pair = Pair { setup: pair.setup.clone().with_retry(no_retry()), ..pair };
    let proxy = pair.start().await;
    assert_eq!(proxy.pods(3).await, ["503", "passive", "passive"]);
}

#[tokio::test]
async fn what_is_not_verified_is_so_because_it_was_said() {
    let pair = Pair::new().await;
    let stranger = Authority::new("stranger").sign_with(&["other.example.com"], expired).server();
    pair.primary.set_tls(Some(stranger));
    let proxy = start(&pair.state_with(|tls, _| tls.trust = Trust::Nothing)).await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
}

#[tokio::test]
async fn an_endpoint_whose_certificate_nobody_can_read_is_ejected_and_its_trials_end() {
    let pair = Pair::new().await;
    let setup = pair.setup.clone().change_policy(|policy| {
        policy.passive.as_mut().unwrap().base_ejection_time = millis(200);
    });
    let pair = Pair { setup, ..pair };
    pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).unreadable().server()));
    let proxy = start(&pair.state_with(|tls, _| tls.trust = Trust::Nothing)).await;
    // Pingora panics at it. That costs the one request, and nothing else.
    assert!(proxy.send(&Request::get(HOST, "/test")).await.is_err());
    assert_eq!(proxy.pods(10).await, all("passive", 10));
    assert_eq!(pair.primary.requests(), 0);
    assert_eq!(primary_health(&proxy).await.1.as_deref(), Some("TLS handshake failed"));
    // It comes back when it shows another one, so no trial hangs.
    let tried = pair.primary.connections();
    assert!(pair.primary.wait_until(PATIENCE, |seen| seen.connections > tried + 1).await);
    pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).server()));
    eventually("the return", async || proxy.pods(1).await == ["active"]).await;
}

/// An endpoint's TLS that answers only who names it.
fn for_name(authority: &Authority, name: &str) -> Arc<ServerConfig> {
    let mut state = State::default();
    let certificate = authority.sign(&[name]).put(&mut state, "named");
    let certificate = &state.certificates[&certificate];
    let key = pki::certified(certificate);
    let mut resolver = ResolvesServerCertUsingSni::new();
    resolver.add(name, key).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    Arc::new(config)
}

#[tokio::test]
async fn the_name_that_is_sent_and_verified_is_the_policy_s_then_the_endpoint_s_then_the_one_resolved() {
    let pair = Pair::new().await;
    let port = pair.primary.address().port();
    let fqdn = EndpointAddress::Fqdn { hostname: "resolved.example.com".to_owned(), port };
    for (fixed, own, address, expected) in [
        (Some("fixed.example.com"), Some("own.example.com"), fqdn.clone(), "fixed.example.com"),
        (None, Some("own.example.com"), fqdn.clone(), "own.example.com"),
        (None, None, fqdn.clone(), "resolved.example.com"),
        (Some("fixed.example.com"), None, pair.primary.address().into(), "fixed.example.com"),
        (None, Some("own.example.com"), pair.primary.address().into(), "own.example.com"),
    ] {
        pair.primary.set_tls(Some(for_name(&pair.authority, expected)));
        let mut state = pair.state_with(|tls, _| tls.server_name = fixed.map(str::to_owned));
        let backend = Arc::make_mut(state.backends.values_mut().next().unwrap());
        backend.endpoints[0].hostname = own.map(str::to_owned);
        backend.endpoints[0].address = address;
        let resolve = vec![("resolved.example.com".to_owned(), IpAddr::from([127, 0, 0, 1]))];
        let proxy = Proxy::start(&elsewhere(state), resolve, None).await;
        assert_eq!(proxy.pods(2).await, all("active", 2), "{expected}");
    }
}

#[tokio::test]
async fn endpoints_get_the_client_certificate_that_they_ask_for() {
    let clients = Authority::new("clients");
    for versions in [[&version::TLS12], [&version::TLS13]] {
        let pair = Pair::new().await;
        pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).server_with(&versions, Some(&clients))));
        let proxy = start(&pair.state_with(|tls, state| {
            tls.client_certificate = Some(clients.sign(&["gateway"]).put(state, "client"));
        }))
        .await;
        assert_eq!(kept(&proxy, 3).await, all("active", 3), "{versions:?}");
        assert_eq!(pair.primary.connections(), 1);
    }
}

#[tokio::test]
async fn without_the_client_certificate_that_an_endpoint_asks_for_it_gets_no_request() {
    let clients = Authority::new("clients");
    for versions in [[&version::TLS12], [&version::TLS13]] {
        let pair = Pair::new().await;
        pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).server_with(&versions, Some(&clients))));
        let proxy = start(&pair.state_with(|tls, state| {
            let stranger = Authority::new("stranger").sign(&["gateway"]);
            tls.client_certificate = Some(stranger.put(state, "client"));
        }))
        .await;
        eventually("the fallback", async || proxy.pods(1).await == ["passive"]).await;
        assert_eq!(pair.primary.requests(), 0, "{versions:?}");
    }
}

#[tokio::test]
async fn a_client_certificate_that_is_refused_over_http_2_moves_the_request_too() {
    let (authority, clients) = (Authority::new("good"), Authority::new("clients"));
    for versions in [[&version::TLS12], [&version::TLS13]] {
        let primary = H2Backend::start("active").await.unwrap();
        primary.set_tls(Some(authority.sign(&[LOCAL]).server_with(&versions, Some(&clients))));
        let fallback = fallback().await;
        let mut setup = Setup::new(&[primary.address()], &[fallback.address()]);
        setup.h2 = vec![0];
        let mut state = setup.state();
        let mut good = BackendTls::new(trust(&mut state, "good", &[&authority]));
        let stranger = Authority::new("stranger").sign(&["gateway"]);
        good.client_certificate = Some(stranger.put(&mut state, "client"));
        secure(&mut state, 0, good);
        let proxy = start(&state).await;
        assert_eq!(kept(&proxy, 5).await, all("passive", 5), "{versions:?}: no request fails");
        assert_eq!(primary.requests(), 0);
    }
}

#[tokio::test]
async fn versions_that_are_not_allowed_are_not_spoken() {
    let old: &[&'static SupportedProtocolVersion] = &[&version::TLS12];
    let new: &[&'static SupportedProtocolVersion] = &[&version::TLS13];
    let both = rustls::DEFAULT_VERSIONS;
    for (spoken, min, max, served) in [
        (old, TlsVersion::Tls12, TlsVersion::Tls13, true),
        (new, TlsVersion::Tls12, TlsVersion::Tls13, true),
        (old, TlsVersion::Tls12, TlsVersion::Tls12, true),
        (new, TlsVersion::Tls13, TlsVersion::Tls13, true),
        (old, TlsVersion::Tls13, TlsVersion::Tls13, false),
        (new, TlsVersion::Tls12, TlsVersion::Tls12, false),
        (both, TlsVersion::Tls13, TlsVersion::Tls13, true),
        // The newer one is agreed on, and refused.
        (both, TlsVersion::Tls12, TlsVersion::Tls12, false),
    ] {
        let pair = Pair::new().await;
        pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).server_with(spoken, None)));
        let proxy = start(&pair.state_with(|tls, _| (tls.min_version, tls.max_version) = (min, max))).await;
        let pod = if served { "active" } else { "passive" };
        assert_eq!(proxy.pods(3).await, all(pod, 3), "{spoken:?} {min} {max}");
        assert_eq!(pair.primary.requests() > 0, served);
    }
}

#[tokio::test]
async fn a_connection_made_under_one_policy_is_never_used_under_another() {
    let pair = Pair::new().await;
    let (stranger, clients) = (Authority::new("stranger"), Authority::new("clients"));
    let mut proxy = pair.start().await;
    assert_eq!(kept(&proxy, 3).await, all("active", 3));
    assert_eq!(pair.primary.connections(), 1);
    let used = async || {
        let log = pair.primary.observed();
        log.log().map(|request| request.connection).collect::<Vec<u64>>()
    };
    // The same endpoint, with an authority that its certificate is not of.
    proxy.publish(&pair.state_with(|tls, state| tls.trust = trust(state, "other", &[&stranger]))).await;
    assert_eq!(kept(&proxy, 1).await, all("passive", 1));
    assert_eq!(used().await, [1; 3]);
    type Change<'a> = Box<dyn FnOnce(&mut BackendTls, &mut State) + 'a>;
    let changes: [Change<'_>; 3] = [
        Box::new(|tls, _| tls.trust = Trust::Nothing),
        Box::new(|tls, _| tls.min_version = TlsVersion::Tls13),
        Box::new(|tls, state| {
            tls.client_certificate = Some(clients.sign(&["gateway"]).put(state, "client"));
        }),
    ];
    for change in changes {
        let before = used().await;
        proxy.publish(&pair.state_with(change)).await;
        eventually("the primary", async || kept(&proxy, 1).await == ["active"]).await;
        assert_eq!(kept(&proxy, 3).await, all("active", 3));
        let after = used().await;
        let new = &after[before.len()..];
        assert!(new.len() >= 4 && new.iter().all(|connection| !before.contains(connection)), "{after:?}");
    }
}

#[tokio::test]
async fn a_policy_that_comes_back_as_it_was_or_moves_to_another_object_keeps_its_connections() {
    let pair = Pair::new().await;
    let mut proxy = pair.start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    let request = Request::get(HOST, "/test");
    assert_eq!(client.send_request(&request).await.unwrap().status, 200);
    // Another bundle with the same content.
    let mut state = pair.state_with(|tls, state| tls.trust = trust(state, "moved", &[&pair.authority]));
    state.gateways.values_mut().for_each(|gateway| Arc::make_mut(gateway).listeners[0].port = 8080);
    proxy.publish(&state).await;
    assert_eq!(client.send_request(&request).await.unwrap().pod().as_deref(), Some("active"));
    assert_eq!(pair.primary.connections(), 1);
}

#[tokio::test]
async fn pooled_connections_that_died_are_replaced_and_no_request_fails() {
    let pair = Pair::new().await;
    let proxy = pair.start().await;
    for round in 0..20 {
        assert_eq!(proxy.pods(2).await, all("active", 2), "{round}");
        pair.primary.close_connections().await;
    }
    assert_eq!(pair.fallback.connections(), 0);
}

/// Requests one after the other on four connections, until told to stop; the answers that were not 200.
async fn under_load(proxy: &mut Proxy, during: impl AsyncFnOnce(&mut Proxy)) -> (usize, Vec<u16>) {
    let stop = Arc::new(AtomicBool::new(false));
    let address = proxy.address;
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut statuses = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut client = Client::connect(address).await.unwrap();
                    for _ in 0..10 {
                        let response = client.send_request(&Request::get(HOST, "/test")).await.unwrap();
                        statuses.push(response.status);
                        if response.status != 200 {
                            // The proxy ends the connection with such an answer.
                            break;
                        }
                    }
                }
                statuses
            })
        })
        .collect();
    during(proxy).await;
    stop.store(true, Ordering::Relaxed);
    let mut statuses = Vec::new();
    for worker in workers {
        statuses.extend(worker.await.unwrap());
    }
    let count = statuses.len();
    (count, statuses.into_iter().filter(|status| *status != 200).collect())
}

#[tokio::test]
async fn an_authority_is_rotated_under_load_and_no_request_fails() {
    let pair = Pair::new().await;
    let new = Authority::new("new");
    let mut proxy = pair.start().await;
    let states: [State; 2] = [
        pair.state_with(|tls, state| tls.trust = trust(state, "rotated", &[&pair.authority, &new])),
        pair.state_with(|tls, state| tls.trust = trust(state, "rotated", &[&new])),
    ];
    let (count, failed) = under_load(&mut proxy, async |proxy: &mut Proxy| {
        let seen = async |more: u64| {
            let target = pair.primary.requests() + more;
            assert!(pair.primary.wait_until(PATIENCE, |seen| seen.requests >= target).await);
        };
        seen(50).await;
        proxy.publish(&states[0]).await;
        seen(50).await;
        // Connections that stand keep the certificate that they began with.
        pair.primary.set_tls(Some(new.sign(&[LOCAL]).server()));
        seen(50).await;
        proxy.publish(&states[1]).await;
        seen(50).await;
    })
    .await;
    assert_eq!(failed, [0_u16; 0], "of {count}");
    assert!(count > 200);
    assert_eq!(pair.fallback.requests(), 0);
}

#[tokio::test]
async fn a_certificate_that_goes_wrong_fails_over_and_its_repair_brings_the_primary_back() {
    let pair = Pair::new().await;
    let setup = pair.setup.clone().change_policy(|policy| {
        policy.passive.as_mut().unwrap().base_ejection_time = millis(200);
    });
    let pair = Pair { setup, ..pair };
    let proxy = pair.start().await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
    pair.primary.set_tls(Some(pair.authority.sign_with(&[LOCAL], expired).server()));
    pair.primary.close_connections().await;
    let before = pair.primary.requests();
    assert_eq!(proxy.pods(10).await, all("passive", 10), "no request fails");
    // Trials make the whole handshake, and none of them succeeds.
    assert!(pair.primary.wait_until(PATIENCE, |seen| seen.failed_handshakes >= 3).await);
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    assert_eq!(pair.primary.requests(), before);
    pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).server()));
    eventually("the return", async || proxy.pods(1).await == ["active"]).await;
    eventually("all of the traffic", async || primary_health(&proxy).await.0 == Health::Healthy).await;
    assert_eq!(proxy.pods(5).await, all("active", 5));
}

fn checked(pair: Pair, probe: ActiveProbe) -> Pair {
    let check =
        ActiveHealthCheck { interval: millis(100), timeout: millis(2000), ..ActiveHealthCheck::new(probe) };
    let setup = pair.setup.clone().change_policy(|policy| {
        policy.passive = None;
        policy.active = Some(Arc::new(check));
    });
    Pair { setup, ..pair }
}

#[tokio::test]
async fn active_checks_go_over_tls_under_the_endpoint_s_policy() {
    for probe in [ActiveProbe::Http(HttpProbe::get("/healthz")), ActiveProbe::Tcp(TcpProbe::default())] {
        let pair = checked(Pair::new().await, probe.clone());
        let proxy = pair.start().await;
        assert_eq!(proxy.pods(5).await, all("active", 5), "{probe:?}");
        assert_eq!(pair.primary.observed().failed_handshakes, 0);
        if let ActiveProbe::Http(_) = probe {
            assert!(pair.primary.observed().requests_to("GET", "/healthz") > 0);
        }
        pair.primary.set_tls(Some(Authority::new("stranger").sign(&[LOCAL]).server()));
        // Requests may go on over the connections that stand; the check makes new ones.
        eventually("a failed check", async || primary_health(&proxy).await.0 == Health::Unhealthy).await;
        let error = primary_health(&proxy).await.1;
        assert_eq!(error.as_deref(), Some("active check: certificate not accepted"), "{probe:?}");
        assert_eq!(proxy.pods(3).await, all("passive", 3));
        pair.primary.set_tls(Some(pair.authority.sign(&[LOCAL]).server()));
        eventually("the return", async || proxy.pods(1).await == ["active"]).await;
    }
}

/// A server of gRPC's health service over TLS; it counts the calls that it answered.
async fn grpc(config: ServerConfig, calls: Arc<AtomicUsize>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, calls) = (acceptor.clone(), calls.clone());
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().scheme_str(), Some("https"));
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false).unwrap();
                    let mut trailers = http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    body.send_trailers(trailers).unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_grpc_check_asks_over_tls_in_http2() {
    let pair = checked(Pair::new().await, ActiveProbe::Grpc(GrpcProbe::default()));
    let calls = Arc::new(AtomicUsize::new(0));
    let mut config = (*pair.authority.sign(&[LOCAL]).server()).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let address = grpc(config, calls.clone()).await;
    let pair = Pair { setup: Setup { refs: vec![(0, vec![address.into()])], ..pair.setup }, ..pair };
    let mut state = pair.setup.state();
    let tls = BackendTls::new(trust(&mut state, "good", &[&pair.authority]));
    secure(&mut state, 0, tls);
    let proxy = start(&state).await;
    eventually("three checks", async || calls.load(Ordering::Relaxed) >= 3).await;
    assert_eq!(primary_health(&proxy).await, (Health::Healthy, None));
}

#[tokio::test]
async fn an_endpoint_behind_a_unix_socket_is_verified_by_the_name_that_it_is_given() {
    let pair = Pair::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sock");
    let unix = Upstream::start_unix(&path, "active").await.unwrap();
    unix.set_tls(Some(for_name(&pair.authority, "shop.example.com")));
    let mut state = pair.state_with(|tls, _| tls.server_name = Some("shop.example.com".to_owned()));
    let backend = Arc::make_mut(state.backends.values_mut().next().unwrap());
    backend.endpoints[0].address = EndpointAddress::Unix { path };
    let proxy = start(&state).await;
    assert_eq!(proxy.pods(3).await, all("active", 3));
    // Without a name there is nothing that could be verified, so it is no endpoint at all.
    let backend = Arc::make_mut(state.backends.values_mut().next().unwrap());
    backend.tls.as_mut().unwrap().server_name = None;
    let before = unix.requests();
    let proxy = start(&elsewhere(state)).await;
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    assert_eq!(unix.requests(), before);
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_is_said_and_its_backend_is_never_spoken_to_in_clear_text() {
    let pair = Pair::new().await;
    pair.primary.set_tls(None);
    let state = pair.state_with(|tls, state| {
        tls.trust = trust(state, "broken", &[]);
    });
    let proxy = start(&state).await;
    let said = proxy.wait_for_acknowledgement(|ack| !ack.degraded.is_empty()).await.degraded;
    assert!(
        said[0].contains("backend/default/0") && said[0].contains("configmap/default/broken"),
        "{said:?}"
    );
    assert_eq!(proxy.pods(3).await, all("passive", 3));
    assert_eq!(pair.primary.connections(), 0);
}

#[tokio::test]
async fn an_endpoint_that_never_ends_its_handshake_times_out_and_is_replaced() {
    let pair = Pair::new().await;
    let silent = silent().await;
    let setup =
        Setup { refs: vec![(0, vec![silent.into()]), pair.setup.refs[1].clone()], ..pair.setup.clone() };
    let setup = setup.change_policy(|policy| policy.timeouts.connect = millis(200));
    let pair = Pair { setup, ..pair };
    let proxy = pair.start().await;
    assert_eq!(proxy.pods(2).await, all("passive", 2));
    assert_eq!(primary_health(&proxy).await.1.as_deref(), Some("connection timeout"));
}

/// An address that accepts and says nothing.
async fn silent() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

/// An address that answers whatever it is told with an error in clear text.
async fn clear_text() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut hello = [0; 2048];
                assert!(stream.read(&mut hello).await.is_ok());
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                let _ = stream.read(&mut hello).await;
            });
        }
    });
    address
}
