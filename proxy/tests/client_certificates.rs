//! What HTTPS listeners ask of clients, on real sockets: who gets through, what is resumed, and what a change does.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod pki;
mod tls_client;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use common::{PATIENCE, Proxy, Setup, primary};
use h2::client::SendRequest;
use pki::{Authority, Leaf, expired, trust};
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, HandshakeKind, SignatureScheme, SupportedProtocolVersion, version};
use tls_client::{Hello, Kind, Session, certificate, connect, own_address, secure};
use tokio::time::timeout;
use understudy_conf::{CaBundleName, ClientValidation, ClientValidationMode, State, Trust};
use understudy_testbed::Backend as Upstream;

use ClientValidationMode::{AllowInsecure, Require};

const OPEN: &str = "open.example.com";
const CLOSED: &str = "closed.example.com";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&version::TLS12, &version::TLS13];

/// A gateway with two listeners on one socket before one upstream; neither asks for anything yet.
struct Front {
    _upstream: Upstream,
    state: State,
    address: SocketAddr,
    good: Authority,
    other: Authority,
}

impl Front {
    async fn new() -> Self {
        let upstream = primary().await;
        let setup = Setup { gateway: own_address(), ..Setup::new(&[upstream.address()], &[]) };
        let mut state = setup.state();
        let shown = certificate("shown", Kind::Ecdsa, &[OPEN, CLOSED]);
        secure(
            &mut state,
            setup.gateway,
            &[("open", Some(OPEN), &[&shown]), ("closed", Some(CLOSED), &[&shown])],
        );
        // Of one name, so that only the signature tells them apart.
        let (good, other) = (Authority::new("clients"), Authority::new("clients"));
        Self { _upstream: upstream, state, address: setup.gateway, good, other }
    }

    /// The second listener asks for certificates of these authorities.
    fn asking(&self, authorities: &[&Authority], mode: ClientValidationMode) -> State {
        let mut state = self.state.clone();
        let Trust::Bundles(bundles) = trust(&mut state, "clients", authorities) else { unreachable!() };
        ask(&mut state, 1, Some(ClientValidation { bundles, mode }));
        state
    }

    /// Connects and asks for something; a refusal comes with the handshake, or in TLS 1.3 behind it.
    async fn get(&self, config: &Arc<ClientConfig>) -> io::Result<Session> {
        let mut session = connect(self.address, CLOSED, config.clone()).await?;
        let (status, text) = session.get(CLOSED, "/test").await?;
        assert_eq!(status, 200, "{text}");
        Ok(session)
    }
}

fn ask(state: &mut State, listener: usize, validation: Option<ClientValidation>) {
    let gateway = Arc::make_mut(state.gateways.values_mut().next().unwrap());
    gateway.listeners[listener].tls.as_mut().unwrap().client_validation = validation;
}

/// Shows a certificate whoever is trusted, and counts how often it is asked for one.
#[derive(Debug, Default)]
struct Shows {
    certificate: Option<Arc<CertifiedKey>>,
    asked: AtomicUsize,
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.certificate.clone()
    }

    fn has_certs(&self) -> bool {
        self.certificate.is_some()
    }
}

fn client(leaf: Option<&Leaf>, hello: &Hello) -> (Arc<ClientConfig>, Arc<Shows>) {
    let certificate = leaf.map(|leaf| Arc::new(leaf.certified()));
    let shows = Arc::new(Shows { certificate, asked: AtomicUsize::new(0) });
    let mut config = hello.config();
    config.client_auth_cert_resolver = shows.clone();
    (Arc::new(config), shows)
}

fn speaking(version: &'static SupportedProtocolVersion) -> Hello {
    Hello { versions: vec![version], ..Hello::default() }
}

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

#[tokio::test]
async fn f1_only_a_client_with_a_certificate_of_an_authority_gets_through() {
    let front = Front::new().await;
    let _proxy = start(&front.asking(&[&front.good], Require)).await;
    let (good, other) = (front.good.sign(&[]), front.other.sign(&[]));
    let late = front.good.sign_with(&[], expired);
    for version in VERSIONS {
        let hello = speaking(version);
        let (config, shows) = client(Some(&good), &hello);
        front.get(&config).await.unwrap();
        assert_eq!(shows.asked.load(Ordering::Relaxed), 1);
        for (who, leaf) in [("other", Some(&other)), ("late", Some(&late)), ("nobody", None)] {
            let (config, shows) = client(leaf, &hello);
            assert!(front.get(&config).await.is_err(), "{who} {version:?}");
            assert_eq!(shows.asked.load(Ordering::Relaxed), 1);
        }
        // The other listener of the socket asks nobody.
        let (config, shows) = client(Some(&other), &hello);
        let mut session = connect(front.address, OPEN, config).await.unwrap();
        assert_eq!(session.get(OPEN, "/test").await.unwrap().0, 200);
        assert_eq!(shows.asked.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn f2_where_anybody_is_allowed_everybody_is_asked_and_served() {
    let front = Front::new().await;
    let _proxy = start(&front.asking(&[&front.good], AllowInsecure)).await;
    let (good, other) = (front.good.sign(&[]), front.other.sign(&[]));
    let (late, unreadable) = (front.good.sign_with(&[], expired), front.good.sign(&[]).unreadable());
    for version in VERSIONS {
        for leaf in [Some(&good), Some(&other), Some(&late), Some(&unreadable), None] {
            let (config, shows) = client(leaf, &speaking(version));
            front.get(&config).await.unwrap();
            assert_eq!(shows.asked.load(Ordering::Relaxed), 1);
        }
    }
}

#[tokio::test]
async fn f3_a_session_is_resumed_under_the_policy_that_it_was_agreed_on_and_no_other() {
    let front = Front::new().await;
    let (good, nobody) = (front.good.sign(&[]), None);
    let asking = front.asking(&[&front.good], Require);
    let mut proxy = start(&asking).await;
    for version in VERSIONS {
        proxy.publish(&asking).await;
        let (config, _) = client(Some(&good), &speaking(version));
        let mut kinds = Vec::new();
        for _ in 0..2 {
            kinds.push(front.get(&config).await.unwrap().stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed]);
        // The authority that signed is trusted no more: the ticket is not, either.
        proxy.publish(&front.asking(&[&front.other], Require)).await;
        assert!(front.get(&config).await.is_err(), "{version:?}");
        // What a client was not asked for before is not taken as shown.
        for before in [front.state.clone(), front.asking(&[&front.good], AllowInsecure)] {
            proxy.publish(&before).await;
            let (config, _) = client(nobody, &speaking(version));
            front.get(&config).await.unwrap();
            let resumed = front.get(&config).await.unwrap();
            assert_eq!(resumed.stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
            proxy.publish(&asking).await;
            assert!(front.get(&config).await.is_err(), "{version:?}");
        }
    }
}

#[tokio::test]
async fn f4_authorities_are_replaced_without_ending_connections() {
    let front = Front::new().await;
    let mut proxy = start(&front.asking(&[&front.good], Require)).await;
    let hello = Hello::default();
    let ((good, _), (other, _)) =
        (client(Some(&front.good.sign(&[])), &hello), client(Some(&front.other.sign(&[])), &hello));
    let mut session = front.get(&good).await.unwrap();
    for (authorities, good_is_taken) in [(vec![&front.good, &front.other], true), (vec![&front.other], false)]
    {
        proxy.publish(&front.asking(&authorities, Require)).await;
        front.get(&other).await.unwrap();
        assert_eq!(front.get(&good).await.is_ok(), good_is_taken);
        assert_eq!(session.get(CLOSED, "/test").await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn f5_a_listener_that_asks_for_more_than_before_is_reached_on_new_connections_only() {
    let front = Front::new().await;
    let hello = Hello::default();
    let (good, _) = client(Some(&front.good.sign(&[])), &hello);
    let mut proxy = start(&front.state).await;
    for before in [front.state.clone(), front.asking(&[&front.good], AllowInsecure)] {
        proxy.publish(&before).await;
        let mut session = front.get(&good).await.unwrap();
        let mut streams = connect_h2(&front, CLOSED, None).await;
        assert_eq!(get_h2(&mut streams, CLOSED).await, 200);
        proxy.publish(&front.asking(&[&front.good], Require)).await;
        assert_eq!(session.get(CLOSED, "/test").await.unwrap().0, 421);
        assert!(session.ends().await);
        assert_eq!(get_h2(&mut streams, CLOSED).await, 421);
        front.get(&good).await.unwrap();
        // And back: what asks for nothing is reached on any.
        let mut session = front.get(&good).await.unwrap();
        proxy.publish(&front.state).await;
        assert_eq!(session.get(CLOSED, "/test").await.unwrap().0, 200);
    }
}

#[tokio::test]
async fn f6_a_connection_of_http_2_for_one_listener_is_none_for_another() {
    let front = Front::new().await;
    let _proxy = start(&front.asking(&[&front.good], Require)).await;
    let mut open = connect_h2(&front, OPEN, None).await;
    let mut closed = connect_h2(&front, CLOSED, Some(&front.good.sign(&[]))).await;
    for _ in 0..3 {
        assert_eq!(get_h2(&mut open, OPEN).await, 200);
        assert_eq!(get_h2(&mut open, CLOSED).await, 421);
        assert_eq!(get_h2(&mut closed, CLOSED).await, 200);
        assert_eq!(get_h2(&mut closed, OPEN).await, 421);
    }
}

#[tokio::test]
async fn f7_a_listener_that_can_verify_nobody_serves_nobody() {
    let front = Front::new().await;
    let hello = Hello::default();
    let (good, _) = client(Some(&front.good.sign(&[])), &hello);
    let garbled = |mode| {
        let mut state = front.asking(&[&front.good], mode);
        let bundle = CaBundleName::new("configmap/default/clients").unwrap();
        Arc::make_mut(state.ca_bundles.get_mut(&bundle).unwrap()).certificates = "nothing".to_owned();
        state
    };
    let mut proxy = start(&front.state).await;
    for before in [front.state.clone(), front.asking(&[&front.good], Require)] {
        for mode in [Require, AllowInsecure] {
            proxy.publish(&before).await;
            front.get(&good).await.unwrap();
            proxy.publish(&garbled(mode)).await;
            assert!(front.get(&good).await.is_err(), "{mode:?}");
        }
    }
    // The other listener goes on.
    let mut session = hello.connect(front.address, OPEN).await.unwrap();
    assert_eq!(session.get(OPEN, "/test").await.unwrap().0, 200);
}

async fn connect_h2(front: &Front, name: &str, leaf: Option<&Leaf>) -> SendRequest<Bytes> {
    let hello = Hello { alpn: vec!["h2"], ..Hello::default() };
    let (config, _) = client(leaf, &hello);
    let session = connect(front.address, name, config).await.unwrap();
    let (streams, connection) = h2::client::handshake(session.stream).await.unwrap();
    tokio::spawn(connection);
    streams
}

async fn get_h2(streams: &mut SendRequest<Bytes>, host: &str) -> u16 {
    let mut ready = streams.clone().ready().await.unwrap();
    let request = http::Request::get(format!("https://{host}/test")).body(()).unwrap();
    let answer = ready.send_request(request, true).unwrap().0;
    timeout(PATIENCE, answer).await.unwrap().unwrap().status().as_u16()
}
