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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
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

/// Sessions that a socket may have for each one that is left: of all sessions, one socket may have eight ninths, and the
/// next one so many of the rest.
const SHARE: usize = 8;

/// A datagram on its way to its session. It gives back the room that it takes when it is dropped.
pub(super) struct Datagram {
    pub(super) bytes: Vec<u8>,
    room: OwnedSemaphorePermit,
}

impl Datagram {
    /// Whether it may be kept after it was sent: as long as half of the room is left for those that are not.
    pub(super) fn may_be_kept(&self) -> bool {
        self.room.semaphore().available_permits() >= WAITING / 2
    }
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

    /// Runs until it is told to close. The socket is closed then, unless others have it, too.
    pub(super) async fn run(mut self, mut close: oneshot::Receiver<()>) {
        let mut buffer = vec![0; LONGEST];
        loop {
            tokio::select! {
                biased;
                _ = &mut close => return self.tasks.shutdown().await,
                Some(ended) = self.tasks.join_next() => self.forget(ended),
                ready = self.socket.readable() => match ready {
                    // Being ready costs no budget, and others have none while this runs.
                    Ok(()) => if self.take(&mut buffer) {
                        tokio::task::yield_now().await;
                    },
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

    /// Takes what waits in the socket; whether there may be more.
    fn take(&mut self, buffer: &mut [u8]) -> bool {
        for _ in 0..IN_A_ROW {
            match self.socket.try_receive(buffer) {
                Ok((length, client)) => self.give(client, &buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // What the network says of an answer to some client.
                Err(error) => log::debug!("UDP {}: {error}", self.bound),
            }
        }
        true
    }

    fn give(&mut self, client: Client, bytes: &[u8]) {
        let Some(datagram) = self.hold(bytes) else {
            return self.shared.streams.metrics.count_loss(DatagramLoss::Busy);
        };
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

    /// A datagram, if there is room for it.
    fn hold(&self, bytes: &[u8]) -> Option<Datagram> {
        // One byte more, so that an empty one takes room, too.
        let length = u32::try_from(bytes.len() + 1).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.waiting).try_acquire_many_owned(length).ok()?;
        Some(Datagram { bytes: bytes.to_vec(), room })
    }

    fn begin(&mut self, client: Client, first: Datagram) -> Result<(), DatagramLoss> {
        if *self.stopped.borrow() {
            return Err(DatagramLoss::Sessions);
        }
        // Whoever floods one socket with clients leaves room for those of the others.
        if self.tasks.len() >= SHARE * self.shared.permits.available_permits() {
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
        let (_close, closed) = oneshot::channel();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let other = shared.permits.clone().acquire_owned().await.unwrap();
        let running = tokio::spawn(Sessions::new(shared.clone(), socket, address, stopped).run(closed));
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

    #[tokio::test]
    async fn a_flood_of_datagrams_leaves_others_of_its_thread_their_turn() {
        let shared = shared(1);
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let (_stop, stopped) = watch::channel(false);
        let (_close, closed) = oneshot::channel();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        // They wait in the system.
        for _ in 0..3 * IN_A_ROW {
            client.send_to(b"x", address).unwrap();
        }
        let lost = || losses(&shared).rsplit_once(' ').map_or(0, |(_, count)| count.parse().unwrap());
        let running = tokio::spawn(Sessions::new(shared.clone(), socket, address, stopped).run(closed));
        let first = async {
            while lost() == 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(20), first).await.unwrap();
        assert_eq!(lost(), IN_A_ROW);
        running.abort();
    }

    async fn idle(shared: &Shared) -> Sessions {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        Sessions::new(shared.clone(), socket, address, watch::channel(false).1)
    }

    #[tokio::test]
    async fn what_is_kept_after_it_was_sent_leaves_room_for_what_comes() {
        let sessions = idle(&shared(1)).await;
        let long = vec![0; 64 * 1024];
        let mut kept = Vec::new();
        while let Some(datagram) = sessions.hold(&long).filter(Datagram::may_be_kept) {
            kept.push(datagram);
            assert!(kept.len() * long.len() <= WAITING, "nothing bounds it");
        }
        assert_eq!(kept.len(), WAITING / 2 / long.len() - 1);
        assert!(sessions.hold(&long).is_some());
        kept.clear();
        assert_eq!(sessions.waiting.available_permits(), WAITING);
    }

    #[tokio::test]
    async fn one_socket_leaves_sessions_to_the_others() {
        let shared = shared(9);
        let (mut flooded, mut other) = (idle(&shared).await, idle(&shared).await);
        let client = Client::at(SocketAddr::from(([127, 0, 0, 1], 1)));
        let begin = |sessions: &mut Sessions| {
            let datagram = sessions.hold(b"x").unwrap();
            sessions.begin(client, datagram)
        };
        for _ in 0..8 {
            // It gets as far as to look for a route.
            assert_eq!(begin(&mut flooded), Err(DatagramLoss::NoRoute));
            let permit = shared.permits.clone().try_acquire_owned().unwrap();
            flooded.tasks.spawn(async move {
                let _counted = permit;
                std::future::pending().await
            });
        }
        assert_eq!(begin(&mut flooded), Err(DatagramLoss::Sessions));
        assert_eq!(begin(&mut other), Err(DatagramLoss::NoRoute));
    }

    /// It takes its time to end, and has the socket until then.
    struct Slow(#[expect(dead_code, reason = "it is held")] Arc<ListenSocket>);

    impl Drop for Slow {
        fn drop(&mut self) {
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    #[test]
    fn a_socket_is_closed_when_its_sessions_have_ended() {
        let workers = crate::workers::Workers::start(1).unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let kept = socket.try_clone().unwrap();
        let worker = workers.next();
        let socket = {
            let _in_runtime = worker.enter();
            UdpSocket::from_std(socket).unwrap()
        };
        let (stop, stopped) = watch::channel(false);
        let (close, closed) = oneshot::channel();
        let mut sessions = Sessions::new(shared(1), socket, address, stopped);
        let held = Slow(Arc::clone(&sessions.socket));
        let (began, begun) = oneshot::channel();
        let session = async move {
            let _held = held;
            began.send(()).unwrap();
            std::future::pending().await
        };
        sessions.tasks.spawn_on(session, worker);
        let task = worker.spawn(sessions.run(closed));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(begun).unwrap();
        runtime.block_on(super::super::Bound { stop, close, socket: kept, task }.close());
        std::net::UdpSocket::bind(address).unwrap();
        workers.shut_down();
    }
}
