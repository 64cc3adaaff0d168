//! The accept loop of one listening socket.
//!
//! It ends by being told so, never by an error. Before it ends it serves what had connected already, because
//! closing the socket would reset those connections.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::ServerApp;
use socket2::SockRef;
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use super::connection::{Accepted, serve};
use super::{Shared, Signs};

/// How long nothing is accepted when the system is out of files or memory.
const PAUSE: Duration = Duration::from_millis(100);

/// The same complaint is logged at most this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// Accepts until the sign to stop; connections get the signs, too.
pub(super) async fn accept_all<A: ServerApp + Send + Sync + 'static>(
    listener: TcpListener,
    bound: SocketAddr,
    shared: Arc<Shared<A>>,
    signs: Signs,
) {
    let mut log = Seldom::default();
    let mut stopping = signs.stop.clone();
    let mut stopped = std::pin::pin!(stopping.wait_for(|stop| *stop));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = &mut stopped => break,
            accepted = listener.accept() => accepted,
        };
        // The socket leaves this runtime, to be registered with its worker's.
        match accepted.and_then(|(socket, peer)| Ok((socket.into_std()?, peer))) {
            Ok((socket, peer)) => tokio::select! {
                biased;
                permit = shared.permit(bound, &mut log) => match permit {
                    Some(permit) => shared.hand_over(socket, peer, bound, permit, &signs),
                    None => break,
                },
                // The limit is reached: who waits is let go.
                _ = &mut stopped => break,
            },
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if log.is_due() {
                    log::error!(
                        "accepting on {bound} fails: {error}; connections wait until that is over (if files \
                         are short: raise `ulimit -n`)"
                    );
                }
                tokio::select! {
                    _ = &mut stopped => break,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
        }
    }
    while let Ok(permit) = Arc::clone(&shared.permits).try_acquire_owned()
        && let Ok((socket, peer)) = SockRef::from(&listener).accept()
        && let Some(peer) = peer.as_socket()
        && socket.set_nonblocking(true).is_ok()
    {
        shared.hand_over(socket.into(), peer, bound, permit, &signs);
    }
}

/// Errors that say something about the connection that was about to be accepted, and nothing about the next.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

impl<A: ServerApp + Send + Sync + 'static> Shared<A> {
    /// Waits until one more connection may be open; `None` never happens while the proxy runs.
    async fn permit(&self, bound: SocketAddr, log: &mut Seldom) -> Option<OwnedSemaphorePermit> {
        match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => Some(permit),
            Err(TryAcquireError::Closed) => None,
            Err(TryAcquireError::NoPermits) => {
                if log.is_due() {
                    log::warn!("the limit of connections is reached; clients of {bound} wait until one ends");
                }
                Arc::clone(&self.permits).acquire_owned().await.ok()
            }
        }
    }

    fn hand_over(
        &self,
        socket: TcpStream,
        peer: SocketAddr,
        bound: SocketAddr,
        permit: OwnedSemaphorePermit,
        signs: &Signs,
    ) {
        let accepted = Accepted { socket, peer, bound, permit };
        self.workers.next().spawn(serve(
            accepted,
            Arc::clone(&self.app),
            Arc::clone(&self.handshakes),
            signs.clone(),
        ));
    }
}

/// Lets one event through in each [`LOG_EVERY`].
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
}

impl Seldom {
    fn is_due(&mut self) -> bool {
        let now = Instant::now();
        let due = self.last.is_none_or(|last| now.duration_since(last) >= LOG_EVERY);
        if due {
            self.last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_same_complaint_is_let_through_once_in_ten_seconds() {
        let mut log = Seldom::default();
        assert!(log.is_due());
        tokio::time::advance(LOG_EVERY - Duration::from_millis(1)).await;
        assert!(!log.is_due());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(log.is_due());
    }

    #[test]
    fn running_out_of_files_pauses_and_a_lost_client_does_not() {
        assert!(is_of_one_connection(&io::Error::from(io::ErrorKind::ConnectionAborted)));
        // EMFILE, ENFILE, ENOBUFS, ENOMEM.
        for code in [24, 23, 105, 12] {
            assert!(!is_of_one_connection(&io::Error::from_raw_os_error(code)));
        }
    }
}
