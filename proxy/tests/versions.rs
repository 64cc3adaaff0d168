//! HTTP/1.0 on either side: the gateway answers in its own version, and never with what the client cannot read.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{HOST, Setup, fallback, primary};
use understudy_testbed::{Answer, Behaviour, Client};

async fn raw(address: std::net::SocketAddr, request: &str) -> String {
    let mut client = Client::connect(address).await.unwrap();
    client.send(request.as_bytes()).await.unwrap();
    String::from_utf8(client.read_to_end().await.0).unwrap()
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(Behaviour::Answer(
        Answer::status(200).content(understudy_testbed::Content::Bytes(b"hello".to_vec())).chunked(),
    ));
    let answer = raw(proxy.address, &format!("GET /test HTTP/1.0\r\nHost: {HOST}\r\n\r\n")).await;
    assert!(answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.to_ascii_lowercase().contains("transfer-encoding"), "{answer}");
}

#[tokio::test]
async fn a_backend_of_http_1_0_is_answered_for_in_http_1_1() {
    let (active, passive) = (primary().await, fallback().await);
    let proxy = Setup::new(&[active.address()], &[passive.address()]).start().await;
    active.set(Behaviour::Garbage(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()));
    let request = format!("GET /test HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n");
    let answer = raw(proxy.address, &request).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.ends_with("ok"), "{answer}");
}
