//! The client reports exactly what came back.

#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use understudy_testbed::{Client, ClientError, Request};

/// Connects a client to a server that sends these bytes and closes.
async fn served(bytes: &'static [u8]) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        // Reading to the end makes the close a FIN.
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    });
    Client::connect(address).await.unwrap()
}

#[tokio::test]
async fn a_chunked_answer_is_put_together_with_its_trailers() {
    let mut client = served(
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\nx-t: v\r\n\r\n",
    )
    .await;
    let response = client.read_response("GET").await.unwrap();
    assert_eq!(response.body, b"abc0123456789");
    assert_eq!(response.trailers, [("x-t".to_owned(), "v".to_owned())]);
}

#[tokio::test]
async fn an_answer_without_length_ends_with_the_connection() {
    let mut client = served(b"HTTP/1.1 200 Fine\r\n\r\nabc").await;
    let response = client.read_response("GET").await.unwrap();
    assert_eq!((response.reason.as_str(), response.body.as_slice()), ("Fine", b"abc".as_slice()));
}

#[tokio::test]
async fn two_answers_in_one_packet_are_told_apart() {
    let mut client = served(b"HTTP/1.1 204 None\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
    assert_eq!(client.read_response("GET").await.unwrap().status, 204);
    assert_eq!(client.read_response("GET").await.unwrap().body, b"hi");
    assert!(matches!(client.read_response("GET").await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn what_is_not_http_is_called_malformed() {
    for bytes in [
        b"hello world\r\n\r\n".as_slice(),
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    ] {
        let error = served(bytes).await.read_response("GET").await.unwrap_err();
        assert!(matches!(error, ClientError::Malformed(_)), "{error:?}");
    }
}

#[test]
fn a_request_is_written_as_it_was_built() {
    let request = Request::new("POST", "h", "/p").header("a", "b").body("xyz");
    assert_eq!(request.to_bytes(), b"POST /p HTTP/1.1\r\nHost: h\r\na: b\r\nContent-Length: 3\r\n\r\nxyz");
    let request = Request::new("PUT", "h", "/p").chunked_body("xyz");
    assert_eq!(
        request.to_bytes(),
        b"PUT /p HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nxyz\r\n0\r\n\r\n"
    );
    assert_eq!(Request::get("h", "/").to_bytes(), b"GET / HTTP/1.1\r\nHost: h\r\n\r\n");
}
