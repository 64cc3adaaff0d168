//! Pieces of a readable line, written without the machinery of formatting: each request pays for them.

use std::cell::Cell;
use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// `2023-11-14T22:13:20`
const SECOND_LENGTH: usize = 19;

thread_local! {
    /// The second that was written last on this thread, and its text.
    static LAST_SECOND: Cell<(u64, [u8; SECOND_LENGTH])> = const { Cell::new((u64::MAX, [0; _])) };
}

/// A number in decimal digits.
pub(super) fn push_number(line: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    line.extend_from_slice(&digits[at..]);
}

/// Three decimal digits.
fn push_thousandths(line: &mut Vec<u8>, number: u32) {
    let digit = |unit: u32| b'0' + (number / unit % 10) as u8;
    line.extend_from_slice(&[digit(100), digit(10), digit(1)]);
}

/// Milliseconds, to the microsecond.
pub(super) fn push_millis(line: &mut Vec<u8>, duration: Duration) {
    let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    push_number(line, micros / 1000);
    line.push(b'.');
    push_thousandths(line, (micros % 1000) as u32);
}

/// RFC 3339 in UTC, to the millisecond; `-` for a time that no calendar has.
pub(super) fn push_time(line: &mut Vec<u8>, time: SystemTime) {
    let Ok(since) = time.duration_since(SystemTime::UNIX_EPOCH) else {
        return line.push(b'-');
    };
    let (second, mut text) = LAST_SECOND.get();
    if second != since.as_secs() {
        let Some(of_second) = i64::try_from(since.as_secs()).ok().and_then(second_text) else {
            return line.push(b'-');
        };
        text = of_second;
        LAST_SECOND.set((since.as_secs(), text));
    }
    line.extend_from_slice(&text);
    line.push(b'.');
    push_thousandths(line, since.subsec_millis());
    line.push(b'Z');
}

fn second_text(second: i64) -> Option<[u8; SECOND_LENGTH]> {
    let text = jiff::Timestamp::from_second(second).ok()?.to_string();
    text.as_bytes().get(..SECOND_LENGTH)?.try_into().ok()
}

/// An address with its port.
pub(super) fn push_address(line: &mut Vec<u8>, address: &SocketAddr) {
    let SocketAddr::V4(v4) = address else {
        // Writing to memory does not fail.
        let _ = write!(line, "{address}");
        return;
    };
    for (place, octet) in v4.ip().octets().into_iter().enumerate() {
        if place > 0 {
            line.push(b'.');
        }
        push_number(line, octet.into());
    }
    line.push(b':');
    push_number(line, v4.port().into());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(push: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut line = Vec::new();
        push(&mut line);
        String::from_utf8(line).unwrap()
    }

    proptest! {
        #[test]
        fn numbers_addresses_and_durations_are_written_as_the_library_writes_them(
            number: u64, v4: [u8; 4], v6: [u16; 8], port: u16, micros in 0..u64::MAX / 2
        ) {
            prop_assert_eq!(text(|line| push_number(line, number)), number.to_string());
            for address in [SocketAddr::from((v4, port)), SocketAddr::from((v6, port))] {
                prop_assert_eq!(text(|line| push_address(line, &address)), address.to_string());
            }
            let millis = text(|line| push_millis(line, Duration::from_micros(micros)));
            prop_assert_eq!(millis, format!("{}.{:03}", micros / 1000, micros % 1000));
        }

        #[test]
        fn times_are_written_as_the_library_writes_them(millis in 0..253_402_207_200_000_u64) {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            let expected = format!("{:.3}", jiff::Timestamp::try_from(time).unwrap());
            prop_assert_eq!(text(|line| push_time(line, time)), expected);
        }
    }

    #[test]
    fn times_of_one_second_differ_in_their_milliseconds() {
        let at =
            |millis| text(|line| push_time(line, SystemTime::UNIX_EPOCH + Duration::from_millis(millis)));
        assert_eq!(
            [at(1_000), at(1_042), at(999)].map(|time| time[17..].to_owned()),
            ["01.000Z", "01.042Z", "00.999Z"]
        );
    }

    #[test]
    fn a_time_that_no_calendar_has_is_a_dash() {
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(text(|line| push_time(line, before)), "-");
        let late = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50);
        assert_eq!(text(|line| push_time(line, late)), "-");
    }
}
