//! The lines of an answer that does not end.

use std::io;
use std::pin::Pin;

use futures::AsyncBufReadExt as _;
use futures::io::AsyncBufRead;

/// Longest line that is read, in bytes. The API server's own limit for an object is far below.
const MAX_LINE: usize = 32 << 20;
/// A buffer that grew beyond this is not kept.
const KEPT: usize = 1 << 20;

/// Reads line by line.
pub(crate) struct Lines {
    reader: Pin<Box<dyn AsyncBufRead + Send>>,
    line: Vec<u8>,
    is_complete: bool,
}

impl Lines {
    pub(crate) fn new(reader: impl AsyncBufRead + Send + 'static) -> Self {
        Self { reader: Box::pin(reader), line: Vec::new(), is_complete: true }
    }

    /// The next line, without its end; `None` at the end of the answer, where half a line counts for nothing. May be
    /// dropped and called again: nothing that was read is lost.
    pub(crate) async fn next(&mut self) -> io::Result<Option<&[u8]>> {
        if self.is_complete {
            self.line.clear();
            self.line.shrink_to(KEPT);
            self.is_complete = false;
        }
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.unwrap_or(available.len());
            if self.line.len() + taken > MAX_LINE {
                return Err(io::Error::other(format!("a line of more than {MAX_LINE} bytes")));
            }
            self.line.extend_from_slice(&available[..taken]);
            self.reader.consume_unpin(taken + usize::from(end.is_some()));
            if end.is_some() {
                self.is_complete = true;
                return Ok(Some(&self.line));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_one_by_one_and_half_a_line_at_the_end_counts_for_nothing() {
        let reader =
            futures::io::BufReader::with_capacity(3, futures::io::Cursor::new("first\n\nthird\nhalf"));
        let mut lines = Lines::new(reader);
        for expected in ["first", "", "third"] {
            assert_eq!(lines.next().await.unwrap(), Some(expected.as_bytes()));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }
}
