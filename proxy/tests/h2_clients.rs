//! What clients may do over HTTP/2, and the corners of HTTP in both versions, with raw bytes.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use common::{HOST, PATIENCE, Proxy, Setup, all, endpoint, eventually, primary};
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};
use understudy_testbed::{Answer, Backend, Behaviour, Client, H2Backend, H2Behaviour, H2Client, Request};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A GET of `/test` without compression: each field as a literal that is not indexed.
fn get(stream: u32) -> Vec<u8> {
    // :method GET and :scheme http of the static table, then :path and :authority.
    let mut block = vec![0x82, 0x86, 0x04, 5];
    block.extend_from_slice(b"/test");
    block.extend_from_slice(&[0x01, u8::try_from(HOST.len()).unwrap()]);
    block.extend_from_slice(HOST.as_bytes());
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes())
}

/// A client that sends what it is told.
struct Raw(TcpStream);

impl Raw {
    async fn connect(proxy: &Proxy) -> Self {
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(PREFACE).await.unwrap();
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self(stream)
    }

    /// Kind, stream and payload of the next frame; `None` when the connection is over.
    async fn next(&mut self) -> Option<(u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.0.read_exact(&mut head)).await.unwrap().ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload).await.ok()?;
        Some((head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    /// Reads to the end; the code of the GOAWAY, if there was one.
    async fn goodbye(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some((kind, _, payload)) = self.next().await {
            if kind == GOAWAY {
                code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}

async fn hanging() -> (Backend, Proxy) {
    let active = primary().await;
    active.set(Behaviour::Hang);
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    (active, proxy)
}

#[tokio::test]
async fn a_client_is_told_how_many_streams_it_may_have_and_more_are_refused() {
    let (active, proxy) = hanging().await;
    let mut client = Raw::connect(&proxy).await;
    let (kind, _, payload) = client.next().await.unwrap();
    assert_eq!(kind, SETTINGS);
    let settings: Vec<(u16, u32)> = payload
        .chunks(6)
        .map(|pair| {
            (u16::from_be_bytes([pair[0], pair[1]]), u32::from_be_bytes(pair[2..].try_into().unwrap()))
        })
        .collect();
    assert!(settings.contains(&(3, 100)), "SETTINGS_MAX_CONCURRENT_STREAMS: {settings:?}");
    assert!(settings.contains(&(6, 64 * 1024)), "SETTINGS_MAX_HEADER_LIST_SIZE: {settings:?}");
    let requests: Vec<u8> = (0..120).flat_map(|number| get(2 * number + 1)).collect();
    client.0.write_all(&requests).await.unwrap();
    let mut refused = Vec::new();
    while refused.len() < 20 {
        let (kind, stream, payload) = client.next().await.unwrap();
        if kind == RST_STREAM {
            assert_eq!(payload, REFUSED_STREAM.to_be_bytes());
            refused.push(stream);
        }
    }
    assert!(active.wait_until(PATIENCE, |seen| seen.requests == 100).await);
    drop(client);
    proxy.wait_until_idle().await;
    assert_eq!(active.requests(), 100);
}

#[tokio::test]
async fn a_client_that_resets_what_it_asks_for_is_sent_away() {
    // CVE-2023-44487
    let (active, proxy) = hanging().await;
    let mut client = Raw::connect(&proxy).await;
    let flood: Vec<u8> =
        (0..2000).flat_map(|number| [get(2 * number + 1), reset(2 * number + 1)].concat()).collect();
    // It may be sent away before it has sent all of it.
    let _ = client.0.write_all(&flood).await;
    let code = client.goodbye().await;
    assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
    assert!(active.requests() < 200, "{}", active.requests());
    proxy.wait_until_idle().await;
    let mut next = Client::connect(proxy.address).await.unwrap();
    active.heal();
    assert_eq!(next.get(HOST, "/test").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_that_waits_before_it_resets_has_no_more_under_way_than_it_may() {
    let (active, proxy) = hanging().await;
    let mut client = Raw::connect(&proxy).await;
    let mut number = 0;
    for round in 1..=5_u64 {
        let streams: Vec<u32> = (0..100).map(|index| 2 * (number + index) + 1).collect();
        number += 100;
        let requests: Vec<u8> = streams.iter().flat_map(|stream| get(*stream)).collect();
        client.0.write_all(&requests).await.unwrap();
        assert!(active.wait_until(PATIENCE, |seen| seen.requests == 100 * round).await);
        assert!(proxy.active().await <= 100);
        let resets: Vec<u8> = streams.iter().flat_map(|stream| reset(*stream)).collect();
        client.0.write_all(&resets).await.unwrap();
        proxy.wait_until_idle().await;
    }
}

#[tokio::test]
async fn headers_without_an_end_end_the_connection() {
    // CVE-2024-27316: CONTINUATION after CONTINUATION.
    let (active, proxy) = hanging().await;
    let mut client = Raw::connect(&proxy).await;
    client.0.write_all(&frame(HEADERS, END_STREAM, 1, &[0x82, 0x86])).await.unwrap();
    // A field that is never indexed, of 1,000 bytes.
    let mut field = vec![0x10, 1, b'x', 0x7f, 0xe9, 0x06];
    field.extend_from_slice(&[b'a'; 1000]);
    let mut sent = 0;
    let start = Instant::now();
    while sent < 64 * 1024 * 1024 {
        let piece = frame(CONTINUATION, 0, 1, &field);
        match timeout(Duration::from_secs(5), client.0.write_all(&piece)).await {
            Ok(Ok(())) => sent += piece.len(),
            Ok(Err(_)) | Err(_) => break,
        }
    }
    assert!(sent < 32 * 1024 * 1024, "{sent} bytes were taken");
    client.goodbye().await;
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(active.requests(), 0);
    assert_eq!(proxy.active().await, 0);
}

#[tokio::test]
async fn headers_beyond_the_limit_are_refused_and_the_connection_goes_on() {
    let active = primary().await;
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    let client = H2Client::connect(proxy.address, HOST).await.unwrap();
    let long = "x".repeat(10_000);
    let headers: Vec<(String, String)> = (0..7).map(|number| (format!("x-{number}"), long.clone())).collect();
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let call = client.begin(Method::GET, "/test", &headers, true).await.unwrap();
    match call.finish().await {
        Ok(response) => assert_eq!(response.status, 431),
        Err(error) => assert!(error.reason().is_some(), "{error}"),
    }
    assert_eq!(client.get("/test").await.unwrap().status, 200);
    assert_eq!(active.requests(), 1);
}

#[tokio::test]
async fn a_connection_without_a_stream_is_closed_after_its_time() {
    let active = primary().await;
    let state = Setup::new(&[active.address()], &[]).state();
    let idle = Duration::from_millis(300);
    let proxy = Proxy::start_with(&state, |options| options.h2_idle = idle).await;
    let mut client = H2Client::connect(proxy.address, HOST).await.unwrap();
    assert_eq!(client.get("/test").await.unwrap().status, 200);
    active.next(1, Behaviour::delayed(idle * 3));
    // A stream keeps it, however long it takes.
    assert_eq!(client.get("/test").await.unwrap().status, 200);
    let start = Instant::now();
    assert!(client.wait_closed(PATIENCE).await);
    assert!(start.elapsed() >= idle - Duration::from_millis(100));
}

#[tokio::test]
async fn an_upgrade_to_http_2_is_not_taken_up_and_not_passed_on() {
    let active = primary().await;
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    let request = Request::get(HOST, "/test")
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAoAAAAAIAAAAA");
    let response = proxy.send(&request).await.unwrap();
    assert_eq!(response.status, 200);
    let headers = response.json().unwrap()["headers"].to_string().to_ascii_lowercase();
    assert!(!headers.contains("h2c"), "{headers}");
}

#[tokio::test]
async fn connect_is_405_in_both_versions() {
    let (active, proxy) = hanging().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    let request = format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n");
    client.send(request.as_bytes()).await.unwrap();
    assert_eq!(client.read_head().await.unwrap().status, 405);
    let stream = TcpStream::connect(proxy.address).await.unwrap();
    let (mut send, connection) = h2::client::handshake(stream).await.unwrap();
    let driver = tokio::spawn(connection);
    let request =
        http::Request::builder().method(Method::CONNECT).uri(format!("{HOST}:443")).body(()).unwrap();
    let (response, _) = send.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 405);
    driver.abort();
    assert_eq!(active.requests(), 0);
}

#[tokio::test]
async fn options_of_the_server_itself_go_to_the_route_of_everything() {
    let setup = |address| Setup { path: "/".to_owned(), ..Setup::new(&[address], &[]) };
    let old = primary().await;
    let new = H2Backend::start("new").await.unwrap();
    for proxy in [setup(old.address()).start().await, setup(new.address()).over_h2().start().await] {
        let response = proxy.send(&Request::new("OPTIONS", HOST, "*")).await.unwrap();
        assert!(response.status == 200 || response.status == 404, "{}", response.status);
    }
}

#[tokio::test]
async fn a_client_that_asks_whether_to_go_on_is_told_by_its_endpoint() {
    let old = endpoint(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").await.unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let new = H2Backend::start("new").await.unwrap();
    new.set(H2Behaviour::Continue);
    for setup in [Setup::new(&[old], &[]), Setup::new(&[new.address()], &[]).over_h2()] {
        let proxy = setup.start().await;
        let mut client = Client::connect(proxy.address).await.unwrap();
        let head = format!(
            "POST /test HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        );
        client.send(head.as_bytes()).await.unwrap();
        assert_eq!(client.read_some().await.unwrap(), b"HTTP/1.1 100 Continue\r\n\r\n");
        client.send(b"hello").await.unwrap();
        let response = client.read_response("POST").await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
}

#[tokio::test]
async fn informational_answers_do_not_reach_a_client_of_http_2_and_do_no_harm() {
    let active = primary().await;
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    active.set(Answer::status(200).interim(103, &[("link", "</style.css>; rel=preload")]));
    let client = H2Client::connect(proxy.address, HOST).await.unwrap();
    for _ in 0..3 {
        let response = client.get("/test").await.unwrap();
        assert_eq!(response.status, 200);
        assert!(!response.headers.contains_key("link"));
    }
}

#[tokio::test]
async fn trailers_of_a_request_are_lost_and_its_body_is_whole() {
    let (old, new) = (primary().await, H2Backend::start("new").await.unwrap());
    old.set(Behaviour::RequestBody);
    new.set(H2Behaviour::RequestBody);
    let setups = [Setup::new(&[old.address()], &[]), Setup::new(&[new.address()], &[]).over_h2()];
    for setup in setups {
        let proxy = setup.start().await;
        let client = H2Client::connect(proxy.address, HOST).await.unwrap();
        let mut call = client.begin(Method::POST, "/test", &[], false).await.unwrap();
        call.send("hello".into(), false).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-checksum", "abc".parse().unwrap());
        call.send_trailers(trailers).unwrap();
        let response = call.finish().await.unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "hello"));
    }
}

#[tokio::test]
async fn answers_to_head_and_without_a_body_end_their_stream() {
    let active = primary().await;
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    let client = H2Client::connect(proxy.address, HOST).await.unwrap();
    for path in ["/test", "/other"] {
        let call = client.begin(Method::HEAD, path, &[], true).await.unwrap();
        let response = call.finish().await.unwrap();
        assert_eq!((response.status, response.body.len()), (if path == "/test" { 200 } else { 404 }, 0));
    }
    for status in [204, 304] {
        active.next(1, Behaviour::Status(status));
        let response = client.get("/test").await.unwrap();
        assert_eq!((response.status, response.body.len()), (status, 0));
    }
    assert_eq!(client.get("/other").await.unwrap().status, 404);
}

#[tokio::test]
async fn clients_of_both_versions_share_a_port_and_slow_beginnings_are_no_harm() {
    let active = primary().await;
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    let mut slow = TcpStream::connect(proxy.address).await.unwrap();
    slow.set_nodelay(true).unwrap();
    let mut bytes = PREFACE.to_vec();
    bytes.extend_from_slice(&frame(SETTINGS, 0, 0, &[]));
    bytes.extend_from_slice(&get(1));
    for piece in bytes.chunks(7) {
        slow.write_all(piece).await.unwrap();
        sleep(Duration::from_millis(1)).await;
    }
    let mut raw = Raw(slow);
    let kinds = async {
        while let Some((kind, stream, _)) = raw.next().await {
            if (kind, stream) == (DATA, 1) {
                return true;
            }
        }
        false
    };
    assert!(kinds.await);
    // Alike in its first letters.
    let mut client = Client::connect(proxy.address).await.unwrap();
    for piece in [&b"P"[..], b"RI", b"NT /test HTTP/1.1\r\nHost: www.example.com\r\n\r\n"] {
        client.send(piece).await.unwrap();
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.read_response("PRINT").await.unwrap().status, 200);
    assert_eq!(proxy.pods(3).await, all("active", 3));
}

#[tokio::test]
async fn streams_under_way_are_finished_when_the_proxy_stops() {
    let active = primary().await;
    let proxy = Setup::new(&[active.address()], &[]).start().await;
    active.set(Behaviour::delayed(Duration::from_millis(500)));
    let client = H2Client::connect(proxy.address, HOST).await.unwrap();
    let call = client.begin(Method::GET, "/test", &[], true).await.unwrap();
    eventually("the request's arrival", || async { active.requests() == 1 }).await;
    let (response, ()) = tokio::join!(call.finish(), proxy.stop());
    assert_eq!(response.unwrap().status, 200);
}
