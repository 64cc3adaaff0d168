//! The log of certificates that were not accepted: a line each, and never a flood.

use std::time::Duration;

use parking_lot::Mutex;
use pingora_error::Error;
use understudy_engine::{Identity, Instant};

use super::failure;

/// Lines in one window at most.
const LINES: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Part of a reason that is shown; it may hold names out of a stranger's certificate.
const REASON_CHARS: usize = 300;

/// Says which endpoints showed a certificate that was not accepted.
#[derive(Debug, Default)]
pub(crate) struct SecurityLog(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Instant>,
    lines: u32,
    left_out: u64,
}

impl SecurityLog {
    /// Logs one, if there is room.
    pub(crate) fn certificate_refused(&self, endpoint: &Identity, error: &Error, now: Instant) {
        let Some(left_out) = self.admit(now) else { return };
        if left_out > 0 {
            log::warn!(target: "understudy::security", "{left_out} certificates more were not accepted");
        }
        let (address, reason) = (&endpoint.address, shown(&failure::reason(error)));
        let name = endpoint.tls.as_ref().map_or("", |tls| &*tls.server_name);
        log::warn!(
            target: "understudy::security",
            "the certificate of {address} is not accepted for {name}: {reason}"
        );
    }

    /// Whether a line may be written now, and how many were left out before it.
    fn admit(&self, now: Instant) -> Option<u64> {
        let mut window = self.0.lock();
        if window.since.is_none_or(|since| now.since(since) >= WINDOW) {
            window.since = Some(now);
            window.lines = 0;
        }
        if window.lines == LINES {
            window.left_out += 1;
            return None;
        }
        window.lines += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

/// One line of bounded length.
fn shown(reason: &str) -> String {
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_and_those_left_out_are_counted() {
        let (log, start) = (SecurityLog::default(), Instant::from_micros(5));
        let admitted: Vec<_> = (0..25).filter_map(|_| log.admit(start)).collect();
        assert_eq!(admitted, [0; 10]);
        assert_eq!(log.admit(start.after(WINDOW - Duration::from_millis(1))), None);
        assert_eq!(log.admit(start.after(WINDOW)), Some(16));
        assert_eq!(log.admit(start.after(WINDOW)), Some(0));
    }

    #[test]
    fn what_a_stranger_wrote_stays_on_one_short_line() {
        let text = shown(&format!("bad\nname\u{1b}[31m{}", "x".repeat(1000)));
        assert_eq!(text.chars().count(), REASON_CHARS);
        assert!(text.starts_with("bad name [31mx"), "{text}");
    }
}
