//! Balancing by a hash of the request, on real sockets.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{HOST, Proxy, Setup};
use understudy_conf::{ConsistentHash, GatewayDuration, HashCookie, HashKey, LoadBalancer};
use understudy_testbed::{Backend, Request};

async fn primaries() -> Vec<Backend> {
    let mut backends = Vec::new();
    for name in ["one", "two", "three", "four"] {
        backends.push(Backend::start(name).await.unwrap());
    }
    backends
}

async fn start(backends: &[Backend], by: HashKey) -> Proxy {
    let addresses: Vec<_> = backends.iter().map(|backend| backend.address()).collect();
    let balancer = LoadBalancer::ConsistentHash(ConsistentHash { by, table_size: 1009 });
    Setup::new(&addresses, &[]).change_policy(|policy| policy.load_balancer = balancer).start().await
}

async fn pod(proxy: &Proxy, request: &Request) -> String {
    let response = proxy.send(request).await.unwrap();
    assert_eq!(response.status, 200);
    response.pod().unwrap()
}

fn of_user(number: usize) -> Request {
    Request::get(HOST, "/test").header("X-User", &format!("user-{number}"))
}

async fn homes(proxy: &Proxy) -> Vec<String> {
    let mut homes = Vec::new();
    for number in 0..40 {
        homes.push(pod(proxy, &of_user(number)).await);
    }
    homes
}

#[tokio::test]
async fn l5_a_header_sticks_to_an_endpoint_and_moves_only_when_it_dies() {
    let backends = primaries().await;
    let proxy = start(&backends, HashKey::Headers(vec!["x-user".to_owned()])).await;
    let before = homes(&proxy).await;
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), 4, "all of them serve someone");
    assert_eq!(homes(&proxy).await, before);
    let dead = before[0].clone();
    backends.iter().find(|backend| backend.name() == dead).unwrap().kill().await;
    let after = homes(&proxy).await;
    for (was, is) in before.iter().zip(&after) {
        assert!(*is != dead && (*was == dead || was == is), "{was} became {is}");
    }
    assert_eq!(homes(&proxy).await, after, "those that moved stick to their new endpoint");
}

#[tokio::test]
async fn l5_another_proxy_with_the_same_endpoints_makes_the_same_choice() {
    let backends = primaries().await;
    let by = HashKey::Headers(vec!["x-user".to_owned()]);
    let (one, other) = (start(&backends, by.clone()).await, start(&backends, by).await);
    assert_eq!(homes(&one).await, homes(&other).await);
}

#[tokio::test]
async fn l5_one_client_address_has_one_endpoint() {
    let backends = primaries().await;
    let proxy = start(&backends, HashKey::SourceIp).await;
    let pods: BTreeSet<String> = proxy.pods(20).await.into_iter().collect();
    assert_eq!(pods.len(), 1, "{pods:?}");
}

#[tokio::test]
async fn l5_a_query_parameter_sticks_to_an_endpoint() {
    let backends = primaries().await;
    let proxy = start(&backends, HashKey::QueryParams(vec!["user".to_owned()])).await;
    let mut used = BTreeSet::new();
    for user in 0..20 {
        let of = |noise: usize| Request::get(HOST, &format!("/test?x={noise}&user={user}"));
        let first = pod(&proxy, &of(0)).await;
        for noise in 1..4 {
            assert_eq!(pod(&proxy, &of(noise)).await, first);
        }
        used.insert(first);
    }
    assert!(used.len() > 1, "{used:?}");
}

#[tokio::test]
async fn l5_a_client_without_the_cookie_gets_it_and_comes_back_to_the_same_endpoint() {
    let backends = primaries().await;
    let cookie = HashCookie {
        name: "session".to_owned(),
        ttl: Some(GatewayDuration::from_secs(60)),
        attributes: [("Path".to_owned(), "/".to_owned())].into(),
    };
    let proxy = start(&backends, HashKey::Cookie(cookie)).await;
    let mut used = BTreeSet::new();
    for _ in 0..20 {
        let first = proxy.get().await;
        let line = first.header("set-cookie").unwrap().to_owned();
        let (pair, attributes) = line.split_once("; ").unwrap();
        assert!(pair.starts_with("session=\""), "{line}");
        assert_eq!(attributes, "Max-Age=60; Path=/; HttpOnly");
        for _ in 0..3 {
            let again = proxy.send(&Request::get(HOST, "/test").header("Cookie", pair)).await.unwrap();
            assert_eq!(again.pod(), first.pod());
            assert_eq!(again.header("set-cookie"), None, "it has one already");
        }
        used.insert(first.pod().unwrap());
    }
    assert!(used.len() > 1, "new clients are spread: {used:?}");
}
