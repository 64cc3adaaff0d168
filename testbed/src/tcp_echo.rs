//! An endpoint that speaks no HTTP: it says who it is, gives back what it gets, and takes its leave.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// The last line of a connection whose client has said all.
const LEAVE: &[u8] = b"bye\n";

/// How long an address is waited for that the system has not given back yet.
const BIND_BOUND: Duration = Duration::from_secs(10);

/// An endpoint of TCP, or of TLS with anything inside. Each connection gets its name in a line, what it sends, and when
/// its client has ended its direction, `bye` in a line.
pub struct TcpEcho {
    name: Arc<str>,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    connections: Arc<AtomicUsize>,
    accepting: Option<JoinHandle<()>>,
}

impl TcpEcho {
    /// Listens on a port of 127.0.0.1 that the system chooses.
    ///
    /// # Errors
    /// If the system gives no port.
    pub async fn start(name: &str) -> io::Result<Self> {
        Self::start_with(name, None).await
    }

    /// The same; with `tls` connections are encrypted.
    ///
    /// # Errors
    /// If the system gives no port.
    pub async fn start_with(name: &str, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut this = Self {
            name: name.into(),
            address: listener.local_addr()?,
            tls,
            connections: Arc::default(),
            accepting: None,
        };
        this.accept(listener);
        Ok(this)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that it took so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Closes the port and every connection.
    pub async fn kill(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.abort();
            // Aborting is no failure.
            let _ = accepting.await;
        }
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// If the address is taken for long.
    pub async fn revive(&mut self) -> io::Result<()> {
        let started = Instant::now();
        let listener = loop {
            match self.bind() {
                Err(error) if started.elapsed() > BIND_BOUND => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                Ok(listener) => break listener,
            }
        };
        self.accept(listener);
        Ok(())
    }

    fn bind(&self) -> io::Result<TcpListener> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind(self.address)?;
        socket.listen(1024)
    }

    fn accept(&mut self, listener: TcpListener) {
        let (name, tls, connections) = (self.name.clone(), self.tls.clone(), self.connections.clone());
        self.accepting = Some(tokio::spawn(async move {
            // They end with the task.
            let mut serving = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (name, tls) = (name.clone(), tls.clone());
                serving.spawn(async move {
                    // What goes wrong is the client's to see.
                    let _ = match tls {
                        None => echo(stream, &name).await,
                        Some(tls) => match TlsAcceptor::from(tls).accept(stream).await {
                            Ok(stream) => echo(stream, &name).await,
                            Err(error) => Err(error),
                        },
                    };
                });
                while serving.try_join_next().is_some() {}
            }
        }));
    }
}

impl Drop for TcpEcho {
    fn drop(&mut self) {
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

async fn echo(mut stream: impl AsyncRead + AsyncWrite + Unpin, name: &str) -> io::Result<()> {
    stream.write_all(format!("{name}\n").as_bytes()).await?;
    stream.flush().await?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        let piece = if count == 0 { LEAVE } else { &buffer[..count] };
        stream.write_all(piece).await?;
        stream.flush().await?;
        if count == 0 {
            return stream.shutdown().await;
        }
    }
}
