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

use super::session::Session;
use super::socket::{Client, ListenSocket};
use super::{Shared, WAITING};
use crate::l4::pool_of;
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
        let rule = streams.rule_of(|world| world.router.udp(&self.bound), None);
        let rule = rule.and_then(|rule| Some((pool_of(&rule)?.clone(), rule)));
        let (table, rule) = rule.ok_or(DatagramLoss::NoRoute)?;
        let (sender, datagrams) = mpsc::channel(QUEUE);
        // It is empty.
        let _ = sender.try_send(first);
        let session = Session::new(Arc::clone(streams), (rule, table), Arc::clone(&self.socket), client);
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
