//! The address that a Gateway asks for in `spec.addresses`.

use std::net::IpAddr;

use gateway_api::apis::experimental::gateways::Gateway;

use crate::addresses::ServiceType;

/// An entry of `spec.addresses` that its Service cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnusableAddress {
    /// Its place in the list.
    pub(crate) index: usize,
    pub(crate) kind: String,
    pub(crate) value: String,
    pub(crate) why: &'static str,
}

/// The address that a Gateway's Service is to get: as its cluster IP, or from its load balancer. Entries of type
/// IPAddress without a value leave the choice to the cluster, like no entry.
///
/// # Errors
/// Every entry that cannot be had; none of them acts.
pub(crate) fn requested_address(
    gateway: &Gateway,
    service_type: ServiceType,
) -> Result<Option<IpAddr>, Vec<UnusableAddress>> {
    let mut found = None;
    let mut unusable = Vec::new();
    for (index, address) in gateway.spec.addresses.iter().flatten().enumerate() {
        let kind = address.r#type.as_deref().unwrap_or("IPAddress");
        let value = address.value.as_deref().unwrap_or("");
        let why = match (kind, value.parse::<IpAddr>()) {
            ("IPAddress", _) if value.is_empty() => continue,
            ("IPAddress", Ok(_)) if service_type == ServiceType::NodePort => {
                "a NodePort is reached at the nodes' addresses"
            }
            ("IPAddress", Ok(ip)) if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() => {
                "it is no address of one place"
            }
            ("IPAddress", Ok(_)) if found.is_some() => "a Service gets one address",
            ("IPAddress", Ok(ip)) => {
                found = Some(ip);
                continue;
            }
            ("IPAddress", Err(_)) => "it is no IP address",
            _ => "addresses of this type cannot be asked for",
        };
        unusable.push(UnusableAddress { index, kind: kind.to_owned(), value: value.to_owned(), why });
    }
    if unusable.is_empty() { Ok(found) } else { Err(unusable) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gateway(addresses: serde_json::Value) -> Gateway {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "eg"},
            "spec": {"gatewayClassName": "eg", "listeners": [], "addresses": addresses}
        }))
        .unwrap()
    }

    #[test]
    fn one_ip_address_can_be_asked_for_where_a_service_has_one() {
        let one = gateway(serde_json::json!([{"value": "10.96.0.9"}]));
        let ip = Some("10.96.0.9".parse().unwrap());
        assert_eq!(requested_address(&one, ServiceType::ClusterIp), Ok(ip));
        assert_eq!(requested_address(&one, ServiceType::LoadBalancer), Ok(ip));
        assert_eq!(requested_address(&one, ServiceType::NodePort).unwrap_err().len(), 1);
        let any = gateway(serde_json::json!([{"type": "IPAddress"}]));
        assert_eq!(requested_address(&any, ServiceType::NodePort), Ok(None));
    }

    #[test]
    fn every_address_that_cannot_be_had_is_named() {
        let wrong = gateway(serde_json::json!([
            {"value": "10.96.0.9"}, {"value": "10.96.0.10"}, {"type": "Hostname", "value": "a.example.com"},
            {"value": "0.0.0.0"}, {"value": "x"}
        ]));
        let unusable = requested_address(&wrong, ServiceType::ClusterIp).unwrap_err();
        assert_eq!(unusable.iter().map(|wrong| wrong.index).collect::<Vec<_>>(), [1, 2, 3, 4]);
    }
}
