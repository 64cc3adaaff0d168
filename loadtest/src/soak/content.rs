//! What an answer must be: every byte follows from the request's number and the pool. Pure.

use std::fmt;

/// The header with the request's number, in requests and answers.
pub(crate) const ID: &str = "x-soak-id";
/// The header with the pool that answers.
pub(crate) const POOL: &str = "x-soak-pool";
/// Before the number in the path.
pub(crate) const PATH: &str = "/test/";

/// Bodies have at least so many bytes, and up to so many more.
const LEAST: usize = 32;
const VARIED: u64 = 1024;

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pool {
    Primary,
    Fallback,
}

impl Pool {
    /// Reads the value of [`POOL`].
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        match text {
            b"primary" => Some(Self::Primary),
            b"fallback" => Some(Self::Fallback),
            _ => None,
        }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Fallback => "fallback",
        })
    }
}

/// Puts the body for a request into `body`, replacing what is there. Lengths differ, so that answers that are mixed
/// up are also framed wrong.
pub(crate) fn body(id: u64, pool: Pool, body: &mut Vec<u8>) {
    let mut word = id.wrapping_mul(2) + u64::from(pool == Pool::Fallback);
    let length = LEAST + (mixed(word) % VARIED) as usize;
    body.clear();
    while body.len() < length {
        word = mixed(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        body.extend_from_slice(&word.to_le_bytes());
    }
    body.truncate(length);
}

/// Two of its inputs that differ in a bit have nothing in common (the finalizer of SplitMix64).
fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A decimal number without sign.
pub(crate) fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_of_different_requests_and_pools_differ() {
        let of = |id, pool| {
            let mut bytes = b"old".to_vec();
            body(id, pool, &mut bytes);
            bytes
        };
        assert_eq!(of(7, Pool::Primary), of(7, Pool::Primary));
        let mut seen = std::collections::BTreeSet::new();
        for id in 0..1000 {
            for pool in [Pool::Primary, Pool::Fallback] {
                let bytes = of(id, pool);
                assert!((LEAST..LEAST + VARIED as usize).contains(&bytes.len()));
                assert!(seen.insert(bytes), "{id} {pool}");
            }
        }
    }

    #[test]
    fn pools_are_read_as_they_are_written() {
        for pool in [Pool::Primary, Pool::Fallback] {
            assert_eq!(Pool::parse(pool.to_string().as_bytes()), Some(pool));
        }
        assert_eq!(Pool::parse(b"other"), None);
        assert_eq!((number(b"12"), number(b"-1"), number(b"")), (Some(12), None, None));
    }
}
