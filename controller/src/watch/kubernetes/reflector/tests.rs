//! A reflector before an API server that answers by rote.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use kube::client::Body;
use serde_json::json;

use super::*;
use crate::watch::Kind;

/// A list of two routes, from the version of which no watch goes on.
fn answer(uri: &str, streams: bool) -> Response<Full<Bytes>> {
    let failure = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": reason});
        (code, status.to_string())
    };
    let route =
        |name: &str| json!({"metadata": {"name": name, "namespace": "default", "resourceVersion": "5"}});
    let added = |name: &str| json!({"type": "ADDED", "object": route(name)}).to_string();
    let (code, body) = if !uri.contains("watch=") {
        let metadata = json!({"resourceVersion": "5"});
        (200, json!({"metadata": metadata, "items": [route("a"), route("b")]}).to_string())
    } else if !uri.contains("sendInitialEvents") {
        failure(410, "Expired")
    } else if streams {
        let end = json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "HTTPRoute",
            "metadata": {"resourceVersion": "5", "annotations": {END_OF_LIST: "true"}}}});
        (200, format!("{}\n{}\n{end}\n", added("a"), added("b")))
    } else {
        failure(422, "Invalid")
    };
    Response::builder().status(code).body(Full::new(Bytes::from(body))).unwrap()
}

/// The events of a reflector, which ends with them.
fn reflect(streams: bool) -> mpsc::Receiver<Event> {
    let service = tower::service_fn(move |request: Request<Body>| async move {
        Ok::<_, Infallible>(answer(&request.uri().to_string(), streams))
    });
    let (sender, events) = mpsc::channel(16);
    let reflector = Reflector {
        requests: Arc::new(Requests::new(kube::Client::new(service, "default"))),
        target: Target { kind: Kind::HttpRoute, version: "v1" },
        events: sender,
        missing: Arc::default(),
    };
    tokio::spawn(reflector.run());
    events
}

#[tokio::test(start_paused = true)]
async fn each_list_begins_before_its_first_object_and_ends_after_its_last_one() {
    for streams in [true, false] {
        let mut events = reflect(streams);
        for _ in 0..3 {
            let mut seen = Vec::new();
            for _ in 0..4 {
                seen.push(match events.recv().await.unwrap() {
                    Event::Listing(Kind::HttpRoute) => "begin".to_owned(),
                    Event::Applied(kind, object) => object.key(kind).unwrap().name.to_string(),
                    Event::Listed(_, keys) => keys.len().to_string(),
                    other => format!("{other:?}"),
                });
            }
            assert_eq!(seen, ["begin", "a", "b", "2"]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lists_from_which_no_watch_goes_on_come_ever_less_often() {
    for streams in [true, false] {
        let mut events = reflect(streams);
        let began = Instant::now();
        for _ in 0..20 {
            while !matches!(events.recv().await.unwrap(), Event::Listed(..)) {}
        }
        let took = began.elapsed();
        assert!((90..600).contains(&took.as_secs()), "{took:?}");
    }
}
