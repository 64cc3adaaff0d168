//! An endpoint of UDP: it answers each datagram with its name before it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Addresses that are remembered at most.
const REMEMBERED: usize = 10_000;

/// An endpoint of UDP. `ping` is answered with `NAME:ping`.
pub struct UdpEcho {
    name: Arc<str>,
    address: SocketAddr,
    /// Who sent the datagrams, in their order.
    senders: Arc<Mutex<Vec<SocketAddr>>>,
    answering: Option<JoinHandle<()>>,
}

impl UdpEcho {
    /// Listens on a port of 127.0.0.1 that the system chooses.
    ///
    /// # Errors
    /// If the system gives no port.
    pub async fn start(name: &str) -> io::Result<Self> {
        Self::start_at(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Listens at an address.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn start_at(name: &str, address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let address = socket.local_addr()?;
        let mut this = Self { name: name.into(), address, senders: Arc::default(), answering: None };
        this.answer(socket);
        Ok(this)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Who sent the datagrams so far, in their order.
    #[must_use]
    pub fn senders(&self) -> Vec<SocketAddr> {
        self.senders.lock().clone()
    }

    /// Closes the port.
    pub async fn kill(&mut self) {
        if let Some(answering) = self.answering.take() {
            answering.abort();
            // Aborting is no failure.
            let _ = answering.await;
        }
    }

    /// Listens again where it did.
    ///
    /// # Errors
    /// If the address is taken.
    pub async fn revive(&mut self) -> io::Result<()> {
        let socket = UdpSocket::bind(self.address).await?;
        self.answer(socket);
        Ok(())
    }

    fn answer(&mut self, socket: UdpSocket) {
        let (name, senders) = (self.name.clone(), self.senders.clone());
        self.answering = Some(tokio::spawn(async move {
            let mut buffer = vec![0; 65_536];
            loop {
                // An error tells of an answer that nobody took.
                let Ok((length, sender)) = socket.recv_from(&mut buffer).await else { continue };
                {
                    let mut senders = senders.lock();
                    if senders.len() < REMEMBERED {
                        senders.push(sender);
                    }
                }
                let answer = [name.as_bytes(), b":", &buffer[..length]].concat();
                let _ = socket.send_to(&answer, sender).await;
            }
        }));
    }
}

impl Drop for UdpEcho {
    fn drop(&mut self) {
        if let Some(answering) = &self.answering {
            answering.abort();
        }
    }
}
