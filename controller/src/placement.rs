//! Where the listeners of Gateways are bound, and how clients get there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where listeners are bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenOptions {
    /// The address of Gateways that ask for none in `spec.addresses`; for [`Placement::Local`] alone.
    pub bind: IpAddr,
    /// Added to ports below 1024, which not every user may bind; for [`Placement::Local`] alone. Clients see the port
    /// without it.
    pub port_offset: u16,
    /// How clients get to the listeners.
    pub placement: Placement,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), port_offset: 0, placement: Placement::Local }
    }
}

/// How clients get to the listeners of a Gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// They connect to this machine, on `bind` or the Gateway's addresses.
    Local,
    /// They connect to the Gateway's own Service, which leads to a container port that it alone has.
    Service(Families),
    /// They connect to a node, on the Gateway's own ports: the pod has the node's network.
    Host(Families),
}

/// The two ways into a cluster, as `--gateways` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayMode {
    /// `service`: [`Placement::Service`].
    Service,
    /// `host`: [`Placement::Host`].
    Host,
}

/// A word that is no [`GatewayMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no way to place Gateways: use service or host")]
pub struct GatewayModeError(String);

impl FromStr for GatewayMode {
    type Err = GatewayModeError;

    fn from_str(text: &str) -> Result<Self, GatewayModeError> {
        match text {
            "service" => Ok(Self::Service),
            "host" => Ok(Self::Host),
            other => Err(GatewayModeError(other.to_owned())),
        }
    }
}

impl GatewayMode {
    /// The placement in a pod with these addresses (`status.podIPs`).
    #[must_use]
    pub fn in_pod(self, addresses: &[IpAddr]) -> Placement {
        let families = Families::of(addresses);
        match self {
            Self::Service => Placement::Service(families),
            Self::Host => Placement::Host(families),
        }
    }
}

/// The families of addresses that a pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// The families of these addresses; IPv4 if there are none.
    #[must_use]
    pub fn of(addresses: &[IpAddr]) -> Self {
        let v6 = addresses.iter().any(IpAddr::is_ipv6);
        Self { v4: !v6 || addresses.iter().any(IpAddr::is_ipv4), v6 }
    }

    /// All addresses of each family.
    pub(crate) fn unspecified(self) -> Vec<IpAddr> {
        let v4 = self.v4.then_some(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let v6 = self.v6.then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        v4.into_iter().chain(v6).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_listens_in_the_families_that_it_has() {
        let families = |addresses: &[&str]| {
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            Families::of(&addresses).unspecified().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(families(&[]), ["0.0.0.0"]);
        assert_eq!(families(&["10.0.0.1"]), ["0.0.0.0"]);
        assert_eq!(families(&["fd00::1"]), ["::"]);
        assert_eq!(families(&["10.0.0.1", "fd00::1"]), ["0.0.0.0", "::"]);
    }

    #[test]
    fn the_ways_into_a_cluster_have_names() {
        assert_eq!("host".parse(), Ok(GatewayMode::Host));
        assert_eq!("service".parse::<GatewayMode>().unwrap().in_pod(&[]), GatewayMode::Service.in_pod(&[]));
        let error = "hosts".parse::<GatewayMode>().unwrap_err().to_string();
        assert!(error.contains("service or host"), "{error}");
    }
}
