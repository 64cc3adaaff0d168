//! The admin address: what the proxy is doing, for people, probes and Prometheus.
//!
//! Purpose: `/live`, `/ready`, `/metrics`, `/pools`, `/version`. Inputs: closures that say it. Outputs: short
//! answers over HTTP/1.1, one a connection. It only tells; nothing can be changed here. Everything about a
//! connection is bounded, since anyone on this machine may open one.

mod exchange;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use understudy_conf::Reports;

use exchange::{Answer, exchange};
use nix::libc;
use socket2::{Domain, Socket, Type};

/// Connections that are served at once; the others wait.
const AT_ONCE: usize = 64;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// How long nothing is accepted after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Why there is no admin address.
#[derive(Debug, thiserror::Error)]
#[error("the admin address {address} cannot be bound: {source}; choose another with --admin ADDR:PORT")]
pub struct AdminError {
    /// The address.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// What the pages show. Each closure is called for each request to its page.
pub struct AdminPages {
    /// Whether clients can be served, and a line that says why or why not.
    pub ready: Box<dyn Fn() -> (bool, String) + Send + Sync>,
    /// Prometheus' text, or why there is none.
    pub metrics: Box<dyn Fn() -> Result<String, String> + Send + Sync>,
    /// What is known of the pools.
    pub reports: Box<dyn Fn() -> Reports + Send + Sync>,
    /// The program's version.
    pub version: String,
}

/// The admin server. It ends when this is dropped.
pub struct Admin {
    local: SocketAddr,
    serving: JoinHandle<()>,
}

impl Admin {
    /// Binds `address` and serves `pages` there, on `control`.
    ///
    /// # Errors
    /// [`AdminError`] if the address cannot be bound.
    pub fn start(address: SocketAddr, pages: AdminPages, control: &Handle) -> Result<Self, AdminError> {
        Self::start_shared(address, false, pages, control)
    }

    /// The same; if `shared`, another process of the same user may have the address, too.
    ///
    /// # Errors
    /// [`AdminError`] if the address cannot be bound.
    pub fn start_shared(
        address: SocketAddr,
        shared: bool,
        pages: AdminPages,
        control: &Handle,
    ) -> Result<Self, AdminError> {
        let failed = |source| AdminError { address, source };
        let listener = open(address, shared).map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let listener = {
            let _in_runtime = control.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };
        log::info!("admin address: http://{local}");
        Ok(Self { local, serving: control.spawn(serve(listener, Arc::new(pages))) })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Opens the socket. `[::]` stands for all addresses of both families, and where the system has no IPv6 for those of IPv4.
fn open(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    or_without_v6(address, |address| open_one(address, shared))
}

fn or_without_v6<T>(address: SocketAddr, open: impl Fn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    let is_any = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    match open(address) {
        Err(error) if is_any && lacks_v6(&error) => {
            open(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
        }
        opened => opened,
    }
}

/// Without IPv6 there is no such family of sockets, or no address of it.
fn lacks_v6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn open_one(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // Whatever the system's default is.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

async fn serve(listener: TcpListener, pages: Arc<AdminPages>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE));
    // The semaphore is never closed, so the loop ends by being aborted only.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = Arc::clone(&pages);
                tokio::spawn(async move {
                    exchange(stream, |path| pages.answer(path)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                log::debug!("accepting on the admin address fails: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl AdminPages {
    fn answer(&self, path: &str) -> Answer {
        match path {
            "/live" => Answer::text(200, "ok"),
            "/ready" => {
                let (ready, text) = (self.ready)();
                Answer::text(if ready { 200 } else { 503 }, &text)
            }
            "/metrics" => match (self.metrics)() {
                Ok(text) => {
                    Answer { status: 200, content_type: "text/plain; version=0.0.4", body: text.into() }
                }
                Err(reason) => Answer::text(500, &reason),
            },
            "/pools" => Answer::json(&(self.reports)()),
            "/version" => Answer::json(&serde_json::json!({ "version": self.version })),
            "/" => Answer::text(200, "/live\n/ready\n/metrics\n/pools\n/version"),
            _ => Answer::text(404, "there are /live, /ready, /metrics, /pools and /version"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::time::timeout;

    use super::*;

    const BOUND: Duration = Duration::from_secs(20);

    fn start(ready: &Arc<AtomicBool>) -> Admin {
        let ready = Arc::clone(ready);
        let pages = AdminPages {
            ready: Box::new(move || {
                let ready = ready.load(Ordering::Relaxed);
                (
                    ready,
                    if ready { "ready: serving version 3" } else { "not ready: no complete state yet" }
                        .into(),
                )
            }),
            metrics: Box::new(|| Ok("understudy_connections 0\n".to_owned())),
            reports: Box::new(Reports::default),
            version: "1.2.3".to_owned(),
        };
        Admin::start("127.0.0.1:0".parse().unwrap(), pages, &Handle::current()).unwrap()
    }

    async fn send(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        timeout(BOUND, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    }

    async fn page(address: SocketAddr, path: &str) -> (String, String) {
        let answer = send(address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        (head.split_whitespace().nth(1).unwrap().to_owned(), body.to_owned())
    }

    #[tokio::test]
    async fn each_page_tells_its_own() {
        let ready = Arc::new(AtomicBool::new(false));
        let admin = start(&ready);
        let address = admin.local_addr();
        let expected = |status: &str, body: &str| (status.to_owned(), format!("{body}\n"));
        assert_eq!(page(address, "/live").await, expected("200", "ok"));
        assert_eq!(page(address, "/ready").await, expected("503", "not ready: no complete state yet"));
        ready.store(true, Ordering::Relaxed);
        assert_eq!(page(address, "/ready?verbose").await, expected("200", "ready: serving version 3"));
        assert_eq!(page(address, "/metrics").await, expected("200", "understudy_connections 0"));
        assert_eq!(page(address, "/version").await, expected("200", r#"{"version":"1.2.3"}"#));
        let (status, pools) = page(address, "/pools").await;
        assert_eq!(status, "200");
        assert_eq!(serde_json::from_str::<Reports>(&pools).unwrap(), Reports::default());
        assert_eq!(page(address, "/nothing").await.0, "404");
    }

    #[tokio::test]
    async fn only_reading_is_allowed_and_nonsense_is_refused() {
        let admin = start(&Arc::default());
        let post =
            send(admin.local_addr(), b"POST /ready HTTP/1.1\r\nHost: x\r\ncontent-length: 0\r\n\r\n").await;
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nallow: GET, HEAD\r\n"), "{post}");
        let nonsense = send(admin.local_addr(), b"\x16\x03\x01 nonsense\r\n\r\n").await;
        assert!(nonsense.starts_with("HTTP/1.1 400 "), "{nonsense}");
        let head = send(admin.local_addr(), b"HEAD /live HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    }

    #[tokio::test]
    async fn an_endless_request_is_refused() {
        let admin = start(&Arc::default());
        let mut stream = TcpStream::connect(admin.local_addr()).await.unwrap();
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nx: ").await;
        // Sending ends with an error once the server has closed; what matters is that it does.
        while timeout(BOUND, stream.write_all(&[b'a'; 1024])).await.unwrap().is_ok() {}
    }

    #[tokio::test]
    async fn silent_connections_do_not_keep_others_out_for_ever() {
        let admin = start(&Arc::default());
        let mut silent = Vec::new();
        for _ in 0..AT_ONCE {
            silent.push(TcpStream::connect(admin.local_addr()).await.unwrap());
        }
        // The next is served when the silent ones have run into their time limit.
        assert_eq!(page(admin.local_addr(), "/live").await.0, "200");
    }

    #[tokio::test]
    async fn all_addresses_are_those_of_both_families() {
        let pages = AdminPages {
            ready: Box::new(|| (true, String::new())),
            metrics: Box::new(|| Ok(String::new())),
            reports: Box::new(Reports::default),
            version: String::new(),
        };
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 0);
        let admin = Admin::start(any, pages, &Handle::current()).unwrap();
        let at = |address: IpAddr| SocketAddr::new(address, admin.local_addr().port());
        assert_eq!(page(at(Ipv4Addr::LOCALHOST.into()), "/live").await.0, "200");
        if admin.local_addr().is_ipv6() {
            assert_eq!(page(at(Ipv6Addr::LOCALHOST.into()), "/live").await.0, "200");
        }
    }

    #[test]
    fn where_there_is_no_ipv6_all_addresses_are_those_of_ipv4() {
        let without_v6 = |address: SocketAddr| match address {
            SocketAddr::V4(_) => Ok(address),
            SocketAddr::V6(_) => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
        };
        let open = |text: &str| or_without_v6(text.parse().unwrap(), without_v6);
        assert_eq!(open("[::]:19000").unwrap(), "0.0.0.0:19000".parse().unwrap());
        assert!(open("[::1]:19000").is_err());
        let taken = |_| Err::<(), _>(io::Error::from(io::ErrorKind::AddrInUse));
        let error = or_without_v6("[::]:19000".parse().unwrap(), taken).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_taken_address_names_the_option() {
        let admin = start(&Arc::default());
        let pages = AdminPages {
            ready: Box::new(|| (true, String::new())),
            metrics: Box::new(|| Ok(String::new())),
            reports: Box::new(Reports::default),
            version: String::new(),
        };
        let error = Admin::start(admin.local_addr(), pages, &Handle::current()).err().unwrap();
        assert!(error.to_string().contains("--admin"), "{error}");
    }

    #[tokio::test]
    async fn dropping_it_closes_the_address() {
        let admin = start(&Arc::default());
        let address = admin.local_addr();
        drop(admin);
        timeout(BOUND, async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
    }
}
