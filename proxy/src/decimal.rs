//! Numbers and addresses as text: plain pushes of bytes, since every request has some.

use std::fmt::Display;
use std::io::Write as _;
use std::net::IpAddr;

/// A number in decimal.
pub(crate) fn push_number(text: &mut Vec<u8>, mut number: u64) {
    // Most are short.
    if number < 10 {
        return text.push(b'0' + number as u8);
    }
    if let (Ok(tens @ 0..10), ones) = (u8::try_from(number / 10), number % 10) {
        return text.extend_from_slice(&[b'0' + tens, b'0' + ones as u8]);
    }
    // As many digits as a u64 may have.
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    text.extend_from_slice(&digits[at..]);
}

/// An address without a port.
pub(crate) fn push_ip(text: &mut Vec<u8>, ip: IpAddr) {
    let IpAddr::V4(v4) = ip else { return push_shown(text, ip) };
    // Put together where room needs no check: three digits and a dot for each part.
    let mut shown = [b'.'; 16];
    let mut end = 0;
    for part in v4.octets() {
        if part >= 100 {
            shown[end] = b'0' + part / 100;
            end += 1;
        }
        if part >= 10 {
            shown[end] = b'0' + part / 10 % 10;
            end += 1;
        }
        shown[end] = b'0' + part % 10;
        end += 1;
        shown[end] = b'.';
        end += 1;
    }
    text.extend_from_slice(&shown[..end - 1]);
}

/// Anything that can be shown.
pub(crate) fn push_shown(text: &mut Vec<u8>, value: impl Display) {
    // Writing to memory does not fail.
    let _ = write!(text, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut text = Vec::new();
        write(&mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn numbers_and_addresses_are_written_as_they_are_displayed() {
        for value in [0, 7, 9, 10, 99, 100, 4711, u64::MAX] {
            assert_eq!(written(|text| push_number(text, value)), value.to_string());
        }
        for ip in ["192.0.2.255", "0.0.0.0", "10.0.99.100", "255.199.200.109", "2001:db8::1", "::"] {
            assert_eq!(written(|text| push_ip(text, ip.parse().unwrap())), ip);
        }
    }
}
