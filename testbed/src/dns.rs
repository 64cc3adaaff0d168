//! A DNS server on UDP whose answers change at run time.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use crate::dns_wire::{Code, Query};

/// The TTL of negative answers, in seconds.
const NEGATIVE_TTL: u32 = 1;
/// The most names whose queries are counted.
const NAMES_LIMIT: usize = 4096;

/// What a [`DnsServer`] says about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsAnswer {
    /// These addresses.
    Addresses {
        /// A records.
        v4: Vec<Ipv4Addr>,
        /// AAAA records.
        v6: Vec<Ipv6Addr>,
        /// Seconds that the answer may be kept.
        ttl: u32,
    },
    /// There is no such name.
    NxDomain,
    /// The name has no records (NOERROR).
    Empty,
    /// The server failed.
    ServFail,
    /// The server refuses.
    Refused,
    /// No reply at all.
    Silent,
}

impl DnsAnswer {
    /// These addresses with a TTL in seconds.
    #[must_use]
    pub fn addresses(addresses: &[IpAddr], ttl: u32) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            match address {
                IpAddr::V4(address) => v4.push(*address),
                IpAddr::V6(address) => v6.push(*address),
            }
        }
        Self::Addresses { v4, v6, ttl }
    }
}

/// A DNS server on a loopback UDP port. A name that nobody set does not exist. Negative answers carry an SOA
/// record that lets them be kept for one second. Dropping it closes the port.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    answers: Arc<Mutex<BTreeMap<String, DnsAnswer>>>,
    queries: watch::Receiver<BTreeMap<String, u64>>,
    task: JoinHandle<()>,
}

impl DnsServer {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the system gives no port.
    pub async fn start() -> io::Result<Self> {
        Self::start_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
    }

    /// Starts a server on this address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_on(address: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(address).await?;
        let address = socket.local_addr()?;
        let answers = Arc::new(Mutex::new(BTreeMap::new()));
        let (counter, queries) = watch::channel(BTreeMap::new());
        let task = tokio::spawn(serve(socket, answers.clone(), counter));
        Ok(Self { address, answers, queries, task })
    }

    /// Where it answers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets what it says about a name from now on.
    pub fn set(&self, name: &str, answer: DnsAnswer) {
        self.answers.lock().insert(normalized(name), answer);
    }

    /// Queries for a name so far, of all record types, answered or not.
    #[must_use]
    pub fn queries(&self, name: &str) -> u64 {
        self.queries.borrow().get(&normalized(name)).copied().unwrap_or_default()
    }

    /// Waits until a name was asked for so many times; false when `within` is over first.
    pub async fn wait_for_queries(&self, name: &str, count: u64, within: Duration) -> bool {
        let name = normalized(name);
        let mut queries = self.queries.clone();
        let enough = queries.wait_for(|all| all.get(&name).is_some_and(|seen| *seen >= count));
        matches!(timeout_at(Instant::now() + within, enough).await, Ok(Ok(_)))
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: UdpSocket,
    answers: Arc<Mutex<BTreeMap<String, DnsAnswer>>>,
    counter: watch::Sender<BTreeMap<String, u64>>,
) {
    let mut buffer = [0; 1500];
    loop {
        // An error here is an ICMP message about an earlier reply.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(query) = Query::parse(&buffer[..length]) else { continue };
        let answer = answers.lock().get(&query.name).cloned();
        counter.send_modify(|all| {
            if all.len() < NAMES_LIMIT || all.contains_key(&query.name) {
                *all.entry(query.name.clone()).or_default() += 1;
            }
        });
        let reply = match answer.unwrap_or(DnsAnswer::NxDomain) {
            DnsAnswer::Addresses { v4, v6, ttl } => query.answer(&v4, &v6, ttl),
            DnsAnswer::NxDomain => query.negative(Code::NxDomain, NEGATIVE_TTL),
            DnsAnswer::Empty => query.negative(Code::NoError, NEGATIVE_TTL),
            DnsAnswer::ServFail => query.failure(Code::ServFail),
            DnsAnswer::Refused => query.failure(Code::Refused),
            DnsAnswer::Silent => continue,
        };
        // Nobody waits for a reply that cannot be sent.
        let _ = socket.send_to(&reply, peer).await;
    }
}

fn normalized(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
