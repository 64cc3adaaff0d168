//! What a backend and its connections share: orders in one direction, observations in the other.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use crate::behaviour::Behaviour;
use crate::connection::Connection;
use crate::observed::Observed;
use crate::stream::Stream;

/// What is done with a connection before any byte is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnAccept {
    /// Its requests are served.
    #[default]
    Serve,
    /// It is reset at once.
    Reset,
    /// It is closed at once.
    Close,
    /// It stays open, and nothing is ever read from it.
    Ignore,
}

/// How urgently connections shall end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stop {
    /// Not at all.
    Run,
    /// After the request under way.
    Drain,
    /// At once.
    Kill,
}

/// A connection's view of [`Stop`].
#[derive(Debug, Clone)]
pub(crate) struct StopSignal(watch::Receiver<Stop>);

impl StopSignal {
    /// Waits until the stop is at least that urgent.
    pub(crate) async fn at_least(&mut self, stop: Stop) {
        // Without a sender the backend is gone, and its connections go too.
        let _ = self.0.wait_for(|now| *now >= stop).await;
    }

    /// Whether the stop is at least that urgent.
    pub(crate) fn is_at_least(&self, stop: Stop) -> bool {
        *self.0.borrow() >= stop
    }
}

/// What a backend and its connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    name: String,
    pub(crate) told: Mutex<Told>,
    pub(crate) observed: watch::Sender<Observed>,
    stop: Mutex<watch::Sender<Stop>>,
}

/// What a backend was told to do.
#[derive(Debug, Default)]
pub(crate) struct Told {
    pub(crate) behaviour: Behaviour,
    pub(crate) script: VecDeque<Behaviour>,
    pub(crate) generation: Option<String>,
    pub(crate) on_accept: OnAccept,
    pub(crate) tls: Option<Arc<ServerConfig>>,
}

impl Shared {
    pub(crate) fn new(name: String) -> Self {
        Self {
            name,
            told: Mutex::default(),
            observed: watch::Sender::new(Observed::default()),
            stop: Mutex::new(watch::Sender::new(Stop::Run)),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn generation(&self) -> Option<String> {
        self.told.lock().generation.clone()
    }

    pub(crate) fn next_behaviour(&self) -> Behaviour {
        let mut told = self.told.lock();
        told.script.pop_front().unwrap_or_else(|| told.behaviour.clone())
    }

    pub(crate) fn observe(&self, change: impl FnOnce(&mut Observed)) {
        self.observed.send_modify(change);
    }

    /// Tells the connections that stand to stop; those that come later get a new signal.
    pub(crate) fn stop_connections(&self, stop: Stop) -> watch::Sender<Stop> {
        let old = std::mem::replace(&mut *self.stop.lock(), watch::Sender::new(Stop::Run));
        old.send_replace(stop);
        old
    }

    pub(crate) fn accept(self: &Arc<Self>, stream: Stream) {
        let mut number = 0;
        self.observe(|seen| {
            seen.connections += 1;
            seen.open += 1;
            number = seen.connections;
        });
        let shared = self.clone();
        let (on_accept, tls) = {
            let told = self.told.lock();
            (told.on_accept, told.tls.clone())
        };
        let stop = StopSignal(self.stop.lock().subscribe());
        tokio::spawn(async move {
            let mut held = stop.clone();
            match on_accept {
                OnAccept::Serve => serve(&shared, stream, number, tls, stop).await,
                OnAccept::Reset => reset(stream),
                OnAccept::Close => drop(stream),
                OnAccept::Ignore => {
                    held.at_least(Stop::Drain).await;
                    reset(stream);
                }
            }
            shared.observe(|seen| seen.open -= 1);
            // Only now may who waits for the end of all connections go on.
            drop(held);
        });
    }
}

async fn serve(
    shared: &Shared,
    stream: Stream,
    number: u64,
    tls: Option<Arc<ServerConfig>>,
    mut stop: StopSignal,
) {
    let stream = match tls {
        None => stream,
        Some(config) => {
            let accepted = tokio::select! {
                biased;
                () = stop.at_least(Stop::Drain) => return,
                accepted = TlsAcceptor::from(config).accept(stream) => accepted,
            };
            match accepted {
                Ok(stream) => Stream::Tls(Box::new(stream)),
                Err(_) => return shared.observe(|seen| seen.failed_handshakes += 1),
            }
        }
    };
    Connection::new(stream, number).serve(shared, stop).await;
}

fn reset(stream: Stream) {
    stream.reset_on_close();
    drop(stream);
}
