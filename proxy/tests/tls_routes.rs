//! TLS listeners on real sockets: passed through or ended here, on a socket of their own or beside HTTPS.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod l4;
mod tls_client;

use std::net::SocketAddr;
use std::sync::Arc;

use common::{PATIENCE, Proxy, Setup, free_address, no_retry, primary};
use l4::{Conversation, change_policy, listen, pair, refs, route, state};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConnection, ServerConfig};
use tls_client::{Hello, Kind, Session, certificate, der, own_address, put};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use understudy_conf::{Certificate, Hostname, ListenerTls, Protocol, RouteKind, State, TlsMode};
use understudy_testbed::TcpEcho;

const WILD: &str = "*.example.com";

fn passthrough() -> ListenerTls {
    ListenerTls { mode: TlsMode::Passthrough, certificates: Vec::new(), client_validation: None }
}

fn terminate(state: &mut State, certificate: &Certificate) -> ListenerTls {
    put(state, certificate);
    ListenerTls {
        mode: TlsMode::Terminate,
        certificates: vec![certificate.name.clone()],
        client_validation: None,
    }
}

/// An endpoint that ends TLS itself.
async fn tls_echo(name: &str, certificate: &Certificate) -> TcpEcho {
    let chain = vec![CertificateDer::from_pem_slice(certificate.chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose_pem().as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TcpEcho::start_with(name, Some(Arc::new(config))).await.unwrap()
}

fn ecdsa(object: &str) -> Certificate {
    certificate(object, Kind::Ecdsa, &["any.test"])
}

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

async fn session(address: SocketAddr, name: &str) -> std::io::Result<Session> {
    Hello::default().connect(address, name).await
}

/// Who answers a name, and whether that is the holder of this certificate. The conversation is ended in order.
async fn answers(address: SocketAddr, name: &str, shown: &Certificate) -> String {
    let session = session(address, name).await.unwrap();
    assert!(session.shown() == der(shown), "{name}");
    let mut conversation = Conversation::begin(session.stream).await.unwrap();
    conversation.echo(b"\0anything").await.unwrap();
    let name = conversation.name.clone();
    assert_eq!(conversation.leave().await.unwrap(), "bye\n");
    name
}

/// Whether a client is refused before there is any TLS.
async fn is_closed(address: SocketAddr, name: &str) -> bool {
    session(address, name).await.is_err()
}

fn to(state: &mut State, name: &str, listener: &str, hostnames: &[&str], endpoint: &TcpEcho) {
    let refs = refs(state, &[(0, 1, endpoint.address().into())]);
    route(state, (RouteKind::Tls, name), listener, hostnames, refs);
}

#[tokio::test]
async fn what_is_passed_through_ends_at_the_endpoint_that_the_name_chooses() {
    let (exact, deep, wild, any) = (ecdsa("exact"), ecdsa("deep"), ecdsa("wild"), ecdsa("any"));
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, passthrough())));
    let mut endpoints = Vec::new();
    for (name, hostnames, certificate) in [
        ("any", &[][..], &any),
        ("wild", &["*.example.com"], &wild),
        ("exact", &["www.example.com", "shop.test"], &exact),
        ("deep", &["*.a.example.com"], &deep),
    ] {
        let endpoint = tls_echo(name, certificate).await;
        to(&mut state, name, "tls", hostnames, &endpoint);
        endpoints.push(endpoint);
    }
    let _proxy = start(&state).await;
    for (name, expected, shown) in [
        ("www.example.com", "exact", &exact),
        ("WWW.Example.com", "exact", &exact),
        ("shop.test", "exact", &exact),
        ("api.example.com", "wild", &wild),
        ("x.y.example.com", "wild", &wild),
        ("b.a.example.com", "deep", &deep),
        ("example.com", "any", &any),
        // Who names nobody.
        ("127.0.0.1", "any", &any),
    ] {
        assert_eq!(answers(address, name, shown).await, expected, "{name}");
    }
}

#[tokio::test]
async fn what_ends_here_reaches_the_endpoint_in_clear_text() {
    let shown = ecdsa("shop");
    let endpoint = TcpEcho::start("clear").await.unwrap();
    let (mut state, address) = (state(), own_address());
    let tls = terminate(&mut state, &shown);
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, tls)));
    to(&mut state, "shop", "tls", &[], &endpoint);
    let _proxy = start(&state).await;
    assert_eq!(answers(address, "shop.test", &shown).await, "clear");
    // What is inside is nobody's business: no protocol is agreed on, and none refused.
    let hello = Hello { alpn: vec!["postgresql", "h2"], ..Hello::default() };
    let session = hello.connect(address, "shop.test").await.unwrap();
    assert_eq!(session.stream.get_ref().1.alpn_protocol(), None);
    assert_eq!(Conversation::begin(session.stream).await.unwrap().name, "clear");
}

#[tokio::test]
async fn a_tcp_route_may_stand_behind_a_listener_that_ends_tls() {
    let shown = ecdsa("shop");
    let endpoint = TcpEcho::start("clear").await.unwrap();
    let (mut state, address) = (state(), own_address());
    let tls = terminate(&mut state, &shown);
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, tls)));
    let refs = refs(&mut state, &[(0, 1, endpoint.address().into())]);
    route(&mut state, (RouteKind::Tcp, "db"), "tls", &[], refs);
    let _proxy = start(&state).await;
    assert_eq!(answers(address, "any.test", &shown).await, "clear");
}

#[tokio::test]
async fn https_terminated_and_passed_through_share_one_socket() {
    let (of_https, of_ended, of_endpoint) = (ecdsa("https"), ecdsa("ended"), ecdsa("endpoint"));
    let upstream = primary().await;
    let address = own_address();
    let mut state = Setup { gateway: address, ..Setup::new(&[upstream.address()], &[]) }.state();
    tls_client::secure(&mut state, address, &[("https", Some("www.example.com"), &[&of_https])]);
    let (clear, ended) = (TcpEcho::start("clear").await.unwrap(), tls_echo("through", &of_endpoint).await);
    let tls = terminate(&mut state, &of_ended);
    listen(&mut state, "ended", Protocol::Tls, address, Some((Some("db.example.com"), tls)));
    listen(&mut state, "through", Protocol::Tls, address, Some((Some(WILD), passthrough())));
    to(&mut state, "ended", "ended", &["db.example.com"], &clear);
    to(&mut state, "through", "through", &[WILD], &ended);
    let _proxy = start(&state).await;
    for _ in 0..3 {
        let mut https = session(address, "www.example.com").await.unwrap();
        assert!(https.shown() == der(&of_https));
        assert_eq!(https.get("www.example.com", "/test").await.unwrap().0, 200);
        assert_eq!(answers(address, "db.example.com", &of_ended).await, "clear");
        assert_eq!(answers(address, "other.example.com", &of_endpoint).await, "through");
    }
    // F6: a browser may take the connection for other names that the certificate has.
    let mut https = session(address, "www.example.com").await.unwrap();
    for name in ["db.example.com", "other.example.com"] {
        assert_eq!(https.get(name, "/test").await.unwrap().0, 421, "{name}");
    }
    assert_eq!(https.get("example.org", "/test").await.unwrap().0, 404);
    // Names that no listener has: nobody here would have been the other end, so nothing is said.
    for name in ["example.org", "127.0.0.1"] {
        let Err(error) = session(address, name).await else { panic!("{name} is served") };
        assert!(!error.to_string().contains("UnrecognisedName"), "{name}: {error}");
    }
    // HTTP/2 is agreed on where HTTP is inside.
    let hello = Hello { alpn: vec!["h2"], ..Hello::default() };
    let https = hello.connect(address, "www.example.com").await.unwrap();
    assert_eq!(https.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test]
async fn a_listener_without_a_route_for_the_name_closes() {
    let endpoint = ecdsa("endpoint");
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((Some(WILD), passthrough())));
    let through = tls_echo("through", &endpoint).await;
    to(&mut state, "through", "tls", &["www.example.com"], &through);
    let _proxy = start(&state).await;
    assert_eq!(answers(address, "www.example.com", &endpoint).await, "through");
    assert!(is_closed(address, "other.example.com").await, "no route");
    assert!(is_closed(address, "www.example.org").await, "no listener");
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, plain.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    assert_eq!(through.connections(), 1);
}

#[tokio::test]
async fn with_a_dead_primary_the_first_connection_passes_through_to_the_fallback() {
    let endpoint = ecdsa("endpoint");
    let fallback = tls_echo("passive", &endpoint).await;
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, passthrough())));
    let refs = pair(&mut state, free_address(), fallback.address());
    route(&mut state, (RouteKind::Tls, "shop"), "tls", &["www.example.com"], refs);
    let _proxy = start(&state).await;
    for _ in 0..4 {
        assert_eq!(answers(address, "www.example.com", &endpoint).await, "passive");
    }
}

#[tokio::test]
async fn without_any_retry_the_connection_after_the_first_passes_through_to_the_fallback() {
    let endpoint = ecdsa("endpoint");
    let fallback = tls_echo("passive", &endpoint).await;
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, passthrough())));
    change_policy(&mut state, |policy| policy.retry = Some(no_retry()));
    let refs = pair(&mut state, free_address(), fallback.address());
    route(&mut state, (RouteKind::Tls, "shop"), "tls", &["www.example.com"], refs);
    let _proxy = start(&state).await;
    assert!(is_closed(address, "www.example.com").await);
    for _ in 0..3 {
        assert_eq!(answers(address, "www.example.com", &endpoint).await, "passive");
    }
}

#[tokio::test]
async fn a_terminated_connection_lands_on_the_fallback_too() {
    let shown = ecdsa("shop");
    let fallback = TcpEcho::start("passive").await.unwrap();
    let (mut state, address) = (state(), own_address());
    let tls = terminate(&mut state, &shown);
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, tls)));
    let refs = pair(&mut state, free_address(), fallback.address());
    route(&mut state, (RouteKind::Tls, "shop"), "tls", &[], refs);
    let _proxy = start(&state).await;
    assert_eq!(answers(address, "shop.test", &shown).await, "passive");
}

/// The ClientHello of a client that asks for a name.
fn client_hello(name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(Hello::default().config()), name).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn the_client_hello_arrives_as_it_was_sent_however_it_was_cut() {
    // It does not speak TLS, and gives back what it gets.
    let endpoint = TcpEcho::start("raw").await.unwrap();
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, passthrough())));
    to(&mut state, "raw", "tls", &["www.example.com"], &endpoint);
    let _proxy = start(&state).await;
    let hello = client_hello("www.example.com");
    // What comes right behind it is not lost, either.
    let sent = [&*hello, b"and more"].concat();
    for size in [1, 7, 100, sent.len()] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        for piece in sent.chunks(size) {
            client.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
        let mut read = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut read)).await.unwrap().unwrap();
        assert!(read == [b"raw\n", &*sent, b"bye\n"].concat(), "{size}");
    }
}

#[tokio::test]
async fn a_client_hello_without_an_end_is_refused() {
    let endpoint = TcpEcho::start("raw").await.unwrap();
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, passthrough())));
    to(&mut state, "raw", "tls", &[], &endpoint);
    let _proxy = start(&state).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = client.split();
    // A handshake of 60,000 bytes, in records of 1,024.
    let mut handshake = vec![1, 0, 0xea, 0x60];
    handshake.resize(60_004, 0);
    let records = handshake.chunks(1024).flat_map(|piece| {
        let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], piece].concat()
    });
    // It may be closed before all is written.
    let _ = writer.write_all(&records.collect::<Vec<u8>>()).await;
    let mut rest = Vec::new();
    let _ = timeout(PATIENCE, reader.read_to_end(&mut rest)).await.expect("it stays open");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn a_listener_that_changes_between_https_and_tls_agrees_on_http_only_as_https() {
    let shown = ecdsa("shop");
    let endpoint = TcpEcho::start("clear").await.unwrap();
    let (mut state, address) = (state(), own_address());
    let tls = terminate(&mut state, &shown);
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, tls)));
    to(&mut state, "shop", "tls", &[], &endpoint);
    let mut https = state.clone();
    Arc::make_mut(https.gateways.values_mut().next().unwrap()).listeners[0].protocol = Protocol::Https;
    let hello = Hello { alpn: vec!["h2"], ..Hello::default() };
    let mut proxy = start(&state).await;
    for (state, expected) in [(&https, Some(&b"h2"[..])), (&state, None), (&https, Some(&b"h2"[..]))] {
        proxy.publish(state).await;
        let session = hello.connect(address, "shop.test").await.unwrap();
        assert_eq!(session.stream.get_ref().1.alpn_protocol(), expected);
    }
}

#[tokio::test]
async fn routes_come_and_go_while_what_is_open_stays() {
    let endpoint = ecdsa("endpoint");
    let (one, two) = (tls_echo("one", &endpoint).await, tls_echo("two", &endpoint).await);
    let (mut state, address) = (state(), own_address());
    listen(&mut state, "tls", Protocol::Tls, address, Some((None, passthrough())));
    to(&mut state, "wild", "tls", &[WILD], &one);
    let mut proxy = start(&state).await;
    let open = session(address, "www.example.com").await.unwrap();
    let mut open = Conversation::begin(open.stream).await.unwrap();
    assert_eq!(open.name, "one");
    to(&mut state, "exact", "tls", &["www.example.com"], &two);
    proxy.publish(&state).await;
    assert_eq!(answers(address, "www.example.com", &endpoint).await, "two");
    let exact = state.routes.get_mut("tlsroute/default/exact").unwrap();
    Arc::make_mut(exact).attachments[0].hostnames = vec![Hostname::new("shop.example.com").unwrap()];
    proxy.publish(&state).await;
    assert_eq!(answers(address, "www.example.com", &endpoint).await, "one");
    assert_eq!(answers(address, "shop.example.com", &endpoint).await, "two");
    open.echo(b"still there").await.unwrap();
}
