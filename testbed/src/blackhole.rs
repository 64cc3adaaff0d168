//! A port that swallows connections: its SYNs are dropped, as by a firewall or a dead node.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::Socket;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::backend::bind;

/// How long a connect to a healthy loopback port may take at most.
const HEALTHY_CONNECT: Duration = Duration::from_millis(250);
/// Connects in a row that must hang before the queue counts as full.
const PROOFS: usize = 2;
/// The most connections that are made to fill the queue.
const FILLERS_LIMIT: usize = 64;

/// A listener whose accept queue is full, so that every further connect hangs until its own time-out. Dropping
/// it frees the port: connects are refused then.
#[derive(Debug)]
pub struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _fillers: Vec<TcpStream>,
}

impl Blackhole {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is no port, or the queue cannot be filled.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts one on this address, where nothing may listen. The address of a [`Backend`](crate::Backend) that
    /// was killed will do.
    ///
    /// # Errors
    /// When the address cannot be bound, or the queue cannot be filled.
    pub async fn start_on(address: SocketAddr) -> io::Result<Self> {
        let listener = bind(address)?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().ok_or_else(|| {
            io::Error::new(io::ErrorKind::AddrNotAvailable, "the bound address is no IP address")
        })?;
        let mut fillers = Vec::new();
        let mut proofs = 0;
        while proofs < PROOFS {
            match timeout(HEALTHY_CONNECT, TcpStream::connect(address)).await {
                Ok(connected) => {
                    fillers.push(connected?);
                    proofs = 0;
                }
                Err(_) => proofs += 1,
            }
            if fillers.len() > FILLERS_LIMIT {
                let error = format!("{FILLERS_LIMIT} connections do not fill the accept queue of {address}");
                return Err(io::Error::other(error));
            }
        }
        Ok(Self { address, _listener: listener, _fillers: fillers })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
