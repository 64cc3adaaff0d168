//! One listening socket of UDP with the sessions of its clients.
//!
//! Inputs: datagrams of clients. Outputs: each goes to the session of its client's address; a new client gets a session,
//! as long as there is room for one. Nothing waits for a session that is slow: a datagram that finds no room is lost, as
//! the network may lose it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::session::{Listener, Session};
use super::socket::{Client, ListenSocket};
use super::{Shared, WAITING};
use crate::metrics::DatagramLoss;

/// No datagram is longer.
const LONGEST: usize = 65_536;

/// Datagrams that may wait for one session.
const QUEUE: usize = 64;

/// So many datagrams are taken before others have their turn.
const IN_A_ROW: usize = 64;

/// A datagram on its way to its session. It gives back the room that it takes when it is dropped.
pub(super) struct Datagram {
    pub(super) bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// A socket with its sessions.
pub(super) struct Sessions {
    shared: Shared,
    socket: Arc<ListenSocket>,
    bound: SocketAddr,
    stopped: watch::Receiver<bool>,
    open: HashMap<Client, mpsc::Sender<Datagram>>,
    /// They end with this.
    tasks: JoinSet<Client>,
    /// One permit for each byte that may wait.
    waiting: Arc<Semaphore>,
}

impl Sessions {
    pub(super) fn new(
        shared: Shared,
        socket: tokio::net::UdpSocket,
        bound: SocketAddr,
        stopped: watch::Receiver<bool>,
    ) -> Self {
        Self {
            shared,
            socket: Arc::new(ListenSocket::new(socket, bound)),
            bound,
            stopped,
            open: HashMap::new(),
            tasks: JoinSet::new(),
            waiting: Arc::new(Semaphore::new(WAITING)),
        }
    }

    /// Runs until it is dropped.
    pub(super) async fn run(mut self) {
        let mut buffer = vec![0; LONGEST];
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => self.forget(ended),
                ready = self.socket.readable() => match ready {
                    Ok(()) => self.take(&mut buffer),
                    Err(error) => {
                        log::error!("UDP {} cannot be read: {error}", self.bound);
                        return;
                    }
                },
            }
        }
    }

    fn forget(&mut self, ended: Result<Client, tokio::task::JoinError>) {
        match ended {
            // Another one may have begun since.
            Ok(client) => {
                if self.open.get(&client).is_some_and(mpsc::Sender::is_closed) {
                    self.open.remove(&client);
                }
            }
            Err(error) => {
                log::error!("a session on UDP {} ended badly: {error}; all others go on", self.bound);
                self.open.retain(|_, session| !session.is_closed());
            }
        }
    }

    /// Takes what waits in the socket.
    fn take(&mut self, buffer: &mut [u8]) {
        for _ in 0..IN_A_ROW {
            match self.socket.try_receive(buffer) {
                Ok((length, client)) => self.give(client, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // What the network says of an answer to some client.
                Err(error) => log::debug!("UDP {}: {error}", self.bound),
            }
        }
    }

    fn give(&mut self, client: Client, bytes: &[u8]) {
        // One byte more, so that an empty one takes room, too.
        let length = u32::try_from(bytes.len() + 1).unwrap_or(u32::MAX);
        let Ok(room) = Arc::clone(&self.waiting).try_acquire_many_owned(length) else {
            return self.shared.streams.metrics.count_loss(DatagramLoss::Busy);
        };
        let datagram = Datagram { bytes: bytes.to_vec(), _room: room };
        let datagram = match self.open.get(&client) {
            None => datagram,
            Some(session) => match session.try_send(datagram) {
                Ok(()) => return,
                Err(TrySendError::Full(_)) => {
                    return self.shared.streams.metrics.count_loss(DatagramLoss::Busy);
                }
                Err(TrySendError::Closed(datagram)) => datagram,
            },
        };
        if let Err(loss) = self.begin(client, datagram) {
            self.shared.streams.metrics.count_loss(loss);
        }
    }

    fn begin(&mut self, client: Client, first: Datagram) -> Result<(), DatagramLoss> {
        if *self.stopped.borrow() {
            return Err(DatagramLoss::Sessions);
        }
        let Ok(permit) = Arc::clone(&self.shared.permits).try_acquire_owned() else {
            return Err(DatagramLoss::Sessions);
        };
        let streams = &self.shared.streams;
        let way = streams.rule_of_udp(&self.bound).ok_or(DatagramLoss::NoRoute)?;
        let (sender, datagrams) = mpsc::channel(QUEUE);
        // It is empty.
        let _ = sender.try_send(first);
        let listener = Listener { socket: Arc::clone(&self.socket), bound: self.bound };
        let session = Session::new(Arc::clone(streams), way, listener, client);
        let stopped = self.stopped.clone();
        self.tasks.spawn(async move {
            let _counted = permit;
            session.run(datagrams, stopped).await;
            client
        });
        self.open.insert(client, sender);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arc_swap::ArcSwap;
    use tokio::net::UdpSocket;
    use tokio::time::timeout;

    use super::*;
    use crate::access_log::{AccessLog, LogDestination, LogFormat};
    use crate::clock::Clock;
    use crate::l4::Streams;
    use crate::metrics::Metrics;
    use crate::upstream_tls::TlsProber;
    use crate::world::World;

    fn shared(max_sessions: usize) -> Shared {
        let metrics = Arc::new(Metrics::new("1").unwrap());
        let (format, lost) = (LogFormat::default(), metrics.log_dropped.clone());
        let clock = Clock::new();
        let streams = Streams {
            world: Arc::new(ArcSwap::from_pointee(World::empty())),
            clock,
            access_log: Arc::new(AccessLog::open(LogDestination::Off, format, lost).unwrap()),
            metrics,
            tls: TlsProber::new(Arc::default(), Arc::default(), clock),
        };
        let permits = Arc::new(Semaphore::new(max_sessions));
        Shared { streams: Arc::new(streams), permits, max_sessions }
    }

    fn losses(shared: &Shared) -> String {
        let metrics = shared.streams.metrics.encode().unwrap();
        let lost = |line: &&str| line.starts_with("understudy_udp_datagrams_lost") && !line.ends_with(" 0");
        metrics.lines().filter(lost).collect::<Vec<_>>().join("\n")
    }

    async fn until(shared: &Shared, expected: &str) {
        let seen = async {
            while losses(shared) != expected {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(20), seen).await.unwrap_or_else(|_| panic!("{}", losses(shared)));
    }

    #[tokio::test]
    async fn beyond_the_limit_of_sessions_datagrams_are_lost_and_counted() {
        let shared = shared(1);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = shared.permits.clone().acquire_owned().await.unwrap();
        let running = tokio::spawn(Sessions::new(shared.clone(), socket, address, stopped).run());
        client.send_to(b"a", address).await.unwrap();
        until(&shared, "understudy_udp_datagrams_lost_total{reason=\"sessions\"} 1").await;
        drop(other);
        client.send_to(b"b", address).await.unwrap();
        let both = "understudy_udp_datagrams_lost_total{reason=\"no_route\"} 1\n\
                    understudy_udp_datagrams_lost_total{reason=\"sessions\"} 1";
        until(&shared, both).await;
        assert_eq!(shared.permits.available_permits(), 1, "what could not begin takes no room");
        running.abort();
    }
}
