//! What the fuzz target `dns_answer` does with its input.
//!
//! Purpose: take whatever a name server may send. Inputs: any bytes, as several DNS messages one after the other
//! about one name. Outputs: none; it panics where the addresses of the name or the time of the next look-up
//! break a promise.

use std::time::Duration;

use understudy_conf::{Dns, LookupFamily};
use understudy_proxy::resolver::replay;

/// No name is looked up more often, whatever the servers say.
const SHORTEST: Duration = Duration::from_millis(100);
/// A TTL is 32 bits of seconds (RFC 2181, section 8, asks for 31), and up to a twentieth is added.
const LONGEST: Duration = Duration::from_secs(u32::MAX as u64 / 20 * 21 + 1);

/// The first byte chooses the settings; then come messages, each after its length in two bytes as on TCP.
pub fn dns_answer(data: &[u8]) {
    let Some((&settings, mut rest)) = data.split_first() else { return };
    let lookup_family = match settings % 5 {
        0 => LookupFamily::IPv4,
        1 => LookupFamily::IPv6,
        2 => LookupFamily::IPv4Preferred,
        3 => LookupFamily::IPv6Preferred,
        _ => LookupFamily::IPv4AndIPv6,
    };
    let dns = Dns { lookup_family, respect_ttl: settings < 128, ..Dns::default() };
    let mut messages = Vec::new();
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(more.len());
        let (message, more) = more.split_at(length);
        messages.push(message);
        rest = more;
    }
    for (addresses, wait) in replay(&messages, &dns) {
        assert!(addresses.is_sorted_by(|a, b| a < b), "sorted, each once: {addresses:?}");
        let allowed = |family: LookupFamily| dns.lookup_family != family;
        assert!(allowed(LookupFamily::IPv4) || addresses.iter().all(|address| address.is_ipv4()));
        assert!(allowed(LookupFamily::IPv6) || addresses.iter().all(|address| address.is_ipv6()));
        assert!((SHORTEST..=LONGEST).contains(&wait), "{wait:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// The messages of the seeds, in hexadecimal as they are kept.
    fn seeds() -> Vec<Vec<u8>> {
        let text = include_str!("../seeds.hex");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(bytes).collect()
    }

    fn bytes(line: &str) -> Vec<u8> {
        let digits: Vec<u32> = line.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks_exact(2).filter_map(|pair| u8::try_from(pair[0] * 16 + pair[1]).ok()).collect()
    }

    #[test]
    fn the_seeds_are_answers_with_addresses() {
        for seed in seeds() {
            dns_answer(&seed);
        }
        let dns = Dns { lookup_family: LookupFamily::IPv4, ..Dns::default() };
        let first = &seeds()[0][3..];
        let replayed = replay(&[first], &dns);
        assert_eq!(replayed[0].0.as_ref(), [IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2])]);
    }
}
