//! A request's body on its way to its mirrors, within bounds per mirror and per thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use crate::service::context::Context;

/// Copies under way at once, per thread.
const UNDER_WAY: usize = 256;
/// Bytes of bodies that wait for their mirrors, per mirror and per thread.
const KEPT: usize = 1024 * 1024;
const KEPT_PER_THREAD: usize = 16 * 1024 * 1024;
/// A piece counts as so many bytes at least.
const LEAST: usize = 256;
/// A smaller piece is copied, so that it does not hold the buffer that it came in.
const SMALL: usize = 4096;
/// How often a mirror that is behind with a body is given its turn before it is given up.
const TURNS: usize = 8;
/// What the mirrors of one thread hold.
#[derive(Debug, Default)]
pub(super) struct Load {
    under_way: AtomicUsize,
    kept: AtomicUsize,
}

impl Load {
    pub(super) fn of_this_thread() -> Arc<Self> {
        thread_local! {
            static LOAD: Arc<Load> = Arc::default();
        }
        LOAD.with(Arc::clone)
    }
}

/// A place among the copies under way.
pub(super) struct Place(Arc<Load>);

impl Place {
    pub(super) fn take(load: Arc<Load>) -> Option<Self> {
        // Only this thread takes and gives, so nothing can come between.
        let free = load.under_way.load(Ordering::Relaxed) < UNDER_WAY;
        free.then(|| {
            load.under_way.fetch_add(1, Ordering::Relaxed);
            Self(load)
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body on its way from the request to a mirror.
#[derive(Debug, Default)]
pub(super) struct Body {
    kept: AtomicUsize,
    /// All of it was handed over.
    pub(super) complete: AtomicBool,
    /// The mirror was too slow for it.
    pub(super) overflowed: AtomicBool,
    /// There will be no more of it, and it is not complete.
    pub(super) cut: Notify,
}

/// A piece of a body; it counts as kept until it is written.
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    body: Arc<Body>,
    load: Arc<Load>,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let cost = self.bytes.len().max(LEAST);
        self.body.kept.fetch_sub(cost, Ordering::Relaxed);
        self.load.kept.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Where the pieces of a request's body go for one mirror.
pub(crate) struct Feed {
    pieces: mpsc::UnboundedSender<Piece>,
    body: Arc<Body>,
    load: Arc<Load>,
}

impl Feed {
    pub(super) fn new(load: Arc<Load>) -> (Self, Receiver) {
        let body = Arc::new(Body::default());
        // Bounded by what its pieces count for.
        let (sender, pieces) = mpsc::unbounded_channel();
        (Self { pieces: sender, body: body.clone(), load }, Receiver { pieces, body })
    }

    /// False if there is no room for the piece, or nobody who wants it.
    fn offer(&self, bytes: &Bytes) -> bool {
        let cost = bytes.len().max(LEAST);
        if self.body.kept.load(Ordering::Relaxed) + cost > KEPT
            || self.load.kept.load(Ordering::Relaxed) + cost > KEPT_PER_THREAD
        {
            return false;
        }
        self.body.kept.fetch_add(cost, Ordering::Relaxed);
        self.load.kept.fetch_add(cost, Ordering::Relaxed);
        let piece = Piece { bytes: bytes.clone(), body: self.body.clone(), load: self.load.clone() };
        self.pieces.send(piece).is_ok()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        if !self.body.complete.load(Ordering::Relaxed) {
            self.body.cut.notify_one();
        }
    }
}

pub(super) struct Receiver {
    pub(super) pieces: mpsc::UnboundedReceiver<Piece>,
    pub(super) body: Arc<Body>,
}

/// Hands a piece of the request's body to its mirrors, each byte once: after a failure the body begins anew.
pub(crate) async fn feed(ctx: &mut Context, bytes: Option<&Bytes>, ended: bool) {
    let start = ctx.attempt.body_bytes;
    let length = bytes.map_or(0, Bytes::len);
    let known = usize::try_from(ctx.mirrored_bytes.saturating_sub(start)).unwrap_or(usize::MAX).min(length);
    if let Some(bytes) = bytes.map(|bytes| bytes.slice(known..)).filter(|bytes| !bytes.is_empty()) {
        ctx.mirrored_bytes = start + length as u64;
        let bytes = if bytes.len() < SMALL { Bytes::copy_from_slice(&bytes) } else { bytes };
        let mut behind: Vec<bool> = ctx.mirrors.iter().map(|feed| !feed.offer(&bytes)).collect();
        // They may not have had their turn yet: the request comes in on the same thread. Nobody waits for one.
        for _ in 0..TURNS {
            if !behind.contains(&true) {
                break;
            }
            tokio::task::yield_now().await;
            for (feed, behind) in ctx.mirrors.iter().zip(&mut behind).filter(|(_, behind)| **behind) {
                *behind = !feed.offer(&bytes);
            }
        }
        let mut behind = behind.into_iter();
        ctx.mirrors.retain(|feed| {
            let given_up = behind.next().unwrap_or(false);
            feed.body.overflowed.store(given_up, Ordering::Relaxed);
            !given_up
        });
    }
    if ended {
        for feed in ctx.mirrors.drain(..) {
            feed.body.complete.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_waits_up_to_the_bound_and_gives_its_room_back() {
        let load = Arc::new(Load::default());
        let (feed, mut receiver) = Feed::new(load.clone());
        let half = Bytes::from(vec![0; KEPT / 2]);
        assert!(feed.offer(&half) && feed.offer(&half));
        assert!(!feed.offer(&Bytes::from_static(b"x")), "full");
        drop(receiver.pieces.recv().await);
        assert!(feed.offer(&half));
        drop(receiver);
        assert!(!feed.offer(&Bytes::new()), "nobody wants it any longer");
        assert_eq!((load.kept.load(Ordering::Relaxed), feed.body.kept.load(Ordering::Relaxed)), (0, 0));
    }

    #[test]
    fn copies_under_way_are_bounded() {
        let load = Arc::new(Load::default());
        let places: Vec<_> = (0..UNDER_WAY).map(|_| Place::take(load.clone()).unwrap()).collect();
        assert!(Place::take(load.clone()).is_none());
        drop(places);
        assert!(Place::take(load).is_some());
    }
}
