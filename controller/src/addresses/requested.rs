//! The addresses that a Gateway asks for in `spec.addresses`.
//!
//! One in the range of the cluster's Services becomes the cluster IP of the Gateway's Service, whatever its type; any
//! other is asked of the Service's load balancer. Addresses of a Gateway's Service are never `externalIPs`: whoever may
//! write a Gateway could take any address of the cluster's traffic by them.

use std::net::IpAddr;

use gateway_api::apis::experimental::gateways::Gateway;
use understudy_conf::Network;

use crate::addresses::ServiceType;
use crate::addresses::names::service_name;
use crate::cluster::{Cluster, Object};

/// What the Service of a Gateway is to have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct RequestedAddresses {
    /// As its cluster IP.
    pub(crate) cluster: Option<IpAddr>,
    /// Whether the cluster's ranges say that it can have that.
    pub(crate) cluster_is_sure: bool,
    /// From its load balancer.
    pub(crate) balancer: Option<IpAddr>,
}

/// An entry of `spec.addresses` that its Service cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnusableAddress {
    /// Its place in the list.
    pub(crate) index: usize,
    pub(crate) kind: String,
    pub(crate) value: String,
    pub(crate) why: String,
}

/// The addresses that a Gateway's Service is to get. Entries of type IPAddress without a value leave the choice to the
/// cluster, like no entry.
///
/// # Errors
/// Every entry that cannot be had; none of them acts.
pub(crate) fn requested_addresses(
    cluster: &Cluster,
    gateway: &Object<Gateway>,
    service_type: ServiceType,
) -> Result<RequestedAddresses, Vec<UnusableAddress>> {
    let mut found = RequestedAddresses::default();
    let mut unusable = Vec::new();
    for (index, address) in gateway.value.spec.addresses.iter().flatten().enumerate() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or("");
        let taken = match (kind, value.parse::<IpAddr>()) {
            ("IPAddress", _) if value.is_empty() => Ok(()),
            ("IPAddress", Ok(ip)) => found.take(cluster, gateway, service_type, ip),
            ("IPAddress", Err(_)) => Err("it is no IP address".to_owned()),
            _ => Err("addresses of this type cannot be asked for".to_owned()),
        };
        if let Err(why) = taken {
            unusable.push(UnusableAddress { index, kind: kind.to_owned(), value: value.to_owned(), why });
        }
    }
    if unusable.is_empty() { Ok(found) } else { Err(unusable) }
}

impl RequestedAddresses {
    fn take(
        &mut self,
        cluster: &Cluster,
        gateway: &Object<Gateway>,
        service_type: ServiceType,
        ip: IpAddr,
    ) -> Result<(), String> {
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err("it is no address of one place".to_owned());
        }
        let in_range = is_in_service_range(cluster, ip);
        if in_range == Some(true) && !is_for_services(cluster, ip) {
            return Err(
                "it stands for the whole range of the cluster's Services, so none can have it".to_owned()
            );
        }
        let slot = match (in_range, service_type) {
            (Some(true), _) | (None, ServiceType::ClusterIp) => {
                if let Some(holder) = holder_of(cluster, gateway, ip) {
                    return Err(format!("Service {holder} has it"));
                }
                self.cluster_is_sure = in_range == Some(true);
                &mut self.cluster
            }
            (Some(false), ServiceType::ClusterIp) => {
                return Err(
                    "the cluster has no Services there, and the class's have no load balancer".to_owned()
                );
            }
            (_, ServiceType::LoadBalancer) => &mut self.balancer,
            (_, ServiceType::NodePort) => {
                return Err("a NodePort is reached at the nodes' addresses".to_owned());
            }
        };
        match *slot {
            Some(other) if other != ip => Err(format!("it would be a second address beside {other}")),
            _ => {
                *slot = Some(ip);
                Ok(())
            }
        }
    }
}

/// Whether the cluster gives its Services such addresses; `None` where it does not tell which it gives.
fn is_in_service_range(cluster: &Cluster, ip: IpAddr) -> Option<bool> {
    let mut ranges = service_ranges(cluster).peekable();
    ranges.peek()?;
    Some(ranges.any(|range| range.contains(ip)))
}

/// Whether an address is neither the first of each range that it is in, nor the last of one of IPv4: those are the
/// network's own, and an API server refuses them.
fn is_for_services(cluster: &Cluster, ip: IpAddr) -> bool {
    let (before, after) = match ip {
        IpAddr::V4(ip) => {
            let ip = u32::from(ip);
            let neighbour = |ip: u32| IpAddr::V4(ip.into());
            (neighbour(ip.wrapping_sub(1)), Some(neighbour(ip.wrapping_add(1))))
        }
        IpAddr::V6(ip) => (IpAddr::V6(u128::from(ip).wrapping_sub(1).into()), None),
    };
    service_ranges(cluster)
        .filter(|range| range.contains(ip))
        .any(|range| range.contains(before) && after.is_none_or(|after| range.contains(after)))
}

fn service_ranges(cluster: &Cluster) -> impl Iterator<Item = Network> {
    let ranges = cluster.service_cidrs.values().filter_map(|range| range.value.spec.as_ref()?.cidrs.as_ref());
    ranges.flatten().filter_map(|cidr| cidr.parse::<Network>().ok())
}

/// The Service that has a cluster IP already, other than the Gateway's own.
fn holder_of<'a>(
    cluster: &'a Cluster,
    gateway: &Object<Gateway>,
    ip: IpAddr,
) -> Option<&'a crate::cluster::Key> {
    let own = service_name(&gateway.key.name);
    let has = |text: &String| text.parse::<IpAddr>().is_ok_and(|address| address == ip);
    cluster
        .services
        .values()
        .filter(|service| *service.key.name != *own || service.key.namespace != gateway.key.namespace)
        .find(|service| {
            let spec = service.value.spec.as_ref();
            spec.is_some_and(|spec| spec.cluster_ip.iter().chain(spec.cluster_ips.iter().flatten()).any(has))
        })
        .map(|service| &service.key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::load::{Loader, Settling};

    const RANGE: &str = "
---
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: kubernetes}
spec: {cidrs: [10.96.0.0/16, \"fd00:10::/108\"]}
";

    /// What a Gateway with such `spec.addresses` asks for.
    fn asked(
        addresses: &str,
        more: &str,
        service_type: ServiceType,
    ) -> Result<RequestedAddresses, Vec<(usize, String)>> {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: eg, namespace: default}}
spec:
  gatewayClassName: eg
  addresses: {addresses}
  listeners: [{{name: http, port: 80, protocol: HTTP}}]
{more}"
        );
        let mut loader = Loader::default();
        loader.take_stdin(Ok(text));
        loader.refresh(&[Source::Stdin], Settling::TakeAll);
        let cluster = loader.load().cluster;
        let gateway = cluster.gateways.values().next().unwrap();
        requested_addresses(&cluster, gateway, service_type)
            .map_err(|wrong| wrong.into_iter().map(|wrong| (wrong.index, wrong.why)).collect())
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn an_address_of_the_service_range_is_the_cluster_ip_and_another_is_asked_of_the_load_balancer() {
        let both = "[{value: 203.0.113.9}, {type: IPAddress, value: 10.96.0.9}]";
        let expected = RequestedAddresses {
            cluster: ip("10.96.0.9"),
            cluster_is_sure: true,
            balancer: ip("203.0.113.9"),
        };
        assert_eq!(asked(both, RANGE, ServiceType::LoadBalancer), Ok(expected));
        for kind in [ServiceType::ClusterIp, ServiceType::NodePort] {
            let found = asked("[{value: \"fd00:10::7\"}]", RANGE, kind).unwrap();
            assert_eq!((found.cluster, found.balancer), (ip("fd00:10::7"), None));
            assert_eq!(asked(both, RANGE, kind).unwrap_err()[0].0, 0);
        }
    }

    #[test]
    fn where_the_cluster_tells_no_range_the_type_of_the_service_decides() {
        let one = "[{value: 10.96.0.9}]";
        let of =
            |kind| asked(one, "", kind).map(|found| (found.cluster, found.cluster_is_sure, found.balancer));
        assert_eq!(of(ServiceType::ClusterIp), Ok((ip("10.96.0.9"), false, None)));
        assert_eq!(of(ServiceType::LoadBalancer), Ok((None, false, ip("10.96.0.9"))));
        assert_eq!(of(ServiceType::NodePort).unwrap_err().len(), 1);
    }

    #[test]
    fn an_entry_without_a_value_leaves_the_choice_to_the_cluster() {
        let any = asked("[{type: IPAddress}]", RANGE, ServiceType::NodePort);
        assert_eq!(any, Ok(RequestedAddresses::default()));
    }

    #[test]
    fn an_address_that_another_service_has_cannot_be_had() {
        let service = |name: &str| {
            format!(
                "{RANGE}---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{clusterIP: 10.96.0.9, ports: [{{port: 80}}]}}
"
            )
        };
        let asked = |name| asked("[{value: 10.96.0.9}]", &service(name), ServiceType::LoadBalancer);
        assert_eq!(asked("shop"), Err(vec![(0, "Service default/shop has it".to_owned())]));
        assert!(asked("understudy-eg").is_ok());
    }

    #[test]
    fn every_address_that_cannot_be_had_is_named() {
        for edge in ["10.96.0.0", "10.96.255.255", "\"fd00:10::\""] {
            assert!(asked(&format!("[{{value: {edge}}}]"), RANGE, ServiceType::ClusterIp).is_err(), "{edge}");
        }
        let wrong = "[{value: 10.96.0.9}, {value: 10.96.0.10}, {type: Hostname, value: a.example.com}, \
            {value: 0.0.0.0}, {value: x}, {type: test/x, value: y}, {value: 10.96.0.9}]";
        let unusable = asked(wrong, RANGE, ServiceType::ClusterIp).unwrap_err();
        assert_eq!(unusable.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    }
}
