//! A blackhole swallows connects.

use std::time::Duration;

use understudy_testbed::{Backend, Blackhole, Client, ClientError, get};

const PATIENCE: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_connect_to_a_blackhole_hangs_every_time() {
    let hole = Blackhole::start().await.unwrap();
    for _ in 0..4 {
        let error = Client::connect_within(hole.address(), PATIENCE).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout(..)), "{error:?}");
    }
}

#[tokio::test]
async fn a_port_can_change_from_backend_to_blackhole_and_back() {
    let backend = Backend::start("a").await.unwrap();
    let address = backend.address();
    backend.kill().await;
    let hole = Blackhole::start_on(address).await.unwrap();
    let error = Client::connect_within(address, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ClientError::Timeout(..)), "{error:?}");
    drop(hole);
    let error = Client::connect_within(address, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ClientError::Connect(_)), "{error:?}");
    backend.restart().await.unwrap();
    assert_eq!(get(address, "h", "/").await.unwrap().pod().as_deref(), Some("a"));
}
