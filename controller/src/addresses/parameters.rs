//! Parameters of a GatewayClass, and of one Gateway: which type of Service it gets, and which addresses its status shows.

use std::collections::BTreeMap;

use gateway_api::apis::experimental::gatewayclasses::GatewayClass;
use gateway_api::apis::experimental::gateways::Gateway;

use crate::cluster::{Cluster, Key, Object};
use crate::diagnostics::{Diagnostic, Place, reasons};

/// How a Gateway's Service is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceType {
    LoadBalancer,
    NodePort,
    ClusterIp,
}

impl ServiceType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIp => "ClusterIP",
        }
    }
}

/// Which addresses a status shows where nothing assigned one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusAddresses {
    /// Those of the Service.
    Service,
    /// Those of the nodes.
    Nodes,
}

/// What the ConfigMap of a GatewayClass says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ClassParameters {
    pub(crate) service_type: ServiceType,
    /// Whether nodes lead clients to their own pod alone, which keeps the clients' addresses.
    pub(crate) local_traffic: bool,
    pub(crate) addresses: StatusAddresses,
}

impl Default for ClassParameters {
    fn default() -> Self {
        Self {
            service_type: ServiceType::LoadBalancer,
            local_traffic: false,
            addresses: StatusAddresses::Service,
        }
    }
}

/// Follows the `parametersRef` of a class of ours; without one, the defaults.
///
/// # Errors
/// What is wrong. What stands in the cluster for Gateways of such a class is left alone: a ConfigMap that is gone for a
/// moment must not turn a LoadBalancer into something else.
pub(crate) fn resolve_parameters(
    cluster: &Cluster,
    class: &Object<GatewayClass>,
) -> Result<ClassParameters, Box<Diagnostic>> {
    let Some(reference) = &class.value.spec.parameters_ref else { return Ok(ClassParameters::default()) };
    let at = |field: &str| class.at(&format!("spec.parametersRef{field}"));
    if (reference.group.as_str(), reference.kind.as_str()) != ("", "ConfigMap") {
        let what = format!("{}/{}", reference.group, reference.kind);
        return Err(reasons::invalid_parameters_kind(&at(".kind"), &what, OF_CLASS).into());
    }
    let Some(namespace) = &reference.namespace else {
        return Err(reasons::parameters_without_namespace(&at("")).into());
    };
    let key = Key::new(namespace, &reference.name);
    resolve_config_map(cluster, &key, ClassParameters::default(), &at(".name"), OF_CLASS)
}

/// Follows the `infrastructure.parametersRef` of a Gateway, whose entries go before those of its class.
///
/// # Errors
/// What is wrong. The Gateway's Service is left alone then.
pub(crate) fn resolve_gateway_parameters(
    cluster: &Cluster,
    gateway: &Object<Gateway>,
    of_class: ClassParameters,
) -> Result<ClassParameters, Box<Diagnostic>> {
    let infrastructure = gateway.value.spec.infrastructure.as_ref();
    let Some(reference) = infrastructure.and_then(|found| found.parameters_ref.as_ref()) else {
        return Ok(of_class);
    };
    let at = |field: &str| gateway.at(&format!("{GATEWAY_PARAMETERS}{field}"));
    if (reference.group.as_str(), reference.kind.as_str()) != ("", "ConfigMap") {
        let what = format!("{}/{}", reference.group, reference.kind);
        return Err(reasons::invalid_parameters_kind(&at(".kind"), &what, OF_GATEWAY).into());
    }
    let key = Key::new(&gateway.key.namespace, &reference.name);
    resolve_config_map(cluster, &key, of_class, &at(".name"), OF_GATEWAY)
}

/// What stays as it is where a reference to parameters leads nowhere.
const OF_CLASS: &str = "the Services of the class's Gateways are left alone";
const OF_GATEWAY: &str = "the Gateway's Service is left alone";
/// Where a Gateway refers to parameters of its own.
pub(crate) const GATEWAY_PARAMETERS: &str = "spec.infrastructure.parametersRef";

fn resolve_config_map(
    cluster: &Cluster,
    key: &Key,
    base: ClassParameters,
    place: &Place,
    left_alone: &str,
) -> Result<ClassParameters, Box<Diagnostic>> {
    let Some(config) = cluster.config_maps.get(key) else {
        return Err(reasons::missing_parameters(place, key, left_alone).into());
    };
    let data = config.value.data.clone().unwrap_or_default();
    read_parameters(base, &data)
        .map_err(|wrong| reasons::wrong_parameter(place, key, &wrong, left_alone).into())
}

/// What is wrong with an entry.
pub(crate) struct WrongParameter {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) allowed: &'static str,
}

fn read_parameters(
    base: ClassParameters,
    data: &BTreeMap<String, String>,
) -> Result<ClassParameters, WrongParameter> {
    let mut parameters = base;
    for (key, value) in data {
        let allowed = match (key.as_str(), value.trim()) {
            ("serviceType", "LoadBalancer") => {
                parameters.service_type = ServiceType::LoadBalancer;
                continue;
            }
            ("serviceType", "NodePort") => {
                parameters.service_type = ServiceType::NodePort;
                continue;
            }
            ("serviceType", "ClusterIP") => {
                parameters.service_type = ServiceType::ClusterIp;
                continue;
            }
            ("externalTrafficPolicy", policy @ ("Cluster" | "Local")) => {
                parameters.local_traffic = policy == "Local";
                continue;
            }
            ("addresses", "service") => {
                parameters.addresses = StatusAddresses::Service;
                continue;
            }
            ("addresses", "nodes") => {
                parameters.addresses = StatusAddresses::Nodes;
                continue;
            }
            ("serviceType", _) => "LoadBalancer, NodePort or ClusterIP",
            ("externalTrafficPolicy", _) => "Cluster or Local",
            ("addresses", _) => "service or nodes",
            _ => "",
        };
        return Err(WrongParameter { key: key.clone(), value: value.clone(), allowed });
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<ClassParameters, String> {
        let data = entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        read_parameters(ClassParameters::default(), &data).map_err(|wrong| wrong.key)
    }

    #[test]
    fn a_classs_config_map_chooses_services_and_addresses() {
        assert_eq!(read(&[]), Ok(ClassParameters::default()));
        let all = [("addresses", "nodes"), ("externalTrafficPolicy", "Local"), ("serviceType", "NodePort\n")];
        let expected = ClassParameters {
            service_type: ServiceType::NodePort,
            local_traffic: true,
            addresses: StatusAddresses::Nodes,
        };
        assert_eq!(read(&all), Ok(expected));
        assert_eq!(read(&[("serviceType", "ClusterIP")]).unwrap().service_type, ServiceType::ClusterIp);
    }

    #[test]
    fn a_wrong_key_or_value_is_named() {
        for entry in [
            ("serviceType", "nodeport"),
            ("externalTrafficPolicy", ""),
            ("addresses", "node"),
            ("servicetype", "NodePort"),
        ] {
            assert_eq!(read(&[entry]), Err(entry.0.to_owned()));
        }
    }
}
