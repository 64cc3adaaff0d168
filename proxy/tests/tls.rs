//! HTTPS listeners on real sockets, with a client of rustls.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;
mod tls_client;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use common::{HOST, PATIENCE, Proxy, Setup, eventually, fallback, primary};
use h2::client::{ResponseFuture, SendRequest};
use rustls::version;
use tls_client::{Hello, Kind, certificate, connect, der, own_address, put, secure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use understudy_conf::{Action, Certificate, Hostname, PrivateKey, Redirect, State};
use understudy_testbed::Backend as Upstream;

/// A state with these listeners before one upstream.
fn state(upstream: &Upstream, listeners: &[(&str, Option<&str>, &[&Certificate])]) -> (State, SocketAddr) {
    let setup = Setup { gateway: own_address(), ..Setup::new(&[upstream.address()], &[]) };
    let mut state = setup.state();
    secure(&mut state, setup.gateway, listeners);
    (state, setup.gateway)
}

async fn start(state: &State) -> Proxy {
    Proxy::start(state, Vec::new(), None).await
}

#[tokio::test]
async fn the_name_chooses_the_exact_listener_then_the_longest_wildcard_then_the_one_without_a_name() {
    let upstream = primary().await;
    let exact = certificate("exact", Kind::Ecdsa, &[HOST]);
    let deep = certificate("deep", Kind::Ecdsa, &["*.a.example.com"]);
    let wild = certificate("wild", Kind::Ecdsa, &["*.example.com"]);
    let any = certificate("any", Kind::Ecdsa, &["other.example"]);
    let (state, address) = state(
        &upstream,
        &[
            ("any", None, &[&any]),
            ("wild", Some("*.example.com"), &[&wild]),
            ("exact", Some(HOST), &[&exact]),
            ("deep", Some("*.a.example.com"), &[&deep]),
        ],
    );
    let _proxy = start(&state).await;
    let hello = Hello::default();
    for (name, expected) in [
        (HOST, &exact),
        ("WWW.Example.Com", &exact),
        ("api.example.com", &wild),
        ("x.y.example.com", &wild),
        ("b.a.example.com", &deep),
        ("a.example.com", &wild),
        ("example.com", &any),
        ("nobody.test", &any),
        // Who names nobody.
        ("127.0.0.1", &any),
    ] {
        let mut session = hello.connect(address, name).await.unwrap();
        assert!(session.shown() == der(expected), "{name}");
        let (status, text) = session.get(name, "/test").await.unwrap();
        assert_eq!(status, 200, "{name}: {text}");
    }
}

#[tokio::test]
async fn a_name_that_no_listener_serves_is_refused_with_an_alert() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (state, address) = state(&upstream, &[("shop", Some(HOST), &[&shop])]);
    let _proxy = start(&state).await;
    for name in ["other.example.com", "127.0.0.1"] {
        let Err(error) = Hello::default().connect(address, name).await else { panic!("{name} is served") };
        assert!(error.to_string().contains("UnrecognisedName"), "{name}: {error}");
    }
    assert!(Hello::default().shown(address, HOST).await == der(&shop));
}

#[tokio::test]
async fn both_versions_and_both_kinds_of_keys_are_served_side_by_side() {
    let upstream = primary().await;
    let (ecdsa, rsa) = (certificate("ecdsa", Kind::Ecdsa, &[HOST]), certificate("rsa", Kind::Rsa, &[HOST]));
    let other = certificate("other", Kind::Ecdsa, &["other.example.com"]);
    let (state, address) = state(&upstream, &[("https", None, &[&other, &rsa, &ecdsa])]);
    let _proxy = start(&state).await;
    for version in [&version::TLS12, &version::TLS13] {
        for (kinds, expected) in [
            (vec![Kind::Ecdsa], &ecdsa),
            (vec![Kind::Rsa], &rsa),
            // The cheaper one where the client takes both.
            (vec![Kind::Rsa, Kind::Ecdsa], &ecdsa),
        ] {
            let hello = Hello { kinds, versions: vec![version], ..Hello::default() };
            let mut session = hello.connect(address, HOST).await.unwrap();
            assert!(session.shown() == der(expected), "{version:?} {:?}", hello.kinds);
            assert_eq!(session.stream.get_ref().1.protocol_version(), Some(version.version));
            for _ in 0..3 {
                assert_eq!(session.get(HOST, "/test").await.unwrap().0, 200);
            }
        }
    }
    // Of several certificates of one kind, the one that names what is asked for.
    assert!(Hello::default().shown(address, "other.example.com").await == der(&other));
}

#[tokio::test]
async fn a_client_resumes_its_session_in_both_versions() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (state, address) = state(&upstream, &[("https", None, &[&shop])]);
    let mut proxy = start(&state).await;
    for version in [&version::TLS12, &version::TLS13] {
        let config = Arc::new(Hello { versions: vec![version], ..Hello::default() }.config());
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let mut session = connect(address, HOST, config.clone()).await.unwrap();
            assert_eq!(session.get(HOST, "/test").await.unwrap().0, 200);
            kinds.push(session.stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds, [rustls::HandshakeKind::Full, rustls::HandshakeKind::Resumed]);
        // A change of something else leaves the configuration, and with it the tickets.
        let mut changed = state.clone();
        Arc::make_mut(changed.policies.values_mut().next().unwrap()).buffer_limit = 1;
        proxy.publish(&changed).await;
        let session = connect(address, HOST, config).await.unwrap();
        assert_eq!(session.stream.get_ref().1.handshake_kind(), Some(rustls::HandshakeKind::Resumed));
        proxy.publish(&state).await;
    }
}

#[tokio::test]
async fn what_is_no_tls_gets_no_answer_and_is_closed() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (state, address) = state(&upstream, &[("https", None, &[&shop])]);
    let _proxy = start(&state).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(format!("GET /test HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // It may be reset, since what it sent is not read to its end.
    let _ = timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test]
async fn backends_and_redirects_learn_that_the_client_spoke_https() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (mut state, address) = state(&upstream, &[("https", None, &[&shop])]);
    let mut proxy = start(&state).await;
    let mut session = Hello::default().connect(address, HOST).await.unwrap();
    assert_eq!(session.get(HOST, "/test").await.unwrap().0, 200);
    let seen = upstream.observed().log().last().unwrap().clone();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    let route = Arc::make_mut(state.routes.values_mut().next().unwrap());
    let elsewhere = Some("other.example.com".to_owned());
    let redirect = Redirect { scheme: None, hostname: elsewhere, port: None, path: None, status: 302 };
    route.rules[0].action = Action::Redirect(redirect);
    proxy.publish(&state).await;
    let (status, text) = session.get(HOST, "/test").await.unwrap();
    assert_eq!(status, 302);
    assert!(text.to_lowercase().contains("location: https://other.example.com/test\r\n"), "{text}");
}

#[tokio::test]
async fn a_request_for_another_listener_than_its_connection_was_made_for_is_misdirected() {
    let upstream = primary().await;
    let one = certificate("one", Kind::Ecdsa, &["one.example.com"]);
    let two = certificate("two", Kind::Ecdsa, &["*.two.example.com"]);
    let (state, address) = state(
        &upstream,
        &[("one", Some("one.example.com"), &[&one]), ("two", Some("*.two.example.com"), &[&two])],
    );
    let _proxy = start(&state).await;
    let mut session = Hello::default().connect(address, "a.two.example.com").await.unwrap();
    for (host, expected) in [
        ("a.two.example.com", 200),
        ("a.two.example.com:443", 200),
        ("A.TWO.example.com", 200),
        // The same listener.
        ("b.two.example.com", 200),
        ("one.example.com", 421),
        // Nobody's on any connection.
        ("nobody.example.com", 404),
    ] {
        assert_eq!(session.get(host, "/test").await.unwrap().0, expected, "{host}");
    }
}

#[tokio::test]
async fn f6_hosts_and_names_of_handshakes_are_told_apart_as_gateway_api_asks() {
    let upstream = primary().await;
    let shown = certificate("shown", Kind::Ecdsa, &["example.org"]);
    let (mut state, address) = state(
        &upstream,
        &[
            ("any", None, &[&shown]),
            ("second", Some("second-example.org"), &[&shown]),
            ("wild", Some("*.wildcard.org"), &[&shown]),
            ("fourth", Some("fourth-example.wildcard.org"), &[&shown]),
        ],
    );
    // The route of the listener without hostname is for one host only.
    let route = Arc::make_mut(state.routes.values_mut().next().unwrap());
    route.attachments[0].hostnames = vec![Hostname::new("example.org").unwrap()];
    let _proxy = start(&state).await;
    for (name, answers) in [
        (
            "example.org",
            &[("example.org", 200), ("second-example.org", 421), ("unknown-example.org", 404)][..],
        ),
        (
            "second-example.org",
            &[
                ("second-example.org", 200),
                ("example.org", 421),
                ("unknown-example.org", 421),
                // No port, so another name.
                ("second-example.org:x", 421),
            ],
        ),
        (
            "third-example.wildcard.org",
            &[
                ("third-example.wildcard.org", 200),
                ("fifth-example.wildcard.org", 200),
                ("fourth-example.wildcard.org", 421),
                ("second-example.org", 421),
                ("unknown-example.org", 421),
            ],
        ),
        (
            "fourth-example.wildcard.org",
            &[("fourth-example.wildcard.org", 200), ("fifth-example.wildcard.org", 421)],
        ),
        ("unknown-example.org", &[("example.org", 200), ("unknown-example.org", 404)]),
    ] {
        let mut session = Hello::default().connect(address, name).await.unwrap();
        for (host, expected) in answers {
            assert_eq!(session.get(host, "/test").await.unwrap().0, *expected, "{host} over {name}");
        }
    }
}

async fn connect_h2(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let hello = Hello { alpn: vec!["h2", "http/1.1"], ..Hello::default() };
    let session = hello.connect(address, HOST).await.unwrap();
    assert_eq!(session.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (client, connection) = h2::client::handshake(session.stream).await.unwrap();
    (client, tokio::spawn(connection))
}

fn h2_request(path: &str) -> http::Request<()> {
    http::Request::get(format!("https://{HOST}{path}")).body(()).unwrap()
}

async fn read_h2(answer: ResponseFuture) -> (u16, String) {
    let answer = timeout(PATIENCE, answer).await.unwrap().unwrap();
    let status = answer.status().as_u16();
    let mut body = answer.into_body();
    let mut text = Vec::new();
    while let Some(piece) = timeout(PATIENCE, body.data()).await.unwrap() {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        text.extend_from_slice(&piece);
    }
    (status, String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn an_http_2_client_is_served_through_failover_and_gets_errors_as_answers() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup { gateway: own_address(), ..Setup::new(&[active.address()], &[passive.address()]) };
    let mut state = setup.state();
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    secure(&mut state, setup.gateway, &[("https", None, &[&shop])]);
    let _proxy = start(&state).await;
    let (client, _driver) = connect_h2(setup.gateway).await;
    let ask = async |path: &str| {
        let mut client = client.clone().ready().await.unwrap();
        read_h2(client.send_request(h2_request(path), true).unwrap().0).await
    };
    let (status, text) = ask("/test").await;
    assert!(status == 200 && text.contains("\"active\""), "{status} {text}");
    active.kill().await;
    for _ in 0..20 {
        let (status, text) = ask("/test").await;
        assert!(status == 200 && text.contains("\"passive\""), "{status} {text}");
    }
    assert_eq!(ask("/nothing").await, (404, String::new()));
    passive.kill().await;
    assert_eq!(ask("/test").await.0, 503);
    passive.restart().await.unwrap();
    eventually("the fallback's return", async || ask("/test").await.0 == 200).await;
}

#[tokio::test]
async fn an_http_2_client_may_have_a_hundred_streams_and_no_endless_headers() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (state, address) = state(&upstream, &[("https", None, &[&shop])]);
    let _proxy = start(&state).await;
    let (mut client, driver) = connect_h2(address).await;
    let first = client.send_request(h2_request("/test"), true).unwrap().0;
    assert_eq!(read_h2(first).await.0, 200);
    // The settings are known by now.
    assert_eq!(client.current_max_send_streams(), 100);
    client = client.ready().await.unwrap();
    let long = |count: usize| {
        let mut long = h2_request("/test");
        for number in 0..count {
            let name = http::HeaderName::try_from(format!("x-long-{number}")).unwrap();
            long.headers_mut().insert(name, "v".repeat(1000).parse().unwrap());
        }
        long
    };
    // A little more than 64 KiB is answered.
    let answer = client.send_request(long(70), true).unwrap().0;
    assert_eq!(read_h2(answer).await.0, 431);
    // Far more ends the connection, which may cut off what it says.
    client = client.ready().await.unwrap();
    let answer = client.send_request(long(1000), true).unwrap().0;
    assert!(timeout(PATIENCE, answer).await.unwrap().is_err());
    assert!(timeout(PATIENCE, driver).await.unwrap().unwrap().is_err());
    assert_eq!(upstream.requests(), 1);
}

#[tokio::test]
async fn http_2_is_spoken_where_the_client_prefers_it() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (state, address) = state(&upstream, &[("https", None, &[&shop])]);
    let _proxy = start(&state).await;
    let plain = Hello { alpn: vec!["http/1.1"], ..Hello::default() };
    let mut session = plain.connect(address, HOST).await.unwrap();
    assert_eq!(session.stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(session.get(HOST, "/test").await.unwrap().0, 200);

    let (client, driver) = connect_h2(address).await;
    let mut answers = Vec::new();
    let mut client = client;
    for number in 0..100 {
        client = client.ready().await.unwrap();
        answers.push(client.send_request(h2_request(&format!("/test?{number}")), true).unwrap().0);
    }
    for (number, answer) in answers.into_iter().enumerate() {
        let (status, text) = read_h2(answer).await;
        assert_eq!(status, 200);
        assert!(text.contains(&format!("/test?{number}\"")), "{text}");
    }
    let seen = upstream.observed().log().last().unwrap().clone();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("host"), Some(HOST));
    drop(client);
    timeout(PATIENCE, driver).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_certificate_that_is_swapped_a_hundred_times_under_load_fails_no_request() {
    let (active, passive) = (primary().await, fallback().await);
    let setup = Setup { gateway: own_address(), ..Setup::new(&[active.address()], &[passive.address()]) };
    let mut state = setup.state();
    let mut current = certificate("shop", Kind::Ecdsa, &[HOST]);
    secure(&mut state, setup.gateway, &[("https", None, &[&current])]);
    let mut proxy = start(&state).await;
    let address = setup.gateway;
    let hello = Hello { versions: vec![&version::TLS13], ..Hello::default() };
    let running = Arc::new(AtomicBool::new(true));
    let (kept, fresh) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for number in 0..4 {
        let (running, hello) = (running.clone(), hello.clone());
        let count = if number % 2 == 0 { kept.clone() } else { fresh.clone() };
        clients.push(tokio::spawn(async move {
            let config = Arc::new(hello.config());
            let mut session = connect(address, HOST, config.clone()).await.unwrap();
            while running.load(Ordering::Relaxed) {
                if number % 2 == 1 {
                    session = connect(address, HOST, config.clone()).await.unwrap();
                }
                assert_eq!(session.get(HOST, "/test").await.unwrap().0, 200);
                count.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for round in 1..=100 {
        current = certificate("shop", Kind::Ecdsa, &[HOST]);
        put(&mut state, &current);
        proxy.publish(&state).await;
        assert!(hello.shown(address, HOST).await == der(&current));
        let loaded = || {
            let counts = [&kept, &fresh].map(|count| count.load(Ordering::Relaxed));
            async move { counts.iter().all(|count| *count >= 2 * round) }
        };
        eventually("load in each round", loaded).await;
    }
    running.store(false, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_certificate_that_cannot_be_loaded_leaves_the_one_before_in_use_and_is_said() {
    let upstream = primary().await;
    let good = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (mut state, address) = state(&upstream, &[("https", None, &[&good])]);
    let mut proxy = start(&state).await;
    let other = certificate("shop", Kind::Ecdsa, &[HOST]);
    put(&mut state, &Certificate { key: PrivateKey::from_pem("no key"), ..good.clone() });
    proxy.publish(&state).await;
    let said = proxy.wait_for_acknowledgement(|ack| !ack.degraded.is_empty()).await.degraded.join("\n");
    assert!(said.contains("secret/default/shop") && said.contains("shows what it showed before"), "{said}");
    assert!(!said.contains("no key"), "{said}");
    assert!(Hello::default().shown(address, HOST).await == der(&good));
    put(&mut state, &Certificate { key: good.key.clone(), ..other.clone() });
    proxy.publish(&state).await;
    assert!(Hello::default().shown(address, HOST).await == der(&good), "the key is another one's");
    put(&mut state, &other);
    proxy.publish(&state).await;
    assert!(Hello::default().shown(address, HOST).await == der(&other));
    proxy.wait_for_acknowledgement(|ack| ack.degraded.is_empty()).await;
}

#[tokio::test]
async fn without_a_certificate_that_can_be_loaded_clients_are_refused_and_nothing_is_spoken_in_clear_text() {
    let upstream = primary().await;
    let good = certificate("any", Kind::Ecdsa, &["any.example.com"]);
    let broken = Certificate { key: PrivateKey::from_pem("x"), ..certificate("shop", Kind::Ecdsa, &[HOST]) };
    let (state, address) = state(&upstream, &[("any", None, &[&good]), ("shop", Some(HOST), &[&broken])]);
    let _proxy = start(&state).await;
    assert!(Hello::default().connect(address, HOST).await.is_err(), "another listener's is not shown");
    assert!(Hello::default().shown(address, "any.example.com").await == der(&good));
}

#[tokio::test]
async fn a_connection_in_clear_text_is_not_served_by_what_became_an_https_listener() {
    let upstream = primary().await;
    let setup = Setup { gateway: own_address(), ..Setup::new(&[upstream.address()], &[]) };
    let mut state = setup.state();
    let mut proxy = start(&state).await;
    let mut client = understudy_testbed::Client::connect(setup.gateway).await.unwrap();
    assert_eq!(client.get(HOST, "/test").await.unwrap().status, 200);
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    secure(&mut state, setup.gateway, &[("https", None, &[&shop])]);
    proxy.publish(&state).await;
    assert_eq!(client.get(HOST, "/test").await.unwrap().status, 421);
    let mut session = Hello::default().connect(setup.gateway, HOST).await.unwrap();
    assert_eq!(session.get(HOST, "/test").await.unwrap().0, 200);
    let seen = upstream.observed().log().last().unwrap().clone();
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn long_answers_arrive_whole() {
    let upstream = primary().await;
    let shop = certificate("shop", Kind::Ecdsa, &[HOST]);
    let (state, address) = state(&upstream, &[("https", None, &[&shop])]);
    let _proxy = start(&state).await;
    let body: Vec<u8> = (0..8_000_000_u32).map(|index| (index % 26) as u8 + b'a').collect();
    upstream.set(understudy_testbed::Behaviour::RequestBody);
    let session = Hello::default().connect(address, HOST).await.unwrap();
    let head = format!(
        "POST /test HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    let (mut read, mut write) = tokio::io::split(session.stream);
    let sent = body.clone();
    let sending = tokio::spawn(async move {
        write.write_all(head.as_bytes()).await.unwrap();
        write.write_all(&sent).await.unwrap();
        write.flush().await.unwrap();
        write
    });
    // The close of the connection may or may not be announced.
    let _ = timeout(PATIENCE, read.read_to_end(&mut answer)).await.unwrap();
    drop(sending.await.unwrap());
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(answer.starts_with(b"HTTP/1.1 200") && answer[end..] == body, "{} bytes", answer.len());
}
