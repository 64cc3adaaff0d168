//! Bytes in both directions, until both ends have said all or nothing moves any more.
//!
//! Each direction has a buffer of its own, and reads on only when that is empty: a slow reader slows its writer, and
//! nothing grows. The end of one direction is passed on as such, and the other goes on (half-close). A side that takes
//! nothing more may have said something before, which still arrives.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Bytes of a direction's buffer.
const BUFFER: usize = 16 * 1024;

/// How a relay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayEnd {
    /// Both sides ended their direction.
    Done,
    /// Nothing moved for too long.
    Idle,
    /// The client's connection broke.
    Client,
    /// The endpoint's connection broke.
    Endpoint,
}

/// What was carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Relayed {
    /// Bytes that the endpoint was given.
    pub(super) received: u64,
    /// Bytes that the client was given.
    pub(super) sent: u64,
    pub(super) end: RelayEnd,
}

/// Time limits of a relay.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelayLimits {
    /// How long nothing may move; `None`: for ever.
    pub(super) idle: Option<Duration>,
    /// A connection that stands for so long has proved its endpoint, even if that says nothing.
    pub(super) proof: Option<Duration>,
}

/// Carries bytes between a client and an endpoint. `ahead` goes to the endpoint first. `proven` is called once, when the
/// endpoint has shown that it serves: by its first byte, or by what [`RelayLimits::proof`] says.
pub(super) async fn relay<C, E>(
    client: &mut C,
    endpoint: &mut E,
    ahead: Vec<u8>,
    limits: RelayLimits,
    mut proven: impl FnMut(),
) -> Relayed
where
    C: AsyncRead + AsyncWrite + Unpin + ?Sized,
    E: AsyncRead + AsyncWrite + Unpin + ?Sized,
{
    let (mut up, mut down) = (Direction::beginning_with(ahead), Direction::beginning_with(Vec::new()));
    let begun = Instant::now();
    let mut proof = limits.proof.map(|proof| begun + proof);
    let mut is_proven = false;
    let mut moved = begun;
    let far = begun + Duration::from_secs(86_400 * 365);
    let mut timer = pin!(sleep_until(far));
    let mut is_first = true;
    // Who takes nothing more.
    let mut broken = None;
    let end = poll_fn(|cx| {
        let before = up.carried + down.carried;
        let up_state = up.poll_carry(cx, client, endpoint);
        let down_state = down.poll_carry(cx, endpoint, client);
        let now = (is_first || up.carried + down.carried != before).then(Instant::now);
        is_first = false;
        moved = now.unwrap_or(moved);
        if !is_proven && down.carried > 0 {
            is_proven = true;
            proof = None;
            proven();
        }
        if matches!(up_state, Poll::Ready(Err(Broken::Writer))) {
            broken.get_or_insert(RelayEnd::Endpoint);
        }
        if matches!(down_state, Poll::Ready(Err(Broken::Writer))) {
            broken.get_or_insert(RelayEnd::Client);
        }
        match (up_state, down_state) {
            (Poll::Ready(Err(Broken::Reader)), _) => {
                return Poll::Ready(broken.unwrap_or(RelayEnd::Client));
            }
            (_, Poll::Ready(Err(Broken::Reader))) => {
                return Poll::Ready(broken.unwrap_or(RelayEnd::Endpoint));
            }
            (Poll::Ready(_), Poll::Ready(_)) => return Poll::Ready(broken.unwrap_or(RelayEnd::Done)),
            _ => {}
        }
        loop {
            let idle = limits.idle.map_or(far, |idle| moved + idle);
            let next = proof.map_or(idle, |proof| proof.min(idle));
            if timer.deadline() > next || timer.is_elapsed() {
                timer.as_mut().reset(next);
            }
            ready!(timer.as_mut().poll(cx));
            // It may have been set before something moved.
            let now = Instant::now();
            if proof.take_if(|proof| *proof <= now).is_some() {
                is_proven = true;
                proven();
            }
            if limits.idle.is_some() && now >= idle {
                return Poll::Ready(RelayEnd::Idle);
            }
            let idle_again = limits.idle.map_or(far, |idle| moved + idle);
            timer.as_mut().reset(proof.map_or(idle_again, |proof| proof.min(idle_again)));
        }
    })
    .await;
    if !is_proven && end == RelayEnd::Done {
        proven();
    }
    Relayed { received: up.carried, sent: down.carried, end }
}

/// Which side of a direction broke.
enum Broken {
    Reader,
    Writer,
}

struct Direction {
    buffer: Vec<u8>,
    /// What was read and not written: `buffer[written..filled]`.
    written: usize,
    filled: usize,
    read_all: bool,
    reader_broke: bool,
    unflushed: bool,
    /// Nothing more is to be done: all was passed on, or the writer takes nothing more.
    done: bool,
    carried: u64,
}

impl Direction {
    fn beginning_with(ahead: Vec<u8>) -> Self {
        let filled = ahead.len();
        Self {
            buffer: ahead,
            written: 0,
            filled,
            read_all: false,
            reader_broke: false,
            unflushed: false,
            done: false,
            carried: 0,
        }
    }

    /// Moves on what can be moved. Ready when all was passed on, its end included.
    fn poll_carry<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Broken>>
    where
        R: AsyncRead + Unpin + ?Sized,
        W: AsyncWrite + Unpin + ?Sized,
    {
        if self.done {
            return Poll::Ready(Ok(()));
        }
        loop {
            while self.written < self.filled {
                let piece = &self.buffer[self.written..self.filled];
                match ready!(Pin::new(&mut *writer).poll_write(cx, piece)) {
                    Ok(count) if count > 0 => {
                        self.written += count;
                        self.carried += count as u64;
                        self.unflushed = true;
                    }
                    _ => return self.writer_broke(),
                }
            }
            if self.reader_broke {
                // What it said before goes first. If that cannot be, the writer broke, too.
                let _ = ready!(Pin::new(&mut *writer).poll_flush(cx));
                return Poll::Ready(Err(Broken::Reader));
            }
            if self.read_all {
                // It ends the direction on the other side, too; what waits there goes first.
                let ended = ready!(Pin::new(&mut *writer).poll_shutdown(cx));
                self.done = true;
                return Poll::Ready(match ended {
                    // It has closed both directions already.
                    Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken::Writer),
                    _ => Ok(()),
                });
            }
            match self.poll_fill(cx, reader) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.reader_broke = true,
                Poll::Pending if self.unflushed => {
                    if ready!(Pin::new(&mut *writer).poll_flush(cx)).is_err() {
                        return self.writer_broke();
                    }
                    self.unflushed = false;
                    return Poll::Pending;
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn writer_broke(&mut self) -> Poll<Result<(), Broken>> {
        self.done = true;
        Poll::Ready(Err(Broken::Writer))
    }

    fn poll_fill<R: AsyncRead + Unpin + ?Sized>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
    ) -> Poll<io::Result<()>> {
        if self.buffer.len() != BUFFER {
            self.buffer = vec![0; BUFFER];
        }
        let mut free = ReadBuf::new(&mut self.buffer);
        match ready!(Pin::new(reader).poll_read(cx, &mut free)) {
            Ok(()) => {
                let count = free.filled().len();
                (self.written, self.filled, self.read_all) = (0, count, count == 0);
            }
            // Many end TLS without saying so.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                (self.written, self.filled, self.read_all) = (0, 0, true);
            }
            Err(error) => return Poll::Ready(Err(error)),
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
#[path = "relay_tests.rs"]
mod tests;
