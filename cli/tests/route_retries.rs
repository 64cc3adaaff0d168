//! A rule's own `retry` (HTTPRoute), through the whole gateway: the features of Gateway API for which its conformance
//! suite has no test.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use common::{BACKEND_REFS, GATEWAY, Gateway, all, backend, backend_manifest, route_manifest};
use understudy_testbed::{Backend, Behaviour};

/// The route's objects, with these fields in its rule, and no policy.
fn manifests(active: &Backend, passive: &Backend, fields: &str) -> String {
    let rule = format!("{BACKEND_REFS}    {fields}\n");
    [
        GATEWAY.to_owned(),
        backend_manifest("active", false, &[active.address()]),
        backend_manifest("passive", true, &[passive.address()]),
        route_manifest(&rule),
    ]
    .concat()
}

/// What four clients get while `active` behaves like this, which gets every request first: nothing detects that it fails.
async fn answers(behaviour: Behaviour, fields: &str) -> Vec<String> {
    let (active, passive) = (backend("active").await, backend("passive").await);
    active.set(behaviour);
    let gateway = Gateway::start(&manifests(&active, &passive, fields), &[]).await;
    let answers = gateway.pods("/test", 4).await;
    assert_eq!(gateway.requests_to(active.address()).await, 4, "{answers:?}");
    answers
}

#[tokio::test]
async fn http_route_retry_backend_timeout_a_backend_that_is_too_slow_is_retried() {
    let timeouts = "timeouts: {request: 10s, backendRequest: 200ms}";
    let retried = answers(Behaviour::Hang, &format!("{timeouts}\n    retry: {{attempts: 3}}")).await;
    assert_eq!(retried, all("passive", 4));
    assert_eq!(answers(Behaviour::Hang, timeouts).await, all("504", 4));
}

#[tokio::test]
async fn http_route_retry_connection_error_a_connection_that_is_reset_or_closed_is_retried() {
    for behaviour in [Behaviour::ResetBeforeHeaders, Behaviour::CloseBeforeHeaders] {
        let retried = answers(behaviour.clone(), "retry: {attempts: 3}").await;
        assert_eq!(retried, all("passive", 4), "{behaviour:?}");
        assert_eq!(answers(behaviour.clone(), "").await, all("503", 4), "{behaviour:?}");
    }
}

#[tokio::test]
async fn http_route_retry_connection_error_without_attempts_nothing_is_retried() {
    let (active, passive) = (backend("active").await, backend("passive").await);
    let gateway = Gateway::start(&manifests(&active, &passive, "retry: {attempts: 0}"), &[]).await;
    active.kill().await;
    let answers = gateway.pods("/test", 4).await;
    assert_eq!(answers, all("503", 4));
}
