//! What an object says by itself: the rules of its kind, which an API server would enforce.

use std::net::IpAddr;

use gateway_api::apis::experimental::httproutes::HttpRoute;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use understudy_conf::Hostname;
use understudy_crds::Problem;

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};
use crate::graph::ca_bundle::{read_config_map, read_secret, validate_ca};
use crate::graph::certificate::TLS_TYPE;
use crate::graph::certificate::validate_secret;
use crate::graph::listeners::validate_gateway;
use crate::graph::rules::build_rules;
use crate::watch::KnownObject;

/// Checks the rules of an object's kind.
pub(crate) fn validate_object(object: &KnownObject) -> Vec<Diagnostic> {
    match object {
        KnownObject::Gateway(gateway) => validate_gateway(gateway),
        KnownObject::ListenerSet(set) => validate_gateway(&set.as_gateway()),
        KnownObject::HttpRoute(route)
        | KnownObject::GrpcRoute(route)
        | KnownObject::TlsRoute(route)
        | KnownObject::TcpRoute(route)
        | KnownObject::UdpRoute(route) => validate_route(route),
        KnownObject::Backend(backend) => problems(backend, backend.value.validate()),
        KnownObject::BackendTrafficPolicy(policy) => problems(policy, policy.value.validate()),
        KnownObject::Service(service) => validate_service(service),
        KnownObject::EndpointSlice(slice) => validate_endpoint_slice(slice),
        KnownObject::Secret(secret) => {
            let mut found = validate_secret(secret);
            // Beside a key pair the authorities are often somebody else's, and what refers to them looks itself.
            if secret.value.type_.as_deref() != Some(TLS_TYPE) {
                found.extend(validate_ca(secret, read_secret(&secret.value)));
            }
            found
        }
        KnownObject::ConfigMap(map) => validate_ca(map, read_config_map(&map.value)),
        _ => Vec::new(),
    }
}

fn problems<T>(object: &Object<T>, problems: Vec<Problem>) -> Vec<Diagnostic> {
    problems
        .into_iter()
        .map(|problem| reasons::invalid(&object.at(&problem.field), problem.message, problem.remedy))
        .collect()
}

fn validate_route(route: &Object<HttpRoute>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    for (index, hostname) in route.value.spec.hostnames.iter().flatten().enumerate() {
        if let Err(error) = Hostname::new(hostname) {
            found.push(reasons::invalid_hostname(&route.at(&format!("spec.hostnames[{index}]")), &error));
        }
    }
    found.extend(build_rules(route).1);
    found
}

fn validate_service(service: &Object<Service>) -> Vec<Diagnostic> {
    let ports = service.value.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    let wrong = ports.iter().enumerate().filter(|(_, port)| !(1..=65_535).contains(&port.port));
    wrong
        .map(|(index, port)| {
            let place = service.at(&format!("spec.ports[{index}].port"));
            reasons::invalid(&place, format!("{} is not a port", port.port), "Use a number from 1 to 65535.")
        })
        .collect()
}

fn validate_endpoint_slice(slice: &Object<EndpointSlice>) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let kind = slice.value.address_type.as_str();
    if !["IPv4", "IPv6", "FQDN"].contains(&kind) {
        let place = slice.at("addressType");
        found.push(reasons::invalid(&place, format!("{kind:?} is unknown"), "Use IPv4, IPv6 or FQDN."));
        return found;
    }
    for (index, port) in slice.value.ports.iter().flatten().enumerate() {
        if port.port.is_some_and(|port| !(1..=65_535).contains(&port)) {
            let place = slice.at(&format!("ports[{index}].port"));
            found.push(reasons::invalid(&place, "it is not a port", "Use a number from 1 to 65535."));
        }
    }
    for (index, endpoint) in slice.value.endpoints.iter().flatten().enumerate() {
        for (number, address) in endpoint.addresses.iter().enumerate() {
            let right = match address.parse::<IpAddr>() {
                Ok(IpAddr::V4(_)) => kind == "IPv4",
                Ok(IpAddr::V6(_)) => kind == "IPv6",
                Err(_) => kind == "FQDN",
            };
            if !right {
                let place = slice.at(&format!("endpoints[{index}].addresses[{number}]"));
                let message = format!("{address:?} is no address of type {kind}");
                found.push(reasons::invalid(&place, message, "Let addresses and addressType agree."));
            }
        }
    }
    found
}
