//! Container ports: each port of a Gateway leads to one that no other Gateway has, and keeps it.
//!
//! Inputs: the ports that Gateways want, and those that stand in their Services. Outputs: the same with the missing
//! ones added. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use gateway_api::apis::experimental::gateways::{Gateway, GatewayListeners};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use understudy_conf::Protocol;

use crate::addresses::names::{GATEWAY_NAME, MANAGED_BY, MANAGER, fnv1a, gateway_label, service_name};
use crate::cluster::{Cluster, Key, Object};
use crate::graph::Graph;

/// The container ports that are given to Gateways. They are the pod's own, so nothing else is in the way; the
/// proxy's admin address and the controller's health are above.
pub(crate) const RANGE: RangeInclusive<u16> = 10_000..=18_999;

/// What ports are of: a number may be a port of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// What a listener's protocol is spoken over.
    pub(crate) fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http | Protocol::Https | Protocol::Tls | Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }

    /// As Services and EndpointSlices write it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// Whether it is the `protocol` of a Service's port, which is TCP where it is left out.
    pub(crate) fn is_of(self, protocol: Option<&str>) -> bool {
        protocol.unwrap_or("TCP") == self.as_str()
    }
}

/// A port that clients use.
pub(crate) type ClientPort = (Transport, u16);

/// Ports of a Gateway's listeners with the container ports that they lead to. No two lead to the same number, be they
/// of one transport or not.
pub(crate) type PortMap = BTreeMap<ClientPort, u16>;

/// The ports of a Gateway's listeners, whether they can be served now or not: a Secret that is missing for a moment must
/// not cost a listener its port.
pub(crate) fn listener_ports(gateway: &Gateway) -> BTreeSet<ClientPort> {
    let port = |listener: &GatewayListeners| {
        let transport = match listener.protocol.as_str() {
            "HTTP" | "HTTPS" | "TLS" | "TCP" => Transport::Tcp,
            "UDP" => Transport::Udp,
            _ => return None,
        };
        Some((transport, u16::try_from(listener.port).ok().filter(|port| *port != 0)?))
    };
    gateway.spec.listeners.iter().filter_map(port).collect()
}

/// Whether a Service was made here, and not by somebody who likes the same name.
pub(crate) fn is_ours(service: &Service) -> bool {
    let labels = service.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|manager| manager == MANAGER)
}

/// The Service by the name of a Gateway's, if somebody else made it.
pub(crate) fn foreign_service(cluster: &Cluster, gateway: &Key) -> Option<Key> {
    let key = Key::new(&gateway.namespace, &service_name(&gateway.name));
    cluster.services.get(&key).filter(|service| !is_ours(&service.value)).map(|service| service.key.clone())
}

/// The container ports that Gateways serve on, as the last graph had it.
///
/// Whoever may write a Gateway's Service can have it name a container port of another Gateway. Of two that record one, it
/// stays with the Gateway that serves there; that one's clients come to it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldPorts(Arc<BTreeMap<u16, Key>>);

impl HeldPorts {
    /// Those of a graph whose Gateways have Services.
    pub(crate) fn of(graph: &Graph) -> Self {
        let listeners = graph.gateways.iter().flat_map(|(key, gateway)| {
            let sockets = gateway.listeners.iter().flat_map(|listener| &listener.bind);
            sockets.map(|socket| (socket.port(), key.clone()))
        });
        Self(Arc::new(listeners.collect()))
    }

    /// What a Gateway records without what another one serves on and `records` too.
    pub(super) fn without_those_of_others(
        &self,
        gateway: &Key,
        mut recorded: PortMap,
        records: impl Fn(&Key) -> PortMap,
    ) -> PortMap {
        recorded.retain(|_, target| {
            self.0.get(target).is_none_or(|holder| {
                holder == gateway || !records(holder).values().any(|of_holder| of_holder == target)
            })
        });
        recorded
    }
}

/// The container ports of a Gateway: those that stand in its Service, but none that another Gateway serves on already.
/// None, if there is no Service, or it is another's.
pub(crate) fn container_ports(cluster: &Cluster, gateway: &Key, held: &HeldPorts) -> PortMap {
    held.without_those_of_others(gateway, recorded_ports(cluster, gateway), |holder| {
        if cluster.gateways.contains_key(holder) { recorded_ports(cluster, holder) } else { PortMap::new() }
    })
}

/// The ports that stand in a Gateway's Service; none, if there is no Service, or it is another's.
pub(super) fn recorded_ports(cluster: &Cluster, gateway: &Key) -> PortMap {
    own_service(cluster, gateway).map(|service| ports_of(&service.value)).unwrap_or_default()
}

/// The Service that was made for a Gateway. One by the same name that was made for another Gateway is not its own.
pub(crate) fn own_service<'a>(cluster: &'a Cluster, gateway: &Key) -> Option<&'a Object<Service>> {
    let key = Key::new(&gateway.namespace, &service_name(&gateway.name));
    let is_its_own = |service: &Service| {
        let label = service.metadata.labels.as_ref().and_then(|labels| labels.get(GATEWAY_NAME));
        label.is_none_or(|label| *label == gateway_label(&gateway.name))
    };
    let service = cluster.services.get(&key).map(AsRef::as_ref);
    service.filter(|service: &&Object<_>| is_ours(&service.value) && is_its_own(&service.value))
}

/// The ports of a Service that lead to a container port of the range.
pub(crate) fn ports_of(service: &Service) -> PortMap {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let pair = |port: &k8s_openapi::api::core::v1::ServicePort| {
        let Some(IntOrString::Int(target)) = port.target_port else { return None };
        let target = u16::try_from(target).ok().filter(|target| RANGE.contains(target))?;
        let transports = [Transport::Tcp, Transport::Udp].into_iter();
        let transport = transports.into_iter().find(|transport| transport.is_of(port.protocol.as_deref()))?;
        Some(((transport, u16::try_from(port.port).ok()?), target))
    };
    ports.iter().filter_map(pair).collect()
}

/// What a Gateway wants, and what it has.
#[derive(Debug)]
pub(crate) struct Claim<'a> {
    pub(crate) gateway: &'a Key,
    pub(crate) wanted: BTreeSet<ClientPort>,
    pub(crate) recorded: PortMap,
}

/// Gives every wanted port a container port. Claims come by seniority: of two that have the same one, the first keeps
/// it. What stands in `reserved` is given to nobody as long as others are left: whoever may write Services can have
/// anything stand there. A port is left out when there is none left for it.
///
/// New ones are looked for from a place that depends on the Gateway's name and the port alone. So a Service that
/// somebody deleted comes back as it was, and a port that a Gateway gave up is seldom another's a moment later,
/// when some node may still lead clients to it.
pub(crate) fn allocate(claims: &[Claim<'_>], reserved: &BTreeSet<u16>) -> BTreeMap<Key, PortMap> {
    let mut taken = BTreeSet::new();
    let mut given: BTreeMap<Key, PortMap> = BTreeMap::new();
    for claim in claims {
        let kept = given.entry(claim.gateway.clone()).or_default();
        for (port, target) in &claim.recorded {
            if claim.wanted.contains(port) && RANGE.contains(target) && taken.insert(*target) {
                kept.insert(*port, *target);
            }
        }
    }
    for claim in claims {
        let ports = given.entry(claim.gateway.clone()).or_default();
        for port in &claim.wanted {
            if !ports.contains_key(port)
                && let Some(target) =
                    free_port(claim.gateway, *port, |port| taken.contains(port) || reserved.contains(port))
                        .or_else(|| free_port(claim.gateway, *port, |port| taken.contains(port)))
            {
                taken.insert(target);
                ports.insert(*port, target);
            }
        }
    }
    given
}

fn free_port(gateway: &Key, port: ClientPort, is_taken: impl Fn(&u16) -> bool) -> Option<u16> {
    let size = u64::from(RANGE.end() - RANGE.start()) + 1;
    let name = match port {
        (Transport::Tcp, port) => format!("{gateway}:{port}"),
        (Transport::Udp, port) => format!("{gateway}:udp:{port}"),
    };
    let begin = fnv1a(name.as_bytes()) % size;
    // Each sum stays below the range's end, so the conversion cannot fail.
    let candidate = |step: u64| Some(RANGE.start() + u16::try_from((begin + step) % size).ok()?);
    (0..size).filter_map(candidate).find(|candidate| !is_taken(candidate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims<'a>(
        gateways: &'a [(Key, BTreeSet<ClientPort>)],
        recorded: &BTreeMap<Key, PortMap>,
    ) -> Vec<Claim<'a>> {
        let claim = |(gateway, wanted): &'a (Key, BTreeSet<ClientPort>)| Claim {
            gateway,
            wanted: wanted.clone(),
            recorded: recorded.get(gateway).cloned().unwrap_or_default(),
        };
        gateways.iter().map(claim).collect()
    }

    fn tcp(port: u16) -> ClientPort {
        (Transport::Tcp, port)
    }

    fn gateways(count: usize, ports: &[u16]) -> Vec<(Key, BTreeSet<ClientPort>)> {
        let ports: BTreeSet<_> = ports.iter().copied().map(tcp).collect();
        (0..count).map(|n| (Key::new("default", &format!("g{n}")), ports.clone())).collect()
    }

    fn targets(given: &BTreeMap<Key, PortMap>) -> Vec<u16> {
        given.values().flat_map(|ports| ports.values().copied()).collect()
    }

    #[test]
    fn three_thousand_gateways_have_container_ports_of_their_own() {
        let gateways = gateways(3000, &[80, 443]);
        let given = allocate(&claims(&gateways, &BTreeMap::new()), &BTreeSet::new());
        let targets = targets(&given);
        assert_eq!(targets.len(), 6000);
        assert_eq!(targets.iter().collect::<BTreeSet<_>>().len(), 6000);
        assert!(targets.iter().all(|target| RANGE.contains(target)));
    }

    #[test]
    fn what_two_gateways_have_stays_with_the_senior_one() {
        let gateways = gateways(2, &[80]);
        let both =
            gateways.iter().map(|(key, _)| (key.clone(), PortMap::from([(tcp(80), 12_345)]))).collect();
        let given = allocate(&claims(&gateways, &both), &BTreeSet::new());
        assert_eq!(given[&gateways[0].0][&tcp(80)], 12_345);
        assert_ne!(given[&gateways[1].0][&tcp(80)], 12_345);
    }

    #[test]
    fn ports_outside_of_the_range_are_not_kept() {
        let gateways = gateways(1, &[80]);
        let recorded = BTreeMap::from([(gateways[0].0.clone(), PortMap::from([(tcp(80), 19_000)]))]);
        let given = allocate(&claims(&gateways, &recorded), &BTreeSet::new());
        assert!(RANGE.contains(&given[&gateways[0].0][&tcp(80)]));
    }

    #[test]
    fn a_range_that_is_used_up_leaves_the_rest_without() {
        let ports: Vec<u16> = (1..=4501).collect();
        let gateways = gateways(2, &ports);
        let given = allocate(&claims(&gateways, &BTreeMap::new()), &BTreeSet::new());
        assert_eq!(targets(&given).len(), RANGE.len());
    }

    #[test]
    fn what_is_reserved_is_avoided_and_cannot_use_up_the_range() {
        let gateways = gateways(2, &[80, 443]);
        let reserved: BTreeSet<u16> = RANGE.skip(3).collect();
        let given = allocate(&claims(&gateways, &BTreeMap::new()), &reserved);
        let given: BTreeSet<u16> = targets(&given).into_iter().collect();
        assert_eq!(given.len(), 4);
        assert!((10_000..=10_002).all(|free| given.contains(&free)), "{given:?}");
    }

    #[test]
    fn a_port_that_another_gateway_serves_and_records_is_not_to_be_had() {
        let (holder, other) = (Key::new("default", "holder"), Key::new("default", "other"));
        let held = HeldPorts(Arc::new(BTreeMap::from([(12_345, holder.clone())])));
        let both = || PortMap::from([(tcp(80), 12_345), (tcp(81), 12_346)]);
        let records = |key: &Key| if *key == holder { both() } else { PortMap::new() };
        assert_eq!(held.without_those_of_others(&other, both(), records), PortMap::from([(tcp(81), 12_346)]));
        assert_eq!(held.without_those_of_others(&holder, both(), records), both());
        // The holder gave it up.
        assert_eq!(held.without_those_of_others(&other, both(), |_| PortMap::new()), both());
    }

    proptest! {
        #[test]
        fn gateways_that_come_and_go_never_move_the_ports_of_those_that_stay(
            steps in prop::collection::vec(prop::collection::btree_set((0..12_usize, 1..6_u16, any::<bool>()), 0..20), 1..8),
        ) {
            let mut recorded: BTreeMap<Key, PortMap> = BTreeMap::new();
            for step in steps {
                let mut wanted: BTreeMap<Key, BTreeSet<ClientPort>> = BTreeMap::new();
                for (gateway, port, is_udp) in step {
                    let port = (if is_udp { Transport::Udp } else { Transport::Tcp }, port);
                    wanted.entry(Key::new("default", &format!("g{gateway}"))).or_default().insert(port);
                }
                let wanted: Vec<_> = wanted.into_iter().collect();
                let given = allocate(&claims(&wanted, &recorded), &BTreeSet::new());
                let all = targets(&given);
                prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
                for (gateway, ports) in &wanted {
                    for port in ports {
                        let now = given[gateway][port];
                        let before = recorded.get(gateway).and_then(|ports| ports.get(port));
                        prop_assert!(before.is_none_or(|before| *before == now));
                    }
                }
                recorded = given;
            }
        }
    }
}
