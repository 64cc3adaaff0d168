//! On real sockets, with small applications.

use std::net::TcpListener as StdListener;
use std::pin::Pin;

use async_trait::async_trait;
use http::Response;
use pingora_core::apps::http_app::ServeHttp;
use pingora_core::protocols::http::ServerSession;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{HttpProxy, ProxyHttp, Session, http_proxy};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use understudy_conf::{
    Certificate, CertificateName, Gateway, GatewayName, Listener, ListenerName, ListenerTls, PrivateKey,
    Protocol, State, TlsMode,
};

use super::*;

const BOUND: Duration = Duration::from_secs(20);

/// Answers each request with the address of the socket that took it. `/panic` panics; `/slow` waits until it
/// is let go.
#[derive(Default)]
struct SaysSocket {
    let_go: Notify,
    waiting: Notify,
}

#[async_trait]
impl ServeHttp for SaysSocket {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        match session.req_header().uri.path() {
            "/panic" => panic!("on purpose"),
            "/slow" => {
                self.waiting.notify_one();
                self.let_go.notified().await;
            }
            _ => {}
        }
        let addr = session.server_addr().unwrap().as_inet().unwrap().to_string();
        Response::builder().header("content-length", addr.len()).body(addr.into_bytes()).unwrap()
    }
}

#[test]
fn connections_and_sessions_leave_files_for_the_proxy_itself() {
    for files in [1024, 4096, 65_536, 1_048_576] {
        let connections = connections_of(files);
        let sessions = connections / CONNECTIONS_A_SESSION;
        assert!(2 * connections + sessions <= files - OWN_FILES, "{files}");
        assert!(2 * connections + sessions + 40 > files - OWN_FILES, "{files}");
    }
    assert_eq!(connections_of(0), 16);
    assert_eq!(connections_of(usize::MAX), 1_000_000);
}

fn listeners_with<A: ServerApp + Send + Sync + 'static>(app: A, max_connections: usize) -> Listeners<A> {
    listeners_over(app, max_connections, TlsTable::default(), Duration::from_secs(10))
}

fn listeners_over<A: ServerApp + Send + Sync + 'static>(
    app: A,
    max_connections: usize,
    table: TlsTable,
    handshake_bound: Duration,
) -> Listeners<A> {
    let workers = Arc::new(Workers::start(2).unwrap());
    let options = ListenerOptions {
        max_connections,
        keepalive: None,
        retry_every: Duration::from_millis(10),
        handshake_bound,
        ..ListenerOptions::default()
    };
    let table = Arc::new(ArcSwap::from_pointee(table));
    Listeners::new(workers, Arc::new(app), table, &Handle::current(), options)
}

fn listeners() -> Listeners<SaysSocket> {
    listeners_with(SaysSocket::default(), 1000)
}

async fn actual<A: ServerApp + Send + Sync + 'static>(
    listeners: &Listeners<A>,
    asked: SocketAddr,
) -> SocketAddr {
    listeners.bound().await.into_iter().find(|(address, _)| *address == asked).unwrap().1
}

/// Sends a request and reads the answer's head and body.
async fn ask(client: &mut TcpStream, path: &str) -> String {
    client.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    read_answer(client).await
}

async fn read_answer(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    let complete = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).to_lowercase();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.split("content-length: ").nth(1)?.lines().next()?.parse::<usize>().ok()?;
        (body.len() >= length).then_some(())
    };
    while complete(&answer).is_none() {
        let count = timeout(BOUND, client.read(&mut buffer)).await.unwrap().unwrap();
        assert!(count > 0, "the connection ended before the answer: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8(answer).unwrap()
}

async fn ends(client: &mut TcpStream) -> bool {
    matches!(timeout(BOUND, client.read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_))
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    timeout(BOUND, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .unwrap();
}

fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

#[tokio::test]
async fn two_addresses_on_one_port_are_told_apart() {
    let listeners = listeners();
    listeners.apply(&[any_port()]).await;
    let first = actual(&listeners, any_port()).await;
    let one: SocketAddr = ([127, 0, 0, 1], first.port()).into();
    let two: SocketAddr = ([127, 0, 0, 2], first.port()).into();
    // The first is bound anew, under its own name.
    let results = listeners.apply(&[one, two]).await;
    assert!(results.iter().all(|(_, result)| result.is_ok()), "{results:?}");
    for address in [one, two] {
        let mut client = TcpStream::connect(address).await.unwrap();
        for _ in 0..2 {
            assert!(ask(&mut client, "/").await.ends_with(&format!("\r\n\r\n{address}")));
        }
    }
}

#[tokio::test]
async fn a_wildcard_socket_is_named_by_the_address_that_was_asked_for() {
    let listeners = listeners();
    let asked = "0.0.0.0:0".parse().unwrap();
    listeners.apply(&[asked]).await;
    let port = actual(&listeners, asked).await.port();
    let mut client = TcpStream::connect(("127.0.0.3", port)).await.unwrap();
    assert!(ask(&mut client, "/").await.ends_with("\r\n\r\n0.0.0.0:0"));
}

#[tokio::test]
async fn a_wildcard_socket_gives_way_to_one_address_of_its_port() {
    let listeners = listeners();
    listeners.apply(&["0.0.0.0:0".parse().unwrap()]).await;
    let port = actual(&listeners, "0.0.0.0:0".parse().unwrap()).await.port();
    let one = ([127, 0, 0, 1], port).into();
    assert_eq!(listeners.apply(&[one]).await, [(one, Ok(()))]);
}

#[tokio::test]
async fn listeners_come_and_go_and_an_idle_connection_still_gets_its_answer() {
    let listeners = listeners();
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    assert!(!ask(&mut idle, "/").await.to_lowercase().contains("connection: close"));

    listeners.apply(&[]).await;
    assert!(TcpStream::connect(address).await.is_err());
    // Its request is answered, and it learns that it was the last.
    assert!(ask(&mut idle, "/").await.to_lowercase().contains("connection: close"));
    assert!(ends(&mut idle).await);

    let again = listeners.apply(&[address]).await;
    assert_eq!(again, [(address, Ok(()))]);
    let mut client = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut client, "/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_socket_that_stays_keeps_its_connections_when_others_change() {
    let listeners = listeners();
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    ask(&mut client, "/").await;
    let other = "127.0.0.4:0".parse().unwrap();
    for desired in [vec![any_port(), other], vec![any_port()], vec![other, any_port(), any_port()]] {
        listeners.apply(&desired).await;
        assert_eq!(actual(&listeners, any_port()).await, address);
        assert!(!ask(&mut client, "/").await.to_lowercase().contains("connection: close"));
    }
}

#[tokio::test]
async fn what_has_connected_before_the_close_is_served() {
    let listeners = listeners();
    for _ in 0..20 {
        listeners.apply(&[any_port()]).await;
        let address = actual(&listeners, any_port()).await;
        let mut clients = Vec::new();
        for _ in 0..10 {
            // On this single-threaded runtime the accept loop has had no turn yet for most of them.
            let client = std::net::TcpStream::connect(address).unwrap();
            client.set_nonblocking(true).unwrap();
            clients.push(TcpStream::from_std(client).unwrap());
        }
        listeners.apply(&[]).await;
        for mut client in clients {
            assert!(ask(&mut client, "/").await.starts_with("HTTP/1.1 200"));
        }
    }
}

#[tokio::test]
async fn a_taken_port_is_reported_and_bound_when_it_becomes_free() {
    let taken = StdListener::bind(any_port()).unwrap();
    let address = taken.local_addr().unwrap();
    let listeners = listeners();
    let mut failures = listeners.failures();
    let error = BindError::Taken(address);
    // The other address is bound all the same.
    let results = listeners.apply(&[address, any_port()]).await;
    assert!(results.contains(&(address, Err(error.clone()))) && results.contains(&(any_port(), Ok(()))));
    assert_eq!(*failures.borrow_and_update(), std::slice::from_ref(&error));
    assert_eq!(listeners.apply(&[address]).await, [(address, Err(error))]);
    drop(taken);
    timeout(BOUND, failures.wait_for(Vec::is_empty)).await.unwrap().unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    assert!(ask(&mut client, "/").await.ends_with(&address.to_string()));
}

#[tokio::test]
async fn a_failure_that_is_no_longer_desired_is_forgotten() {
    let taken = StdListener::bind(any_port()).unwrap();
    let listeners = listeners();
    listeners.apply(&[taken.local_addr().unwrap()]).await;
    assert_eq!(listeners.failures().borrow().len(), 1);
    listeners.apply(&[]).await;
    assert!(listeners.failures().borrow().is_empty());
}

#[tokio::test]
async fn a_panicking_connection_ends_alone() {
    let listeners = listeners();
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    let mut steady = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    for client in &mut steady {
        ask(client, "/").await;
    }
    for _ in 0..4 {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /panic HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert!(ends(&mut client).await);
    }
    for client in &mut steady {
        assert!(ask(client, "/").await.starts_with("HTTP/1.1 200"));
    }
    eventually(|| listeners.connections() == 2).await;
}

#[tokio::test]
async fn clients_beyond_the_limit_wait_until_a_connection_ends() {
    let listeners = listeners_with(SaysSocket::default(), 2);
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let mut second = TcpStream::connect(address).await.unwrap();
    ask(&mut first, "/").await;
    ask(&mut second, "/").await;
    assert_eq!(listeners.connections(), 2);
    let mut third = TcpStream::connect(address).await.unwrap();
    third.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    // It is not accepted: the accept loop has had its turns while these were answered.
    for _ in 0..5 {
        ask(&mut first, "/").await;
        assert_eq!(third.try_read(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    drop(first);
    assert!(read_answer(&mut third).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn shutting_down_waits_for_the_request_under_way() {
    let listeners = listeners();
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    listeners.inner.shared.app.waiting.notified().await;
    let down = listeners.shut_down(BOUND);
    let mut down: Pin<Box<dyn Future<Output = usize>>> = Box::pin(down);
    tokio::select! {
        _ = &mut down => panic!("a request is under way"),
        () = tokio::time::sleep(Duration::from_millis(20)) => {}
    }
    assert!(TcpStream::connect(address).await.is_err());
    listeners.inner.shared.app.let_go.notify_one();
    let answer = async {
        let answer = read_answer(&mut client).await;
        drop(client);
        answer
    };
    let (left, answer) = tokio::join!(down, answer);
    assert_eq!(left, 0);
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert_eq!(listeners.apply(&[any_port()]).await, []);
}

#[tokio::test]
async fn shutting_down_gives_up_after_its_bound() {
    let listeners = listeners();
    listeners.apply(&[any_port()]).await;
    let mut client = TcpStream::connect(actual(&listeners, any_port()).await).await.unwrap();
    client.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    listeners.inner.shared.app.waiting.notified().await;
    assert_eq!(listeners.shut_down(Duration::from_millis(20)).await, 1);
}

/// A Pingora proxy that answers by itself.
struct Teapot;

#[async_trait]
impl ProxyHttp for Teapot {
    type CTX = ();
    fn new_ctx(&self) {}

    async fn request_filter(&self, session: &mut Session, (): &mut ()) -> pingora_core::Result<bool> {
        let (head, ()) =
            Response::builder().status(418).header("content-length", 0).body(()).unwrap().into_parts();
        session.write_response_header(Box::new(head.into()), true).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> pingora_core::Result<Box<HttpPeer>> {
        pingora_core::Error::e_explain(pingora_core::ErrorType::InternalError, "no upstream")
    }
}

#[tokio::test]
async fn a_pingora_proxy_is_served_and_its_idle_connections_end_at_shutdown() {
    let proxy: HttpProxy<Teapot> = http_proxy(&Arc::new(ServerConf::default()), Teapot);
    let listeners = listeners_with(proxy, 1000);
    listeners.apply(&[any_port()]).await;
    let mut client = TcpStream::connect(actual(&listeners, any_port()).await).await.unwrap();
    for _ in 0..3 {
        assert!(ask(&mut client, "/").await.starts_with("HTTP/1.1 418"));
    }
    assert_eq!(listeners.shut_down(BOUND).await, 0);
    assert!(ends(&mut client).await);
}

/// TLS on [`any_port`].
fn secured(max_connections: usize, handshake_bound: Duration) -> Listeners<SaysSocket> {
    listeners_over(SaysSocket::default(), max_connections, table(), handshake_bound)
}

fn table() -> TlsTable {
    let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    let certificate = Certificate {
        name: CertificateName::new("secret/default/x").unwrap(),
        chain: made.cert.pem(),
        key: PrivateKey::from_pem(&made.signing_key.serialize_pem()),
    };
    let tls = ListenerTls {
        mode: TlsMode::Terminate,
        certificates: vec![certificate.name.clone()],
        client_validation: None,
    };
    let gateway = Gateway {
        name: GatewayName::new("gateway/default/eg").unwrap(),
        listeners: vec![Listener {
            name: ListenerName::new("https").unwrap(),
            port: 443,
            bind: vec![any_port()],
            protocol: Protocol::Https,
            hostname: None,
            tls: Some(tls),
        }],
    };
    let mut state = State::default();
    state.gateways.insert(gateway.name.clone(), Arc::new(gateway));
    state.certificates.insert(certificate.name.clone(), Arc::new(certificate));
    let table = TlsTable::build(&state, &TlsTable::default());
    assert_eq!(table.degraded, [""; 0]);
    table
}

/// A client that takes the certificate of [`secured`] for any name.
async fn connect_tls(address: SocketAddr, alpn: &[&str]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TakesAny))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|alpn| alpn.as_bytes().to_vec()).collect();
    let socket = TcpStream::connect(address).await.unwrap();
    let name = "x".try_into().unwrap();
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, socket);
    timeout(BOUND, connecting).await.unwrap().unwrap()
}

#[derive(Debug)]
struct TakesAny;

impl rustls::client::danger::ServerCertVerifier for TakesAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let listeners = secured(100, Duration::from_millis(50));
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    // Nothing; a part of a record's head; a record that is announced and never comes.
    for start in [&[][..], &[22, 3], &[22, 3, 1, 2, 0, 1, 0, 1, 252]] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(start).await.unwrap();
        assert!(ends(&mut client).await, "{start:?}");
    }
    // The handshake, and no HTTP/2 after it.
    let mut silent = connect_tls(address, &["h2"]).await;
    assert!(matches!(timeout(BOUND, silent.read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_)));
    eventually(|| listeners.connections() == 0).await;
}

#[tokio::test]
async fn handshakes_under_way_are_bounded_and_the_next_client_has_its_turn() {
    // Two connections, so one handshake at once.
    let listeners = secured(2, Duration::from_millis(200));
    listeners.apply(&[any_port()]).await;
    let address = actual(&listeners, any_port()).await;
    let handshakes = Arc::clone(&listeners.inner.shared.handshakes);
    assert_eq!(handshakes.free(), 1);
    let mut silent = TcpStream::connect(address).await.unwrap();
    eventually(|| handshakes.free() == 0).await;
    let client = connect_tls(address, &[]).await;
    assert!(ends(&mut silent).await);
    eventually(|| handshakes.free() == 1).await;
    drop(client);
}

#[tokio::test]
async fn head_and_body_of_an_answer_are_one_record() {
    let listeners = secured(100, BOUND);
    listeners.apply(&[any_port()]).await;
    let mut client = connect_tls(actual(&listeners, any_port()).await, &[]).await;
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = vec![0; 4096];
        // One read gives what one record held.
        let count = timeout(BOUND, client.read(&mut answer)).await.unwrap().unwrap();
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n127.0.0.1:0"), "{answer}");
    }
}

#[tokio::test]
async fn idle_connections_over_tls_end_at_shutdown() {
    let proxy: HttpProxy<Teapot> = http_proxy(&Arc::new(ServerConf::default()), Teapot);
    let listeners = listeners_over(proxy, 1000, table(), BOUND);
    listeners.apply(&[any_port()]).await;
    let mut client = connect_tls(actual(&listeners, any_port()).await, &[]).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let count = timeout(BOUND, client.read(&mut [0; 4096])).await.unwrap().unwrap();
    assert!(count > 0);
    assert_eq!(listeners.shut_down(BOUND).await, 0);
    assert!(matches!(timeout(BOUND, client.read(&mut [0; 1])).await.unwrap(), Ok(0) | Err(_)));
}
