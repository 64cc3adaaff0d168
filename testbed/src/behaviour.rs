//! What a backend does with a request.

use std::time::Duration;

/// What a backend does with a request. It always reads the whole request first, unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Behaviour {
    /// 200 with a JSON description of the request, as the Gateway API's echo server gives; `.pod` is the
    /// backend's name.
    #[default]
    Echo,
    /// This status, with the description of the request as its body.
    Status(u16),
    /// An answer made to measure.
    Answer(Answer),
    /// 200 with the body of the request as its body.
    RequestBody,
    /// No answer, ever; the connection stays open.
    Hang,
    /// The connection is reset (RST) before any byte of an answer.
    ResetBeforeHeaders,
    /// The connection is closed (FIN) before any byte of an answer.
    CloseBeforeHeaders,
    /// 200, half of the announced body, then a reset.
    ResetMidBody,
    /// 200, half of the announced body, then a close.
    CloseMidBody,
    /// 200, half of the announced body, then silence.
    StallMidBody,
    /// 200 with a body in pieces of so many bytes and a pause before each.
    SlowBody {
        /// Bytes in a piece, at least 1.
        piece: usize,
        /// Time before each piece.
        pause: Duration,
    },
    /// These bytes instead of an answer, then a close.
    Garbage(Vec<u8>),
}

impl Behaviour {
    /// An answer with this body.
    #[must_use]
    pub fn body(body: impl Into<Vec<u8>>) -> Self {
        Self::Answer(Answer::status(200).content(Content::Bytes(body.into())))
    }

    /// A JSON description of the request after a delay.
    #[must_use]
    pub fn delayed(delay: Duration) -> Self {
        Self::Answer(Answer::status(200).delay(delay))
    }
}

impl From<Answer> for Behaviour {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}

/// An answer made to measure. Every answer also carries `x-backend` (the backend's name) and, once one is set,
/// `x-backend-generation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) content: Content,
    pub(crate) delay: Duration,
    pub(crate) interim: Vec<(u16, Vec<(String, String)>)>,
    pub(crate) chunked: bool,
    pub(crate) close: bool,
    pub(crate) early: bool,
    pub(crate) upgrade: bool,
    pub(crate) ending: Ending,
}

impl Answer {
    /// An answer with this status that describes the request in JSON.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            content: Content::Echo,
            delay: Duration::ZERO,
            interim: Vec::new(),
            chunked: false,
            close: false,
            early: false,
            upgrade: false,
            ending: Ending::Whole,
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn content(mut self, content: Content) -> Self {
        self.content = content;
        self
    }

    /// Waits before the answer's first byte.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Sends an informational answer first, such as 100 or 103. Those are not delayed.
    #[must_use]
    pub fn interim(mut self, status: u16, headers: &[(&str, &str)]) -> Self {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        self.interim.push((status, headers));
        self
    }

    /// Sends the body in chunks instead of with its length.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Says `Connection: close`, and closes after the answer.
    #[must_use]
    pub fn close(mut self) -> Self {
        self.close = true;
        self
    }

    /// Answers right after the request's head, without reading its body, and closes.
    #[must_use]
    pub fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Answers a request that asks for an upgrade with 101 instead, and sends back every byte that comes after it.
    #[must_use]
    pub fn upgrade(mut self) -> Self {
        self.upgrade = true;
        self
    }

    /// Sets how the body ends.
    #[must_use]
    pub fn ending(mut self, ending: Ending) -> Self {
        self.ending = ending;
        self
    }
}

/// The body of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// A JSON description of the request.
    Echo,
    /// These bytes.
    Bytes(Vec<u8>),
    /// So many bytes of filling.
    Size(usize),
    /// The body of the request, at most its first 16 MiB.
    RequestBody,
}

/// How the body of an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// As it should.
    Whole,
    /// With a reset after half of it.
    Reset,
    /// With a close after half of it.
    Close,
    /// With silence after half of it.
    Stall,
    /// As it should, but in pieces.
    Slow {
        /// Bytes in a piece, at least 1.
        piece: usize,
        /// Time before each piece.
        pause: Duration,
    },
}
