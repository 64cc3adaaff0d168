//! The Service of a Gateway, as it should stand in the cluster.

use std::collections::BTreeMap;

use gateway_api::apis::experimental::gateways::Gateway;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::addresses::names::{GATEWAY_NAME, MANAGED_BY, MANAGER, gateway_label, service_name};
use crate::addresses::ports::{ClientPort, PortMap, Transport};
use crate::addresses::{ClassParameters, RequestedAddresses, ServiceType};
use crate::cluster::Object;
use crate::watch::GATEWAY_API;

/// What a Service and its slices call a port.
pub(super) fn port_name((transport, port): ClientPort) -> String {
    match transport {
        Transport::Tcp => format!("tcp-{port}"),
        Transport::Udp => format!("udp-{port}"),
    }
}

/// The object goes when its Gateway goes.
pub(super) fn owner(gateway: &Object<Gateway>) -> OwnerReference {
    OwnerReference {
        api_version: format!("{GATEWAY_API}/v1"),
        kind: "Gateway".to_owned(),
        name: gateway.key.name.to_string(),
        uid: gateway.value.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

/// The labels of what is made for a Gateway: those that it asks for, and ours.
pub(super) fn labels(gateway: &Object<Gateway>) -> BTreeMap<String, String> {
    let asked = gateway.value.spec.infrastructure.as_ref().and_then(|i| i.labels.clone());
    let mut labels = asked.unwrap_or_default();
    labels.insert(MANAGED_BY.to_owned(), MANAGER.to_owned());
    labels.insert(GATEWAY_NAME.to_owned(), gateway_label(&gateway.key.name));
    labels
}

/// The annotations that a Gateway asks for; clouds are told by them what their load balancers should be.
pub(super) fn annotations(gateway: &Object<Gateway>) -> BTreeMap<String, String> {
    let asked = gateway.value.spec.infrastructure.as_ref().and_then(|i| i.annotations.clone());
    asked.unwrap_or_default()
}

/// Builds the Service of a Gateway. It has no selector: the pods are in another namespace.
pub(super) fn build_service(
    gateway: &Object<Gateway>,
    parameters: ClassParameters,
    addresses: RequestedAddresses,
    ports: &PortMap,
) -> Service {
    let kind = parameters.service_type;
    let reached_from_outside = kind != ServiceType::ClusterIp;
    let policy = if parameters.local_traffic { "Local" } else { "Cluster" };
    let port = |(port, target): (&ClientPort, &u16)| ServicePort {
        name: Some(port_name(*port)),
        port: i32::from(port.1),
        target_port: Some(IntOrString::Int(i32::from(*target))),
        protocol: Some(port.0.as_str().to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: ObjectMeta {
            name: Some(service_name(&gateway.key.name)),
            namespace: Some(gateway.key.namespace.to_string()),
            labels: Some(labels(gateway)),
            annotations: Some(annotations(gateway)),
            owner_references: Some(vec![owner(gateway)]),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            type_: Some(kind.as_str().to_owned()),
            external_traffic_policy: reached_from_outside.then(|| policy.to_owned()),
            ip_family_policy: Some("PreferDualStack".to_owned()),
            cluster_ip: addresses.cluster.map(|address| address.to_string()),
            load_balancer_ip: addresses.balancer.map(|address| address.to_string()),
            ports: Some(ports.iter().map(port).collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}
