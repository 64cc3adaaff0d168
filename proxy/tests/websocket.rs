//! WebSocket sessions, which are upgrades of HTTP/1.1, through failover and return.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;

use common::{HOST, Setup, endpoint, eventually, fallback, millis, no_retry, primary};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use understudy_testbed::{Behaviour, Client, H2Backend, Request};

fn handshake() -> Vec<u8> {
    Request::get(HOST, "/test")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .to_bytes()
}

/// An endpoint that switches, says its name, and then returns what it is sent. While it is told to fail, it answers 500
/// instead, and its sessions go on.
async fn sessions(name: &'static str) -> (SocketAddr, watch::Sender<bool>) {
    let (fails, failing) = watch::channel(false);
    let address = endpoint(move |mut stream| {
        let failing = *failing.borrow();
        async move {
            if failing {
                let answer = b"HTTP/1.1 500 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
                return;
            }
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.unwrap();
            stream.write_all(name.as_bytes()).await.unwrap();
            let mut bytes = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                stream.write_all(&bytes[..length]).await.unwrap();
            }
        }
    })
    .await;
    (address, fails)
}

/// A session, and who serves it.
async fn open(proxy: SocketAddr) -> (Client, String) {
    let mut client = Client::connect(proxy).await.unwrap();
    client.send(&handshake()).await.unwrap();
    let status = client.read_head().await.unwrap().status;
    if status != 101 {
        return (client, status.to_string());
    }
    let name = client.read_some().await.unwrap();
    (client, String::from_utf8(name).unwrap())
}

async fn still_talks(client: &mut Client) {
    client.send(b"ping").await.unwrap();
    assert_eq!(client.read_some().await.unwrap(), b"ping");
}

#[tokio::test]
async fn o25_a_session_stays_on_its_endpoint_through_its_ejection_and_a_new_one_goes_to_the_fallback() {
    let ((active, fails), (passive, _)) = (sessions("active").await, sessions("passive").await);
    let setup = Setup::new(&[active], &[passive]).change_policy(|policy| {
        policy.passive.as_mut().unwrap().base_ejection_time = millis(300);
    });
    let proxy = setup.start().await;
    let (mut first, name) = open(proxy.address).await;
    assert_eq!(name, "active");
    fails.send_replace(true);
    // The failed handshake ejects, and is passed on.
    assert_eq!(open(proxy.address).await.1, "500");
    let (mut second, name) = open(proxy.address).await;
    assert_eq!(name, "passive");
    still_talks(&mut first).await;
    fails.send_replace(false);
    eventually("the primary's return", || async { open(proxy.address).await.1 == "active" }).await;
    // And neither session was moved by the return.
    still_talks(&mut first).await;
    still_talks(&mut second).await;
}

#[tokio::test]
async fn a_handshake_that_a_dead_primary_refuses_lands_on_the_fallback() {
    let dead = primary().await;
    let (passive, _) = sessions("passive").await;
    let proxy = Setup::new(&[dead.address()], &[passive]).start().await;
    dead.kill().await;
    for _ in 0..3 {
        let (mut client, name) = open(proxy.address).await;
        assert_eq!(name, "passive");
        still_talks(&mut client).await;
    }
}

#[tokio::test]
async fn with_num_retries_zero_the_first_handshake_fails() {
    let dead = primary().await;
    let (passive, _) = sessions("passive").await;
    let proxy = Setup::new(&[dead.address()], &[passive]).with_retry(no_retry()).start().await;
    dead.kill().await;
    assert_eq!(open(proxy.address).await.1, "503");
    assert_eq!(open(proxy.address).await.1, "passive");
}

#[tokio::test]
async fn an_endpoint_that_does_not_switch_answers_and_its_connection_goes_on() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(Behaviour::Status(404));
    let mut client = Client::connect(proxy.address).await.unwrap();
    for _ in 0..2 {
        client.send(&handshake()).await.unwrap();
        assert_eq!(client.read_response("GET").await.unwrap().status, 404);
    }
}

#[tokio::test]
async fn an_endpoint_of_http_2_is_not_asked_to_switch() {
    let active = H2Backend::start("active").await.unwrap();
    let proxy = Setup::new(&[active.address()], &[]).over_h2().start().await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    client.send(&handshake()).await.unwrap();
    let response = client.read_response("GET").await.unwrap();
    assert_eq!((response.status, response.text().as_str()), (200, "active"));
    assert!(!active.log()[0].headers.contains_key("upgrade"));
}
