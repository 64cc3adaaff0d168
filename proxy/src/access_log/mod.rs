//! One line for each request.
//!
//! Purpose: say what happened to each request, at next to no cost for the request. Inputs: [`Record`]s. Outputs:
//! lines on standard output or in a file, a moment later. Requests add their lines to a buffer; a thread of its own
//! writes it ten times a second, or as soon as it is worth a write. Waking it for every line would cost a request
//! as much as all its routing. When it cannot keep up, lines are dropped and counted, and no request ever waits.

mod buffer;
mod record;
mod text;

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;

use buffer::Buffer;
pub use record::{Flag, Flags, LogFormat, PlaceText, Record};

/// How long the end of the process waits for the last lines.
const END_BOUND: Duration = Duration::from_secs(2);

/// Where lines go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LogDestination {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To the end of a file, which is made if it is not there.
    File(PathBuf),
}

/// Why there is no access log.
#[derive(Debug, thiserror::Error)]
pub enum AccessLogError {
    /// The file cannot be opened.
    #[error("the access log {file} cannot be opened: {source}; check that its folder exists and is writable")]
    Open {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("the access log has no thread to write it: {0}")]
    Thread(#[source] io::Error),
}

/// The access log. Dropping it writes what waits.
pub struct AccessLog {
    format: LogFormat,
    dropped: IntCounter,
    writer: Option<Writer>,
}

struct Writer {
    lines: Arc<Buffer>,
    /// The log is shared among threads, and only its end looks here.
    ended: Mutex<Receiver<()>>,
}

thread_local! {
    /// Where a line is put together, before it goes to the others.
    static LINE: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(512));
}

impl AccessLog {
    /// Opens the destination. Lines that are not written are counted in `dropped`.
    ///
    /// # Errors
    /// [`AccessLogError`] if the file cannot be opened.
    pub fn open(
        destination: LogDestination,
        format: LogFormat,
        dropped: IntCounter,
    ) -> Result<Self, AccessLogError> {
        let output: Box<dyn Write + Send> = match destination {
            LogDestination::Off => return Ok(Self { format, dropped, writer: None }),
            LogDestination::Stdout => Box::new(io::stdout()),
            LogDestination::File(file) => {
                let opened = OpenOptions::new().append(true).create(true).open(&file);
                Box::new(opened.map_err(|source| AccessLogError::Open { file, source })?)
            }
        };
        Self::to_output(output, format, dropped)
    }

    fn to_output(
        output: Box<dyn Write + Send>,
        format: LogFormat,
        dropped: IntCounter,
    ) -> Result<Self, AccessLogError> {
        let lines = Arc::new(Buffer::default());
        let (end, ended) = sync_channel(1);
        let (waiting, lost) = (lines.clone(), dropped.clone());
        std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                write_lines(&waiting, output, &lost);
                // Nobody may be waiting for the end.
                let _ = end.try_send(());
            })
            .map_err(AccessLogError::Thread)?;
        Ok(Self { format, dropped, writer: Some(Writer { lines, ended: Mutex::new(ended) }) })
    }

    /// Whether lines are written at all. If not, records need not be made.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.writer.is_some()
    }

    /// Logs a request. It never waits for the writing.
    pub fn log(&self, record: &Record<'_>) {
        let Some(writer) = &self.writer else { return };
        LINE.with_borrow_mut(|line| {
            line.clear();
            record.write(self.format, line);
            if !writer.lines.add(line) {
                self.dropped.inc();
            }
        });
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        let Some(Writer { lines, ended }) = self.writer.take() else { return };
        lines.end();
        if ended.into_inner().recv_timeout(END_BOUND) == Err(RecvTimeoutError::Timeout) {
            log::warn!("the last lines of the access log were not written within {END_BOUND:?}");
        }
    }
}

/// Writes until the log is dropped.
fn write_lines(waiting: &Buffer, mut output: Box<dyn Write + Send>, lost: &IntCounter) {
    let mut complained = false;
    let mut batch = Vec::new();
    while let Some(count) = waiting.take(&mut batch) {
        if let Err(error) = output.write_all(&batch).and_then(|()| output.flush()) {
            lost.inc_by(count);
            if !complained {
                log::error!("the access log cannot be written: {error}");
            }
            complained = true;
        } else {
            complained = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::mpsc::{Sender, channel};

    use super::record::tests::record;
    use super::*;

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "help").unwrap()
    }

    #[test]
    fn lines_stand_in_the_file_when_the_log_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("access.log");
        for _ in 0..2 {
            let destination = LogDestination::File(file.clone());
            let log = AccessLog::open(destination, LogFormat::Json, counter()).unwrap();
            assert!(log.is_on());
            for _ in 0..1000 {
                log.log(&record());
            }
        }
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text.lines().count(), 2000);
        assert!(text.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()));
    }

    #[test]
    fn the_log_is_shared_between_threads() {
        fn is_shared<T: Send + Sync>(_: &T) {}
        let log = AccessLog::to_output(Box::new(Broken), LogFormat::Text, counter()).unwrap();
        is_shared(&log);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| log.log(&record()));
            }
        });
        let dropped = log.dropped.clone();
        drop(log);
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn a_log_that_is_off_costs_nothing() {
        let log = AccessLog::open(LogDestination::Off, LogFormat::Text, counter()).unwrap();
        assert!(!log.is_on());
        log.log(&record());
        assert_eq!(log.dropped.get(), 0);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let file = PathBuf::from("/proc/no/such/folder/access.log");
        let error = AccessLog::open(LogDestination::File(file), LogFormat::Text, counter()).err().unwrap();
        assert!(error.to_string().contains("/proc/no/such/folder/access.log"), "{error}");
    }

    /// An output that waits until it is let go.
    struct Stuck {
        let_go: Arc<Mutex<()>>,
        stuck: Sender<()>,
    }

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.stuck.send(());
            drop(self.let_go.lock());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_are_dropped_and_counted_when_the_writer_is_stuck() {
        let let_go = Arc::new(Mutex::new(()));
        let held = let_go.lock();
        let (stuck, is_stuck) = channel();
        let output = Stuck { let_go: Arc::clone(&let_go), stuck };
        let log = AccessLog::to_output(Box::new(output), LogFormat::Text, counter()).unwrap();
        log.log(&record());
        is_stuck.recv_timeout(Duration::from_secs(20)).unwrap();
        let mut line = Vec::new();
        record().write(LogFormat::Text, &mut line);
        let room = buffer::MOST / line.len();
        for _ in 0..room + 10 {
            log.log(&record());
        }
        assert_eq!(log.dropped.get(), 10);
        drop(held);
    }

    /// An output that fails.
    struct Broken;

    impl Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_could_not_be_written_are_counted() {
        let dropped = counter();
        let log = AccessLog::to_output(Box::new(Broken), LogFormat::Text, dropped.clone()).unwrap();
        log.log(&record());
        drop(log);
        assert_eq!(dropped.get(), 1);
    }
}
