//! Time limits of attempts that wait for an endpoint.
//!
//! Pingora knows a timeout per read only, so a request's limits are kept here: an attempt is armed with what it waits
//! on, and a sweeper on the same thread ends that when a limit is reached. The attempt then ends with an error, and
//! its guard says why. Request and sweeper run on one thread (see [`crate::workers`]), so nothing is ended after its
//! attempt has let go of it.
//!
//! With HTTP/1.1 a connection carries one request at a time, and the sweeper shuts its socket down. A connection of
//! HTTP/2 carries other requests too: there the sweeper only tells the one whose limit is reached.

use std::cell::OnceCell;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{Shutdown, shutdown};
use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;
use understudy_engine::Instant;

use crate::clock::Clock;

/// Limits are kept to this precision.
const PRECISION: Duration = Duration::from_millis(5);

/// Which limit was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expired {
    /// No headers in time, or the whole request took too long.
    Deadline,
    /// No byte in either direction for too long.
    Idle,
}

/// What is ended when a limit is reached.
enum Target {
    /// A connection that carries this attempt only.
    Socket(RawFd),
    /// One stream of a connection: whoever waits on it is told.
    Stream(Arc<Notify>),
}

impl Target {
    fn end(&self) {
        match self {
            // If the endpoint has closed it meanwhile, the attempt ends anyway.
            Self::Socket(socket) => drop(shutdown(*socket, Shutdown::Both)),
            Self::Stream(told) => told.notify_one(),
        }
    }
}

struct Entry {
    target: Target,
    deadline: Instant,
    /// How long it may be silent; zero: for ever.
    idle: Duration,
    last_byte: Instant,
    expired: Option<Expired>,
}

impl Entry {
    fn next_limit(&self) -> (Instant, Expired) {
        let silent = if self.idle.is_zero() { Instant::NEVER } else { self.last_byte.after(self.idle) };
        if silent < self.deadline { (silent, Expired::Idle) } else { (self.deadline, Expired::Deadline) }
    }
}

/// The armed attempts of one thread.
struct Sweeper {
    entries: Mutex<Slab<Entry>>,
    /// When the next sweep is; an attempt with an earlier limit wakes the sweeper.
    next: Mutex<Instant>,
    wake: Notify,
}

thread_local! {
    static SWEEPER: OnceCell<Arc<Sweeper>> = const { OnceCell::new() };
}

impl Sweeper {
    /// The sweeper of this thread, started at first use on the thread's own runtime.
    fn of_this_thread(clock: Clock) -> Arc<Self> {
        SWEEPER.with(|cell| {
            let start = || {
                let sweeper = Arc::new(Self {
                    entries: Mutex::default(),
                    next: Mutex::new(Instant::NEVER),
                    wake: Notify::new(),
                });
                tokio::spawn(Self::run(sweeper.clone(), clock));
                sweeper
            };
            cell.get_or_init(start).clone()
        })
    }

    async fn run(self: Arc<Self>, clock: Clock) {
        loop {
            let now = clock.now();
            let next = self.sweep(now);
            *self.next.lock() = next;
            let woken = self.wake.notified();
            if next == Instant::NEVER {
                woken.await;
            } else {
                let wait = next.since(now).max(PRECISION);
                // An earlier limit cuts the wait short; otherwise it is over in time.
                let _ = tokio::time::timeout(wait, woken).await;
            }
        }
    }

    /// Ends what is over, and says when the next limit is.
    fn sweep(&self, now: Instant) -> Instant {
        let mut next = Instant::NEVER;
        for (_, entry) in self.entries.lock().iter_mut().filter(|(_, entry)| entry.expired.is_none()) {
            let (limit, which) = entry.next_limit();
            if now < limit {
                next = next.min(limit);
                continue;
            }
            entry.expired = Some(which);
            entry.target.end();
        }
        next
    }

    fn expect_by(&self, limit: Instant) {
        let mut next = self.next.lock();
        if limit < *next {
            *next = limit;
            self.wake.notify_one();
        }
    }
}

/// An armed attempt. Dropping it disarms.
pub(crate) struct Armed {
    sweeper: Arc<Sweeper>,
    key: usize,
}

impl Armed {
    /// Arms the socket of an attempt. No other request may be on it.
    pub(crate) fn new(socket: RawFd, deadline: Instant, idle: Duration, now: Instant, clock: Clock) -> Self {
        Self::with(Target::Socket(socket), deadline, idle, now, clock)
    }

    /// Arms a stream: `told` is notified when a limit is reached.
    pub(crate) fn stream(told: Arc<Notify>, deadline: Instant, idle: Duration, clock: Clock) -> Self {
        Self::with(Target::Stream(told), deadline, idle, clock.now(), clock)
    }

    fn with(target: Target, deadline: Instant, idle: Duration, now: Instant, clock: Clock) -> Self {
        let sweeper = Sweeper::of_this_thread(clock);
        let entry = Entry { target, deadline, idle, last_byte: now, expired: None };
        let limit = entry.next_limit().0;
        let key = sweeper.entries.lock().insert(entry);
        sweeper.expect_by(limit);
        Self { sweeper, key }
    }

    /// Leaves nothing but this deadline: silence is no reason any longer.
    pub(crate) fn keep_until(&self, deadline: Instant) {
        self.change(|entry| (entry.idle, entry.deadline) = (Duration::ZERO, deadline));
    }

    /// A byte went in some direction, and from here on another deadline counts.
    pub(crate) fn touch_until(&self, now: Instant, deadline: Instant) {
        self.change(|entry| (entry.last_byte, entry.deadline) = (now, deadline));
    }

    fn change(&self, change: impl FnOnce(&mut Entry)) {
        let mut entries = self.sweeper.entries.lock();
        let entry = &mut entries[self.key];
        change(entry);
        let deadline = entry.deadline;
        drop(entries);
        self.sweeper.expect_by(deadline);
    }

    /// A byte went in some direction.
    pub(crate) fn touch(&self, now: Instant) {
        self.sweeper.entries.lock()[self.key].last_byte = now;
    }

    /// The limit that ended the attempt, if one did.
    pub(crate) fn expired(&self) -> Option<Expired> {
        self.sweeper.entries.lock()[self.key].expired
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.sweeper.entries.lock().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_read_ends_when_the_deadline_is_reached() {
        let clock = Clock::new();
        let (mut client, _server) = pair().await;
        let limit = clock.now().after(Duration::from_millis(30));
        let armed = Armed::new(client.as_raw_fd(), limit, Duration::ZERO, clock.now(), clock);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(armed.expired(), Some(Expired::Deadline));
        assert!(clock.now() >= limit);
    }

    #[tokio::test]
    async fn silence_ends_an_attempt_and_bytes_keep_it() {
        let clock = Clock::new();
        let (mut client, _server) = pair().await;
        let armed =
            Armed::new(client.as_raw_fd(), Instant::NEVER, Duration::from_millis(60), clock.now(), clock);
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            armed.touch(clock.now());
        }
        assert_eq!(armed.expired(), None);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        assert_eq!(armed.expired(), Some(Expired::Idle));
    }

    #[tokio::test]
    async fn a_disarmed_socket_is_left_alone() {
        let clock = Clock::new();
        let (client, server) = pair().await;
        let soon = clock.now().after(Duration::from_millis(20));
        drop(Armed::new(client.as_raw_fd(), soon, Duration::ZERO, clock.now(), clock));
        let (other, _peer) = pair().await;
        let witness = Armed::new(
            other.as_raw_fd(),
            soon.after(Duration::from_millis(20)),
            Duration::ZERO,
            clock.now(),
            clock,
        );
        while witness.expired().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(client.try_read(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        drop(server);
    }
}
