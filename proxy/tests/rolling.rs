//! One proxy ends and another takes over, as in a rolling update: no request fails.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{HOST, PATIENCE, Proxy, Setup, eventually, primary};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use understudy_testbed::{Client, H2Client, Request};

const DELAY: Duration = Duration::from_millis(1000);

/// A proxy that shares its socket, and accepts for a while when it is told to stop.
async fn shared(setup: &Setup) -> Proxy {
    Proxy::start_with(&setup.state(), |options| {
        options.reuse_port = true;
        options.drain_delay = DELAY;
        options.threads = 1;
    })
    .await
}

/// What clients saw.
#[derive(Default)]
struct Seen {
    served: AtomicUsize,
    /// Answers that ended their connection.
    last: AtomicUsize,
    failures: std::sync::Mutex<Vec<String>>,
    enough: AtomicBool,
}

impl Seen {
    fn fail(&self, error: impl ToString) {
        self.failures.lock().unwrap().push(error.to_string());
    }
}

/// Asks until it is enough, over one connection for as long as that lives, or over a new one each time.
async fn ask(address: SocketAddr, keep: bool, seen: Arc<Seen>) {
    let request = Request::get(HOST, "/test");
    let mut client = None;
    while !seen.enough.load(Ordering::Relaxed) {
        let mut connected = match client.take() {
            Some(client) => client,
            None => match Client::connect_within(address, PATIENCE).await {
                Ok(client) => client,
                Err(error) => return seen.fail(error),
            },
        };
        match connected.send_request(&request).await {
            Ok(response) if response.status == 200 => {
                seen.served.fetch_add(1, Ordering::Relaxed);
                if !response.keeps_alive() {
                    seen.last.fetch_add(1, Ordering::Relaxed);
                } else if keep {
                    client = Some(connected);
                }
            }
            Ok(response) => seen.fail(response.status),
            Err(error) => seen.fail(error),
        }
        // Some connections are idle at any moment.
        sleep(Duration::from_millis(u64::from(keep) * 5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_shares_its_socket_is_replaced_under_load_without_a_failed_request() {
    let active = primary().await;
    let setup = Setup::new(&[active.address()], &[]);
    let mut old = shared(&setup).await;
    let seen = Arc::<Seen>::default();
    let mut clients = JoinSet::new();
    for _ in 0..50 {
        clients.spawn(ask(old.address, true, seen.clone()));
    }
    for _ in 0..4 {
        clients.spawn(ask(old.address, false, seen.clone()));
    }
    eventually("some requests", || async { seen.served.load(Ordering::Relaxed) > 500 }).await;
    let new = shared(&setup).await;
    old.begin_to_stop();
    old.stop().await;
    let before = seen.served.load(Ordering::Relaxed);
    eventually("requests to the new one", || async { seen.served.load(Ordering::Relaxed) > before + 500 })
        .await;
    seen.enough.store(true, Ordering::Relaxed);
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    assert_eq!(*seen.failures.lock().unwrap(), [""; 0]);
    assert!(
        seen.last.load(Ordering::Relaxed) >= 25,
        "connections that were kept end with an answer that says so"
    );
    new.stop().await;
}

#[tokio::test]
async fn a_proxy_that_is_told_to_stop_is_not_ready_and_accepts_until_the_delay_is_over() {
    let active = primary().await;
    let mut proxy = shared(&Setup::new(&[active.address()], &[])).await;
    let request = Request::get(HOST, "/test");
    let mut kept = Client::connect(proxy.address).await.unwrap();
    assert!(kept.send_request(&request).await.unwrap().keeps_alive());
    assert_eq!(proxy.admin("/ready").await.status, 200);
    proxy.begin_to_stop();
    let start = Instant::now();
    eventually("readiness fails", || async { proxy.admin("/ready").await.status == 503 }).await;
    assert_eq!(proxy.admin("/live").await.status, 200);
    // The connection that was kept serves once more, and says that it ends.
    let last = kept.send_request(&request).await.unwrap();
    assert!(last.status == 200 && !last.keeps_alive(), "{last:?}");
    // So does a new one, also for answers of the proxy's own.
    for (path, status) in [("/test", 200), ("/other", 404)] {
        let response = proxy.send(&Request::get(HOST, path)).await.unwrap();
        assert!(response.status == status && !response.keeps_alive(), "{response:?}");
    }
    assert!(start.elapsed() < DELAY, "the machine is too slow for what this test looks at");
    let address = proxy.address;
    proxy.stop().await;
    assert!(start.elapsed() >= DELAY);
    assert!(Client::connect(address).await.is_err());
}

#[tokio::test]
async fn a_request_that_comes_late_on_a_new_connection_is_served_when_the_socket_closes() {
    let active = primary().await;
    let setup = Setup::new(&[active.address()], &[]);
    let mut proxy = shared(&setup).await;
    let mut client = Client::connect(proxy.address).await.unwrap();
    proxy.begin_to_stop();
    let refused = || async {
        let connected = tokio::net::TcpStream::connect(proxy.address);
        let connected = tokio::time::timeout(Duration::from_millis(50), connected).await;
        connected.is_ok_and(|result| result.is_err())
    };
    eventually("the socket is closed", refused).await;
    assert_eq!(client.send_request(&Request::get(HOST, "/test")).await.unwrap().status, 200);
    proxy.stop().await;
}

#[tokio::test]
async fn connections_of_http_2_live_through_the_delay_and_lose_no_stream() {
    let active = primary().await;
    let mut proxy = shared(&Setup::new(&[active.address()], &[])).await;
    let mut client = H2Client::connect(proxy.address, HOST).await.unwrap();
    assert_eq!(client.get("/test").await.unwrap().status, 200);
    proxy.begin_to_stop();
    let start = Instant::now();
    let mut served = 0;
    // Until the connection ends, every stream is served.
    while client.is_open() && start.elapsed() < PATIENCE {
        match client.get("/test").await {
            Ok(response) => assert_eq!(response.status, 200),
            Err(error) => {
                assert!(error.reason().is_none() || !client.is_open(), "{error}");
                break;
            }
        }
        served += 1;
        sleep(Duration::from_millis(20)).await;
    }
    assert!(start.elapsed() >= DELAY && served > 1, "{served} in {:?}", start.elapsed());
    assert!(client.wait_closed(PATIENCE).await);
    proxy.stop().await;
}
