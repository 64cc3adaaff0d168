//! Writing a readable line: plain pushes of bytes, since a busy proxy writes many of them.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use crate::decimal::{push_ip, push_number, push_shown};

/// `2023-11-14T22:13:20`
const SECOND: usize = 19;

thread_local! {
    /// The second that was written last, with its text: most requests of a second share it.
    static LAST: Cell<(u64, [u8; SECOND])> = const { Cell::new((u64::MAX, [0; SECOND])) };
}

/// A moment with milliseconds in UTC, as in RFC 3339; `-` for one that cannot be written so.
pub(super) fn timestamp(line: &mut Vec<u8>, time: SystemTime) {
    let Some((second, millis)) = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .and_then(|since| Some((text_of(since.as_secs())?, since.subsec_millis())))
    else {
        line.push(b'-');
        return;
    };
    line.extend_from_slice(&second);
    line.push(b'.');
    three_digits(line, millis);
    line.push(b'Z');
}

fn text_of(second: u64) -> Option<[u8; SECOND]> {
    let (last, text) = LAST.get();
    if last == second {
        return Some(text);
    }
    let moment = jiff::Timestamp::from_second(i64::try_from(second).ok()?).ok()?;
    let text = moment.to_string().as_bytes().first_chunk().copied()?;
    LAST.set((second, text));
    Some(text)
}

/// A duration in milliseconds with three decimals.
pub(super) fn millis(line: &mut Vec<u8>, duration: Duration) {
    let micros = duration.as_micros();
    push_number(line, u64::try_from(micros / 1000).unwrap_or(u64::MAX));
    line.push(b'.');
    three_digits(line, (micros % 1000) as u32);
}

fn three_digits(line: &mut Vec<u8>, number: u32) {
    line.extend([number / 100, number / 10 % 10, number % 10].map(|digit| b'0' + digit as u8));
}

/// An address with its port.
pub(super) fn socket(line: &mut Vec<u8>, address: &SocketAddr) {
    if address.is_ipv6() {
        return push_shown(line, address);
    }
    push_ip(line, address.ip());
    line.push(b':');
    push_number(line, address.port().into());
}

/// A text without blanks and quotes as it is; any other one quoted, with all that does not print escaped.
pub(super) fn quoted(line: &mut Vec<u8>, text: &str) {
    // All bytes are looked at, so that it goes many at a time.
    let is_plain = |plain, byte: &u8| plain & byte.is_ascii_graphic() & (*byte != b'"');
    if !text.is_empty() && text.as_bytes().iter().fold(true, is_plain) {
        line.extend_from_slice(text.as_bytes());
    } else {
        push_shown(line, format_args!("{text:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        write(&mut line);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn durations_and_addresses_are_written_as_they_are_displayed() {
        assert_eq!(written(|line| millis(line, Duration::from_micros(1_234_007))), "1234.007");
        assert_eq!(written(|line| millis(line, Duration::ZERO)), "0.000");
        for text in ["192.0.2.255:80", "[2001:db8::1]:8080"] {
            assert_eq!(written(|line| socket(line, &text.parse().unwrap())), text);
        }
    }

    #[test]
    fn moments_are_written_with_their_milliseconds() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        // The second call of a second takes the text of the first.
        for (moment, text) in [
            (at(1_700_000_000_007), "2023-11-14T22:13:20.007Z"),
            (at(1_700_000_000_999), "2023-11-14T22:13:20.999Z"),
            (at(1_700_000_001_000), "2023-11-14T22:13:21.000Z"),
            (at(0), "1970-01-01T00:00:00.000Z"),
            (SystemTime::UNIX_EPOCH - Duration::from_secs(1), "-"),
        ] {
            assert_eq!(written(|line| timestamp(line, moment)), text);
        }
    }
}
