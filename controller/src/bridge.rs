//! The node as its pods see it: the next hop of a pod's default routes is an address of the node in most networks, and
//! often one that the Node object does not tell.
//!
//! Inputs: the system's tables of routes, in this pod's network. Outputs: addresses.

use std::fs::read_to_string;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The next hops of the default routes; none where the system tells of none.
pub(crate) fn next_hops() -> Vec<IpAddr> {
    let v4 = read_to_string("/proc/net/route").unwrap_or_default();
    let v6 = read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let mut hops: Vec<IpAddr> = v4.lines().filter_map(v4_hop).map(IpAddr::V4).collect();
    hops.extend(v6.lines().filter_map(v6_hop).map(IpAddr::V6));
    hops.sort_unstable();
    hops.dedup();
    hops
}

/// Interface, destination, gateway, and so on; the eighth is the mask. Addresses are numbers as this machine stores them.
fn v4_hop(line: &str) -> Option<Ipv4Addr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| u32::from_str_radix(words.get(index)?, 16).ok();
    let is_default = number(1)? == 0 && number(7)? == 0;
    let hop = Ipv4Addr::from(number(2)?.to_ne_bytes());
    (is_default && !hop.is_unspecified()).then_some(hop)
}

/// Destination and the length of its prefix, source and the length of its prefix, next hop, and so on.
fn v6_hop(line: &str) -> Option<Ipv6Addr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_default = u128::from_str_radix(words.first()?, 16).ok()? == 0 && *words.get(1)? == "00";
    let hop = Ipv6Addr::from(u128::from_str_radix(words.get(4)?, 16).ok()?);
    (is_default && !hop.is_unspecified()).then_some(hop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_hop_of_a_default_route_is_read() {
        let hop = u32::from_ne_bytes([10, 244, 0, 1]);
        let row = |destination: &str, hop: u32, mask: &str| {
            format!("eth0\t{destination}\t{hop:08X}\t0003\t0\t0\t0\t{mask}\t0\t0\t0")
        };
        assert_eq!(v4_hop(&row("00000000", hop, "00000000")), Some(Ipv4Addr::new(10, 244, 0, 1)));
        assert_eq!(v4_hop(&row("0000F40A", hop, "00FFFFFF")), None);
        assert_eq!(v4_hop(&row("00000000", 0, "00000000")), None);
        assert_eq!(v4_hop("Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU"), None);
        let zero = "0".repeat(32);
        let row = |prefix: &str, hop: &str| format!("{zero} {prefix} {zero} 00 {hop} 00000400 1 0 3 eth0");
        let hop = "fd000010024400000000000000000001";
        assert_eq!(v6_hop(&row("00", hop)), Some("fd00:10:244::1".parse().unwrap()));
        assert_eq!(v6_hop(&row("40", hop)), None);
        assert_eq!(v6_hop(&row("00", &zero)), None);
        assert_eq!(v6_hop("x"), None);
    }
}
