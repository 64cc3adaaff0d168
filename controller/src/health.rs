//! Whether the controller lives, and whether it has published anything: two answers to a kubelet's probes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// A probe that takes longer is cut.
const PATIENCE: Duration = Duration::from_secs(2);
/// Probes at a time.
const AT_ONCE: usize = 16;
/// Longest request that is read, in bytes.
const MAX_REQUEST: usize = 4096;

/// What probes ask for.
#[derive(Debug, Default)]
pub struct Health {
    published: AtomicBool,
}

impl Health {
    /// Notes that a state stands on disk.
    pub(crate) fn set_published(&self) {
        self.published.store(true, Ordering::Relaxed);
    }

    /// Whether a state stands on disk, written now or by a controller before.
    #[must_use]
    pub fn is_published(&self) -> bool {
        self.published.load(Ordering::Relaxed)
    }
}

/// Listens for probes. `[::]` stands for all addresses of both families, and where the system has no IPv6 for those of
/// IPv4.
///
/// # Errors
/// What the system says, where the address cannot be bound.
pub async fn bind_health(address: SocketAddr) -> io::Result<TcpListener> {
    let is_any = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match TcpListener::bind(address).await {
        // There is no such family of sockets, or no address of it: the former has no kind of its own.
        Err(error) if is_any && error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    }
}

/// Answers `GET /healthz` (200 while the process works) and `GET /readyz` (200 once a state stands on disk, 503 before)
/// until it is dropped.
pub async fn serve_health(listener: TcpListener, health: Arc<Health>) {
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let health = health.clone();
                tokio::spawn(async move {
                    let _ = timeout(PATIENCE, answer(stream, &health)).await;
                    drop(turn);
                });
            }
            Err(error) => {
                log::debug!("a probe was not taken: {error}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, health: &Health) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (status, text) = match (words.next(), words.next()) {
        (Some(b"GET" | b"HEAD"), Some(b"/healthz")) => ("200 OK", "ok\n"),
        (Some(b"GET" | b"HEAD"), Some(b"/readyz")) if health.is_published() => ("200 OK", "ok\n"),
        (Some(b"GET" | b"HEAD"), Some(b"/readyz")) => {
            ("503 Service Unavailable", "nothing is published yet\n")
        }
        _ => ("404 Not Found", "ask for /healthz or /readyz\n"),
    };
    let body = if line.starts_with(b"HEAD") { "" } else { text };
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        text.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let listener = bind_health((Ipv6Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let local = listener.local_addr().unwrap();
        TcpStream::connect((Ipv4Addr::LOCALHOST, local.port())).await.unwrap();
        if local.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, local.port())).await.unwrap();
        }
        assert_eq!(bind_health(local).await.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_controller_is_live_at_once_and_ready_when_something_is_published() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let health = Arc::new(Health::default());
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(serve_health(listener, health.clone()));
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        assert!(ask("/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(ask("/readyz").await.starts_with("HTTP/1.1 503"));
        health.set_published();
        assert!(ask("/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(ask("/").await.starts_with("HTTP/1.1 404"));
        served.abort();
    }
}
