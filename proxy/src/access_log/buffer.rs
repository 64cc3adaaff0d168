//! Lines that wait for their writer: bounded, and cheap to add to.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Bytes that may wait. At 50,000 requests a second this is a third of a second.
pub(super) const MOST: usize = 4 * 1024 * 1024;

/// So many bytes are worth a write at once: each wakes the writer twice.
const BATCH: usize = 256 * 1024;

/// How long lines wait for more of them.
const COLLECT: Duration = Duration::from_millis(100);

/// Whole lines in the order of their coming.
#[derive(Default)]
pub(super) struct Buffer {
    waiting: Mutex<Waiting>,
    /// Something waits, or a batch is full, or the end has come.
    wake: Condvar,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    ended: bool,
}

impl Buffer {
    /// Adds a line. False if there is no room for it.
    pub(super) fn add(&self, line: &[u8]) -> bool {
        let mut waiting = self.waiting.lock();
        let before = waiting.bytes.len();
        let after = before + line.len();
        if after > MOST {
            return false;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        drop(waiting);
        if before == 0 || (before < BATCH && after >= BATCH) {
            self.wake.notify_one();
        }
        true
    }

    /// No line comes after this.
    pub(super) fn end(&self) {
        self.waiting.lock().ended = true;
        self.wake.notify_one();
    }

    /// Waits for lines, then a little for more, and puts them in `batch`, replacing what is there. Returns how many
    /// they are; `None` when all were taken and the end has come.
    pub(super) fn take(&self, batch: &mut Vec<u8>) -> Option<u64> {
        batch.clear();
        let mut waiting = self.waiting.lock();
        while waiting.bytes.is_empty() && !waiting.ended {
            self.wake.wait(&mut waiting);
        }
        if waiting.bytes.is_empty() {
            return None;
        }
        if waiting.bytes.len() < BATCH && !waiting.ended {
            // Woken for a full batch or for the end; it does not matter if for nothing.
            self.wake.wait_for(&mut waiting, COLLECT);
        }
        std::mem::swap(&mut waiting.bytes, batch);
        Some(std::mem::take(&mut waiting.lines))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lines_are_taken_in_their_order_until_the_end() {
        let buffer = Buffer::default();
        assert!(buffer.add(b"one\n") && buffer.add(b"two\n"));
        buffer.end();
        let mut batch = b"old".to_vec();
        assert_eq!(buffer.take(&mut batch), Some(2));
        assert_eq!(batch, b"one\ntwo\n");
        assert_eq!(buffer.take(&mut batch), None);
    }

    #[test]
    fn what_has_no_room_is_refused_and_what_follows_a_take_has_room_again() {
        let buffer = Buffer::default();
        let line = vec![b'x'; MOST / 2];
        assert!(buffer.add(&line) && buffer.add(&line));
        assert!(!buffer.add(b"x"));
        assert_eq!(buffer.take(&mut Vec::new()), Some(2));
        assert!(buffer.add(b"x"));
    }

    #[test]
    fn a_waiting_taker_gets_every_line_of_many_threads() {
        let buffer = Arc::new(Buffer::default());
        let taker = {
            let buffer = buffer.clone();
            std::thread::spawn(move || {
                let (mut batch, mut lines, mut bytes) = (Vec::new(), 0, 0);
                while let Some(count) = buffer.take(&mut batch) {
                    lines += count;
                    bytes += batch.len();
                }
                (lines, bytes)
            })
        };
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5_000).for_each(|_| assert!(buffer.add(&[b'x'; 100]))));
            }
        });
        buffer.end();
        assert_eq!(taker.join().unwrap(), (20_000, 2_000_000));
    }
}
