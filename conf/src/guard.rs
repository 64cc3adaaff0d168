//! The target guard: addresses that nobody's Backend may point to.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::GuardName;

/// What no endpoint may be. A state with one is guarded: the proxy then also refuses what is never a backend
/// (loopback, link-local, cloud metadata, its own admin address), whatever stands here. Several add up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Guard {
    /// `guard/cluster`.
    pub name: GuardName,
    /// What is refused beside what always is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<DeniedTargets>,
    /// What is allowed although it always is refused otherwise; what `deny` holds stays refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Network>,
    /// The folder that Unix-domain sockets must be in; without one they are all refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_folder: Option<PathBuf>,
}

/// Targets that are refused for one reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeniedTargets {
    /// What they are, in a few words: `the API server`.
    pub what: String,
    /// Where they are.
    pub networks: Vec<Network>,
    /// Their TCP ports; empty: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<u16>,
}

/// A network, or one address: `10.0.0.0/8`, `2001:db8::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network: write ADDRESS or ADDRESS/BITS, such as 10.0.0.0/8 or fd00::1")]
pub struct NetworkError(String);

impl Network {
    /// The network of the addresses that share the first `prefix` bits with this one; `None` where an address has
    /// fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits_of(address)).then_some(Self { address, prefix })
    }

    /// Whether an address of the same family is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                shares_bits(u32::from(own).into(), u32::from(other).into(), 32, self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => shares_bits(own.into(), other.into(), 128, self.prefix),
            _ => false,
        }
    }

    /// The first address that a machine may have in it, which many clusters give a node itself in the network of its
    /// pods; `None` where it has no room for one.
    #[must_use]
    pub fn first_host(&self) -> Option<IpAddr> {
        if self.prefix >= bits_of(self.address) - 1 {
            return None;
        }
        let host_bits = u32::from(bits_of(self.address) - self.prefix);
        // The sum sets the lowest bit alone, which is free.
        Some(match self.address {
            IpAddr::V4(own) => {
                let kept = u32::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V4(((u32::from(own) & kept) + 1).into())
            }
            IpAddr::V6(own) => {
                let kept = u128::MAX.checked_shl(host_bits).unwrap_or(0);
                IpAddr::V6(((u128::from(own) & kept) + 1).into())
            }
        })
    }

    /// Its address, where it is one address alone.
    #[must_use]
    pub fn single(&self) -> Option<IpAddr> {
        (self.prefix == bits_of(self.address)).then_some(self.address)
    }
}

fn bits_of(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn shares_bits(a: u128, b: u128, bits: u32, prefix: u8) -> bool {
    // A shift by all bits is none in Rust: a prefix of zero bits is shared by all.
    (a ^ b).checked_shr(bits - u32::from(prefix)).unwrap_or(0) == 0
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self { address, prefix: bits_of(address) }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let error = || NetworkError(text.to_owned());
        match text.split_once('/') {
            None => text.parse::<IpAddr>().map(Self::from).map_err(|_| error()),
            Some((address, prefix)) => {
                let address = address.parse().map_err(|_| error())?;
                let prefix = prefix.parse().map_err(|_| error())?;
                Self::new(address, prefix).ok_or_else(error)
            }
        }
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;
    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.single() {
            Some(address) => address.fmt(f),
            None => write!(f, "{}/{}", self.address, self.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_host_of_a_network_comes_after_its_own_address() {
        for (text, first) in [
            ("10.244.3.0/24", Some("10.244.3.1")),
            ("10.244.3.77/24", Some("10.244.3.1")),
            ("0.0.0.0/0", Some("0.0.0.1")),
            ("10.0.0.0/30", Some("10.0.0.1")),
            ("10.0.0.0/31", None),
            ("10.0.0.1", None),
            ("fd00:10:244:1::/64", Some("fd00:10:244:1::1")),
            ("::/0", Some("::1")),
            ("fd00::/127", None),
        ] {
            assert_eq!(network(text).first_host(), first.map(|first| first.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_network_holds_the_addresses_that_share_its_first_bits() {
        for (network_text, inside, outside) in [
            ("127.0.0.0/8", "127.255.0.1", "128.0.0.1"),
            ("169.254.0.0/16", "169.254.169.254", "169.253.169.254"),
            ("10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.0/31", "10.0.0.1", "10.0.0.2"),
            ("fe80::/10", "febf::1", "fec0::1"),
            ("fd00:ec2::/32", "fd00:ec2::254", "fd00:ec3::254"),
            ("::1", "::1", "::2"),
        ] {
            let network = network(network_text);
            assert!(network.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network} {outside}");
        }
        assert!(network("0.0.0.0/0").contains("255.1.2.3".parse().unwrap()));
        assert!(network("::/0").contains("ffff::".parse().unwrap()));
        assert!(!network("::/0").contains("1.2.3.4".parse().unwrap()), "families are apart");
    }

    #[test]
    fn what_is_no_network_is_refused_by_its_text() {
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "10.0.0.0/", "10.0.0.0/-1", "1.2.3.4:80"]
        {
            assert!(bad.parse::<Network>().unwrap_err().to_string().contains(&format!("{bad:?}")));
        }
    }

    proptest! {
        #[test]
        fn a_network_reads_as_it_was_written_and_holds_its_own_address(address: IpAddr, prefix in 0..=128_u8) {
            let prefix = prefix.min(bits_of(address));
            let network = Network::new(address, prefix).unwrap();
            prop_assert_eq!(network.to_string().parse::<Network>().unwrap(), network);
            prop_assert!(network.contains(address));
        }
    }
}
