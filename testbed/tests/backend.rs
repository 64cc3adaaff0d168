//! Backends do what they are told, seen from a raw client.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::time::{Instant, timeout};
use understudy_testbed::{
    Answer, Backend, Behaviour, Client, ClientError, Content, End, Ending, OnAccept, Request, get,
};

const HOST: &str = "www.example.com";
const SOON: Duration = Duration::from_secs(10);
/// Long enough that nothing that is going to come can still be under way.
const SILENCE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn the_default_answer_describes_the_request_as_the_echo_server_does() {
    let backend = Backend::start("active-1").await.unwrap();
    let mut client = Client::connect(backend.address()).await.unwrap();
    let request = Request::get(HOST, "/test?a=b").header("x-request-id", "7").header("X-Request-ID", "8");
    let response = client.send_request(&request).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(response.pod().as_deref(), Some("active-1"));
    assert_eq!(response.header("X-Backend"), Some("active-1"));
    assert_eq!(response.header("content-length"), Some(response.body.len().to_string().as_str()));
    let json = response.json().unwrap();
    assert_eq!(json["path"], "/test?a=b");
    assert_eq!(json["host"], HOST);
    assert_eq!(json["method"], "GET");
    assert_eq!(json["proto"], "HTTP/1.1");
    assert_eq!(json["headers"]["X-Request-Id"], serde_json::json!(["7", "8"]));
    for key in ["namespace", "ingress", "service"] {
        assert!(json[key].is_string(), "{key}");
    }
}

#[tokio::test]
async fn a_connection_serves_many_requests_and_all_are_counted() {
    let backend = Backend::start("a").await.unwrap();
    let mut client = Client::connect(backend.address()).await.unwrap();
    for _ in 0..3 {
        assert_eq!(client.get(HOST, "/x?q=1").await.unwrap().status, 200);
    }
    let post = Request::new("POST", HOST, "/y").body("abc").header("x-mark", "m");
    assert_eq!(client.send_request(&post).await.unwrap().status, 200);
    assert!(backend.wait_until(SOON, |seen| seen.answers == 4).await);
    let seen = backend.observed();
    assert_eq!((seen.connections, seen.open, seen.requests, seen.probes), (1, 1, 4, 0));
    assert_eq!(seen.requests_to("GET", "/x"), 3);
    assert_eq!(seen.requests_to("POST", "/y"), 1);
    assert_eq!(seen.requests_to("POST", "/x"), 0);
    let last = seen.log().next_back().unwrap();
    assert_eq!((last.connection, last.target.as_str(), last.header("X-Mark")), (1, "/y", Some("m")));
    drop(client);
    assert!(backend.wait_until(SOON, |seen| seen.open == 0).await);
}

#[tokio::test]
async fn connection_close_is_honoured() {
    let backend = Backend::start("a").await.unwrap();
    let mut client = Client::connect(backend.address()).await.unwrap();
    let request = Request::get(HOST, "/").header("connection", "close");
    let response = client.send_request(&request).await.unwrap();
    assert!(!response.keeps_alive());
    assert_eq!(client.read_to_end().await, (Vec::new(), End::Closed));
}

#[tokio::test]
async fn head_is_answered_without_a_body_and_the_connection_goes_on() {
    let backend = Backend::start("a").await.unwrap();
    let mut client = Client::connect(backend.address()).await.unwrap();
    let response = client.send_request(&Request::new("HEAD", HOST, "/")).await.unwrap();
    assert!(response.body.is_empty());
    assert_ne!(response.header("content-length"), Some("0"));
    assert_eq!(client.get(HOST, "/").await.unwrap().pod().as_deref(), Some("a"));
}

#[tokio::test]
async fn request_bodies_are_read_in_both_framings_and_come_back() {
    let backend = Backend::start("a").await.unwrap();
    backend.set(Behaviour::RequestBody);
    let mut client = Client::connect(backend.address()).await.unwrap();
    let body: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    for request in [
        Request::new("POST", HOST, "/").body(body.clone()),
        Request::new("PUT", HOST, "/").chunked_body(body.clone()),
    ] {
        assert!(client.send_request(&request).await.unwrap().body == body);
    }
    let expecting = Request::new("POST", HOST, "/").body("abc").header("expect", "100-continue");
    let response = client.send_request(&expecting).await.unwrap();
    assert_eq!(response.interim[0].status, 100);
    assert_eq!(response.body, b"abc");
}

#[tokio::test]
async fn a_script_is_followed_once_and_then_the_behaviour_that_was_set() {
    let backend = Backend::start("a").await.unwrap();
    backend.set(Behaviour::Status(404));
    backend.next(2, Behaviour::Status(500));
    backend.script([Behaviour::body("hello")]);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(get(backend.address(), HOST, "/").await.unwrap().status);
    }
    assert_eq!(statuses, [500, 500, 200, 404, 404]);
    backend.next(2, Behaviour::Status(500));
    backend.heal();
    assert_eq!(get(backend.address(), HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn an_answer_is_made_to_measure() {
    let backend = Backend::start("a").await.unwrap();
    backend.set_generation(Some("7".to_owned()));
    let delay = Duration::from_millis(50);
    backend.set(
        Answer::status(202)
            .header("x-a", "1")
            .header("x-a", "2")
            .content(Content::Size(100_000))
            .interim(103, &[("link", "</a.css>")])
            .interim(100, &[])
            .delay(delay)
            .chunked()
            .close(),
    );
    let start = Instant::now();
    let response = get(backend.address(), HOST, "/").await.unwrap();
    assert!(start.elapsed() >= delay);
    assert_eq!(response.status, 202);
    assert_eq!(response.header_values("x-a"), ["1", "2"]);
    assert_eq!(response.body.len(), 100_000);
    assert_eq!(response.header("transfer-encoding"), Some("chunked"));
    assert_eq!(response.header("x-backend-generation"), Some("7"));
    assert!(!response.keeps_alive());
    assert_eq!(response.interim.iter().map(|i| i.status).collect::<Vec<_>>(), [103, 100]);
    assert_eq!(response.interim[0].headers, [("link".to_owned(), "</a.css>".to_owned())]);
}

#[tokio::test]
async fn an_early_answer_comes_before_the_request_body() {
    let backend = Backend::start("a").await.unwrap();
    backend.set(Answer::status(413).early());
    let mut client = Client::connect(backend.address()).await.unwrap();
    client.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nabc").await.unwrap();
    let response = client.read_response("POST").await.unwrap();
    assert_eq!(response.status, 413);
    assert_eq!(client.read_to_end().await.1, End::Closed);
}

#[tokio::test]
async fn a_hanging_backend_reads_the_request_and_never_answers() {
    let backend = Backend::start("a").await.unwrap();
    backend.set(Behaviour::Hang);
    let mut client = Client::connect(backend.address()).await.unwrap().with_timeout(SILENCE);
    let error = client.get(HOST, "/").await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout(..)), "{error}");
    assert_eq!(backend.requests(), 1);
    drop(client);
    // It notices that the client gave up.
    assert!(backend.wait_until(SOON, |seen| seen.open == 0).await);
}

#[tokio::test]
async fn answers_can_be_withheld_by_reset_close_and_garbage() {
    let backend = Backend::start("a").await.unwrap();
    for _ in 0..20 {
        backend.next(1, Behaviour::ResetBeforeHeaders);
        let error = get(backend.address(), HOST, "/").await.unwrap_err();
        assert!(matches!(error, ClientError::Reset), "{error:?}");
        backend.next(1, Behaviour::CloseBeforeHeaders);
        let error = get(backend.address(), HOST, "/").await.unwrap_err();
        assert!(matches!(error, ClientError::Closed), "{error:?}");
        backend.next(1, Behaviour::Garbage(b"SSH-2.0-what\r\n\r\n".to_vec()));
        let error = get(backend.address(), HOST, "/").await.unwrap_err();
        assert!(matches!(error, ClientError::Malformed(_)), "{error:?}");
    }
    assert_eq!(backend.observed().answers, 0);
}

#[tokio::test]
async fn bodies_can_be_cut_after_half_by_reset_close_and_silence() {
    let backend = Backend::start("a").await.unwrap();
    for chunked in [false, true] {
        for (ending, expected) in
            [(Ending::Reset, End::Reset), (Ending::Close, End::Closed), (Ending::Stall, End::Silence)]
        {
            let answer = Answer::status(200).content(Content::Size(1000)).ending(ending);
            backend.next(1, if chunked { answer.chunked() } else { answer });
            let mut client = Client::connect(backend.address()).await.unwrap().with_timeout(SILENCE);
            match client.get(HOST, "/").await.unwrap_err() {
                ClientError::BodyCut { response, end } => {
                    assert_eq!((response.status, response.body.len()), (200, 500), "{ending:?}");
                    assert_eq!(end, expected);
                }
                other => panic!("{ending:?}: {other:?}"),
            }
        }
    }
    backend.script([Behaviour::ResetMidBody, Behaviour::CloseMidBody, Behaviour::StallMidBody]);
    for expected in [End::Reset, End::Closed, End::Silence] {
        let mut client = Client::connect(backend.address()).await.unwrap().with_timeout(SILENCE);
        let error = client.get(HOST, "/").await.unwrap_err();
        assert!(matches!(error, ClientError::BodyCut { end, .. } if end == expected), "{error:?}");
    }
}

#[tokio::test]
async fn a_slow_body_comes_in_pieces_and_is_whole() {
    let backend = Backend::start("a").await.unwrap();
    let pause = Duration::from_millis(10);
    backend.set(Answer::status(200).content(Content::Size(10)).ending(Ending::Slow { piece: 2, pause }));
    let start = Instant::now();
    assert_eq!(get(backend.address(), HOST, "/").await.unwrap().body.len(), 10);
    assert!(start.elapsed() >= pause * 5);
    backend.set(Behaviour::SlowBody { piece: 64, pause: Duration::from_millis(1) });
    assert_eq!(get(backend.address(), HOST, "/").await.unwrap().pod().as_deref(), Some("a"));
}

#[tokio::test]
async fn a_killed_backend_refuses_connects_resets_connections_and_comes_back_on_its_port() {
    let backend = Backend::start("a").await.unwrap();
    let address = backend.address();
    for _ in 0..20 {
        let mut idle = Client::connect(address).await.unwrap();
        idle.get(HOST, "/").await.unwrap();
        let mut waiting = Client::connect(address).await.unwrap();
        let requests = backend.requests();
        backend.next(1, Behaviour::Hang);
        waiting.send(&Request::get(HOST, "/").to_bytes()).await.unwrap();
        assert!(backend.wait_until(SOON, |seen| seen.requests > requests).await);
        backend.kill().await;
        assert!(!backend.is_listening());
        assert_eq!(backend.observed().open, 0);
        let refused = Client::connect(address).await.unwrap_err();
        assert!(
            matches!(&refused, ClientError::Connect(e) if e.kind() == std::io::ErrorKind::ConnectionRefused)
        );
        assert_eq!(idle.read_to_end().await.1, End::Reset);
        assert!(matches!(waiting.read_response("GET").await, Err(ClientError::Reset)));
        backend.restart().await.unwrap();
        assert_eq!(get(address, HOST, "/").await.unwrap().pod().as_deref(), Some("a"));
    }
}

#[tokio::test]
async fn the_port_of_a_dead_backend_stays_reserved() {
    let backend = Backend::start("a").await.unwrap();
    backend.kill().await;
    // A bind that does not insist on sharing fails, and so does the search for a free port.
    let other = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let error = other.bind(&backend.address().into()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse);
    backend.restart().await.unwrap();
}

#[tokio::test]
async fn a_refusing_backend_keeps_the_connections_that_stand() {
    let backend = Backend::start("a").await.unwrap();
    let mut client = Client::connect(backend.address()).await.unwrap();
    client.get(HOST, "/").await.unwrap();
    backend.refuse().await;
    assert!(matches!(Client::connect(backend.address()).await, Err(ClientError::Connect(_))));
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_graceful_close_ends_idle_connections_and_finishes_the_request_under_way() {
    let backend = Backend::start("a").await.unwrap();
    let mut idle = Client::connect(backend.address()).await.unwrap();
    idle.get(HOST, "/").await.unwrap();
    let mut busy = Client::connect(backend.address()).await.unwrap();
    backend.next(1, Behaviour::delayed(Duration::from_millis(100)));
    busy.send(&Request::get(HOST, "/").to_bytes()).await.unwrap();
    assert!(backend.wait_until(SOON, |seen| seen.requests == 2).await);
    let (answer, ()) = tokio::join!(busy.read_response("GET"), backend.close_gracefully());
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200);
    assert!(!answer.keeps_alive());
    assert_eq!(idle.read_to_end().await.1, End::Closed);
    assert!(matches!(Client::connect(backend.address()).await, Err(ClientError::Connect(_))));
}

#[tokio::test]
async fn standing_connections_can_be_reset_or_closed_while_new_ones_are_accepted() {
    let backend = Backend::start("a").await.unwrap();
    let mut first = Client::connect(backend.address()).await.unwrap();
    first.get(HOST, "/").await.unwrap();
    backend.reset_connections().await;
    assert_eq!(first.read_to_end().await.1, End::Reset);
    let mut second = Client::connect(backend.address()).await.unwrap();
    second.get(HOST, "/").await.unwrap();
    backend.close_connections().await;
    assert_eq!(second.read_to_end().await.1, End::Closed);
    assert_eq!(get(backend.address(), HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn connections_without_a_request_are_counted_as_probes() {
    let backend = Backend::start("a").await.unwrap();
    drop(Client::connect(backend.address()).await.unwrap());
    Client::connect(backend.address()).await.unwrap().reset();
    let mut client = Client::connect(backend.address()).await.unwrap();
    client.get(HOST, "/").await.unwrap();
    drop(client);
    assert!(backend.wait_until(SOON, |seen| seen.open == 0 && seen.connections == 3).await);
    assert_eq!(backend.observed().probes, 2);
}

#[tokio::test]
async fn connections_can_be_refused_service_before_any_byte_is_read() {
    let backend = Backend::start("a").await.unwrap();
    for (on_accept, expected) in
        [(OnAccept::Reset, End::Reset), (OnAccept::Close, End::Closed), (OnAccept::Ignore, End::Silence)]
    {
        backend.on_accept(on_accept);
        let mut client = Client::connect(backend.address()).await.unwrap().with_timeout(SILENCE);
        assert_eq!(client.read_to_end().await, (Vec::new(), expected), "{on_accept:?}");
    }
    backend.on_accept(OnAccept::Serve);
    assert_eq!(get(backend.address(), HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_backend_on_a_unix_socket_serves_dies_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let backend = Backend::start_unix(folder.path().join("a.sock"), "u").await.unwrap();
    let mut client = Client::connect_unix(backend.path()).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().pod().as_deref(), Some("u"));
    backend.kill().await;
    assert_ne!(client.read_to_end().await.1, End::Silence);
    assert!(Client::connect_unix(backend.path()).await.is_err());
    backend.restart_unix().await.unwrap();
    let mut client = Client::connect_unix(backend.path()).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_dropped_backend_leaves_nothing_behind() {
    let backend = Backend::start("a").await.unwrap();
    let address = backend.address();
    let mut client = Client::connect(address).await.unwrap();
    client.get(HOST, "/").await.unwrap();
    drop(backend);
    assert_ne!(client.read_to_end().await.1, End::Silence);
    let gone = async {
        while Client::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, gone).await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_with_a_reason() {
    let backend = Backend::start("a").await.unwrap();
    let mut client = Client::connect(backend.address()).await.unwrap();
    client.send(b"nonsense\r\n\r\n").await.unwrap();
    let response = client.read_response("GET").await.unwrap();
    assert_eq!(response.status, 400);
    assert!(response.text().contains("request head"));
}

#[tokio::test]
async fn a_backend_that_is_killed_counts_the_requests_that_it_had() {
    let backend = Backend::start("a").await.unwrap();
    let mut idle = Client::connect(backend.address()).await.unwrap();
    assert_eq!(idle.get(HOST, "/").await.unwrap().status, 200);
    backend.set(Behaviour::Hang);
    let mut waiting = Client::connect(backend.address()).await.unwrap();
    waiting.send(&Request::get(HOST, "/").to_bytes()).await.unwrap();
    let mut partial = Client::connect(backend.address()).await.unwrap();
    partial.send(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
    let all = |seen: &understudy_testbed::Observed| seen.requests == 2 && seen.open == 3;
    assert!(backend.wait_until(SOON, all).await);
    // One request hangs, one has arrived in part, and the third connection is idle.
    backend.kill().await;
    assert_eq!(backend.observed().cut, 2);
}

#[tokio::test]
async fn an_upgraded_connection_echoes_every_byte() {
    let backend = Backend::start("a").await.unwrap();
    backend.set(Answer::status(200).upgrade());
    let mut client = Client::connect(backend.address()).await.unwrap();
    assert_eq!(client.get(HOST, "/").await.unwrap().status, 200, "it did not ask for an upgrade");
    let request = Request::get(HOST, "/").header("connection", "upgrade").header("upgrade", "websocket");
    client.send(&request.to_bytes()).await.unwrap();
    let head = client.read_head().await.unwrap();
    assert_eq!((head.status, head.header("upgrade")), (101, Some("websocket")));
    for message in [&b"one"[..], b"two\r\n\r\n"] {
        client.send(message).await.unwrap();
        let mut echo = Vec::new();
        while echo.len() < message.len() {
            echo.extend(client.read_some().await.unwrap());
        }
        assert_eq!(echo, message);
    }
    backend.kill().await;
    assert_eq!(client.read_to_end().await.1, End::Reset);
    assert_eq!(backend.observed().cut, 1, "a session is under way as long as it stands");
}
