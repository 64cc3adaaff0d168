//! The request's body on its way into a stream.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;

/// One piece at a time, and as much of it as the endpoint takes.
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    piece: Bytes,
    /// No piece comes after this one.
    last: bool,
    /// Everything is sent.
    over: bool,
    /// The endpoint takes no more.
    refused: bool,
}

/// What is to be done with what the client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wants {
    /// The next piece of the body may come.
    Piece,
    /// The body is over: the client can only go away.
    Nothing,
    /// No more of the body can be taken now, or ever.
    Rest,
}

impl Upload {
    /// `over`: the request's headers ended it.
    pub(super) fn new(stream: SendStream<Bytes>, over: bool) -> Self {
        Self { stream, piece: Bytes::new(), last: over, over, refused: false }
    }

    /// A piece to be sent. The one before must be gone.
    pub(super) fn give(&mut self, piece: Bytes, last: bool) {
        self.piece = piece;
        self.last = last;
    }

    /// Whether there is something to send.
    pub(super) fn has_some(&self) -> bool {
        !self.over && !self.refused && (self.last || !self.piece.is_empty())
    }

    /// What is to be read from the client now.
    pub(super) fn wants(&self) -> Wants {
        match () {
            () if self.over => Wants::Nothing,
            () if self.refused || self.has_some() => Wants::Rest,
            () => Wants::Piece,
        }
    }

    /// Sends what the endpoint takes now; waits until it takes something. False if it takes no more at all: then it
    /// has answered, or broken off, and the answer's side tells which.
    pub(super) async fn send(&mut self) -> bool {
        if !self.piece.is_empty() {
            self.stream.reserve_capacity(self.piece.len());
        }
        let room = if self.piece.is_empty() {
            0
        } else {
            match poll_fn(|cx| self.stream.poll_capacity(cx)).await {
                Some(Ok(room)) => room.min(self.piece.len()),
                Some(Err(_)) | None => {
                    self.give_up();
                    return false;
                }
            }
        };
        let piece = self.piece.split_to(room);
        let ends = self.last && self.piece.is_empty();
        if self.stream.send_data(piece, ends).is_err() {
            self.give_up();
            return false;
        }
        self.over = ends;
        true
    }

    fn give_up(&mut self) {
        self.piece = Bytes::new();
        self.refused = true;
    }
}
