//! Addresses of IPv4 within addresses of IPv6: whoever routes the one may end at the other.

use std::net::{IpAddr, Ipv4Addr};

/// The addresses of IPv4 that an address may stand for; none for one of IPv4 itself.
pub(super) fn v4_in(address: IpAddr) -> Vec<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return Vec::new() };
    let bytes = address.octets();
    let at = |indices: [usize; 4]| Ipv4Addr::from(indices.map(|index| bytes[index]));
    let last = || at([12, 13, 14, 15]);
    match address.segments() {
        // The unspecified address and the loopback one are themselves.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => Vec::new(),
        // Compatible (::a.b.c.d), mapped (::ffff:a.b.c.d), translated (::ffff:0:a.b.c.d).
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0, 0xffff, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => vec![last()],
        // RFC 6052: NAT64 under the prefix that everybody knows.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![last()],
        // RFC 8215: NAT64 under a local prefix of 48, 56, 64 or 96 bits; byte 8 is skipped.
        // Which of them it is nobody can tell, so each reading counts that is an address at all.
        [0x64, 0xff9b, 1, ..] => {
            let mut readings = vec![at([6, 7, 9, 10]), at([7, 9, 10, 11]), at([9, 10, 11, 12]), last()];
            readings.retain(|reading| reading.octets()[0] != 0);
            readings
        }
        // 6to4.
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo: its server, and the client with its bits turned over.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from(!u32::from(last()))],
        // ISATAP.
        [.., 0 | 0x200, 0x5efe, _, _] => vec![last()],
        _ => Vec::new(),
    }
}
