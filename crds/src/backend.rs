//! `Backend`: endpoints that routes refer to.

use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::{Checker, is_dns_name};
use crate::schema;
use crate::{BackendTls, Problem};

/// A set of endpoints (short name `be`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Backend {
    /// [`crate::API_VERSION`].
    pub api_version: String,
    /// `Backend`.
    pub kind: String,
    /// Name, namespace, age.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: BackendSpec,
    /// What a controller reported; ignored here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<serde_json::Value>,
}

/// What a [`Backend`] asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("!has(self.type) || self.type != 'DynamicResolver' || !has(self.endpoints)", "a DynamicResolver has no endpoints of its own; remove them, or use type Endpoints"),
    ("!has(self.tls) || !has(self.tls.autoSNIFromEndpointHostname) || !self.tls.autoSNIFromEndpointHostname || !has(self.endpoints) || self.endpoints.all(e, has(e.fqdn) || has(e.hostname))", "tls.autoSNIFromEndpointHostname needs a hostname at every ip and unix endpoint"),
    ("!has(self.type) || self.type != 'DynamicResolver' || !has(self.tls) || !has(self.tls.autoSNIFromEndpointHostname) || !self.tls.autoSNIFromEndpointHostname", "a DynamicResolver has no endpoints whose hostname could be sent; remove tls.autoSNIFromEndpointHostname"),
])))]
pub struct BackendSpec {
    /// Whether endpoints are listed, or the request's host decides; default: listed.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<BackendType>,
    /// True: priority 1, used only when the primary pool cannot carry the load.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<bool>,
    /// The endpoints, 1 to 256 where given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub endpoints: Option<Vec<BackendEndpoint>>,
    /// What is spoken to the endpoints, besides HTTP/1.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocols: Option<Vec<AppProtocol>>,
    /// TLS to the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<BackendTls>,
}

/// How a backend's endpoints are found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BackendType {
    /// They are listed.
    #[default]
    Endpoints,
    /// The request's host decides.
    DynamicResolver,
}

/// What is spoken to the endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AppProtocol {
    /// HTTP/2 in clear text.
    #[serde(rename = "gateway.envoyproxy.io/h2c")]
    H2c,
    /// WebSocket, over HTTP/1.1.
    #[serde(rename = "gateway.envoyproxy.io/ws")]
    Ws,
    /// WebSocket over TLS.
    #[serde(rename = "gateway.envoyproxy.io/wss")]
    Wss,
}

/// One endpoint: exactly one of `fqdn`, `ip` and `unix`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("[has(self.fqdn), has(self.ip), has(self.unix)].filter(given, given).size() == 1", "an endpoint is exactly one of fqdn, ip and unix"),
])))]
pub struct BackendEndpoint {
    /// By name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fqdn: Option<FqdnEndpoint>,
    /// By address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<IpEndpoint>,
    /// A Unix-domain socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unix: Option<UnixEndpoint>,
    /// SNI and Host for this endpoint, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME))]
    pub hostname: Option<String>,
    /// The zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// An endpoint by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FqdnEndpoint {
    /// A DNS name; a trailing dot is allowed.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::NAME_WITH_DOT))]
    pub hostname: String,
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
}

impl FqdnEndpoint {
    /// The name in lower case, without the trailing dot.
    #[must_use]
    pub fn canonical_hostname(&self) -> String {
        let name = self.hostname.to_ascii_lowercase();
        name.strip_suffix('.').map_or_else(|| name.clone(), str::to_owned)
    }
}

/// An endpoint by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct IpEndpoint {
    /// IPv4 or IPv6.
    #[schemars(length(min = 3, max = 45), regex(pattern = schema::ADDRESS))]
    pub address: String,
    /// 1 to 65535.
    #[schemars(range(min = 1, max = 65535))]
    pub port: i64,
}

/// An endpoint on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnixEndpoint {
    /// The socket's path, at most 108 bytes.
    #[schemars(length(min = 1, max = 108))]
    pub path: String,
}

impl Backend {
    /// Whether it serves only when the primaries cannot carry the load.
    #[must_use]
    pub fn is_fallback(&self) -> bool {
        self.spec.fallback.unwrap_or(false)
    }

    /// Everything that is wrong with it, in the order of its fields.
    #[must_use]
    pub fn validate(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut check = Checker::new(&mut problems, "spec");
        let dynamic = self.spec.kind == Some(BackendType::DynamicResolver);
        match (&self.spec.endpoints, dynamic) {
            (Some(_), true) => check.problem(
                "endpoints",
                "a DynamicResolver has no endpoints of its own",
                "Remove the endpoints, or use type Endpoints.",
            ),
            (Some(endpoints), false) => {
                check.items("endpoints", endpoints.len(), 1, 256);
                for (index, endpoint) in endpoints.iter().enumerate() {
                    endpoint.validate(&mut check.item("endpoints", index));
                }
            }
            (None, _) => {}
        }
        if let Some(tls) = &self.spec.tls {
            let endpoints = self.spec.endpoints.as_deref().unwrap_or_default();
            tls.validate(&mut check.at("tls"), dynamic, endpoints);
        }
        problems
    }
}

impl BackendEndpoint {
    fn validate(&self, check: &mut Checker<'_>) {
        let given = [self.fqdn.is_some(), self.ip.is_some(), self.unix.is_some()];
        match given.iter().filter(|is_given| **is_given).count() {
            1 => {}
            0 => check.problem("", "it has none of fqdn, ip and unix", "Give exactly one of them."),
            _ => check.problem(
                "",
                "it has more than one of fqdn, ip and unix",
                "Keep one, and make further endpoints of the others.",
            ),
        }
        if let Some(fqdn) = &self.fqdn {
            fqdn.validate(&mut check.at("fqdn"));
        }
        if let Some(ip) = &self.ip {
            ip.validate(&mut check.at("ip"));
        }
        if let Some(unix) = &self.unix {
            check.length("unix.path", &unix.path, 1, 108);
        }
        if let Some(hostname) = &self.hostname {
            check.dns_name("hostname", hostname);
        }
    }
}

impl FqdnEndpoint {
    fn validate(&self, check: &mut Checker<'_>) {
        let name = self.canonical_hostname();
        if name.parse::<IpAddr>().is_ok() {
            check.problem(
                "hostname",
                format!("{:?} is an IP address", self.hostname),
                "Use an endpoint of kind ip for it.",
            );
        } else if !is_dns_name(&name) {
            check.problem(
                "hostname",
                format!("{:?} is not a DNS name", self.hostname),
                "Use letters, digits, '-' and '.', at most 253 characters.",
            );
        }
        port(check, self.port);
    }
}

impl IpEndpoint {
    fn validate(&self, check: &mut Checker<'_>) {
        match self.address.parse::<IpAddr>() {
            Err(_) => check.problem(
                "address",
                format!("{:?} is not an IPv4 or IPv6 address", self.address),
                "Use an address such as 10.0.0.1 or fd00::1, or an endpoint of kind fqdn for a name.",
            ),
            Ok(address) if address.is_unspecified() || address.is_multicast() => check.problem(
                "address",
                format!("nothing can be reached at {address}"),
                "Use the address of one machine.",
            ),
            Ok(_) => {}
        }
        port(check, self.port);
    }
}

// The schema lets 0 pass; nothing can be connected to there.
fn port(check: &mut Checker<'_>, port: i64) {
    check.range("port", Some(port), 1, 65_535);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(spec: &str) -> Vec<String> {
        let backend: Backend = serde_yaml::from_str(&format!("spec:\n{spec}")).unwrap();
        backend.validate().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_endpoint_is_exactly_one_of_fqdn_ip_and_unix() {
        assert_eq!(problems("  endpoints:\n  - ip: {address: 127.0.0.1, port: 80}\n"), [""; 0]);
        assert!(problems("  endpoints:\n  - zone: a\n")[0].starts_with("spec.endpoints[0]: it has none of"));
        let both = problems("  endpoints:\n  - ip: {address: '::1', port: 80}\n    unix: {path: /a}\n");
        assert!(both[0].starts_with("spec.endpoints[0]: it has more than one"), "{both:?}");
    }

    #[test]
    fn every_problem_is_found_at_once_and_names_its_field() {
        let found = problems(
            "  endpoints:\n  - fqdn: {hostname: 10.0.0.1, port: 0}\n  - ip: {address: nowhere, port: 70000}\n",
        );
        let fields: Vec<_> = found.iter().map(|text| text.split(": ").next().unwrap()).collect();
        assert_eq!(
            fields,
            [
                "spec.endpoints[0].fqdn.hostname",
                "spec.endpoints[0].fqdn.port",
                "spec.endpoints[1].ip.address",
                "spec.endpoints[1].ip.port",
            ]
        );
    }

    #[test]
    fn a_trailing_dot_and_upper_case_are_allowed_in_a_name() {
        let fqdn = FqdnEndpoint { hostname: "Active.default.SVC.".into(), port: 1 };
        assert_eq!(fqdn.canonical_hostname(), "active.default.svc");
        assert_eq!(problems("  endpoints:\n  - fqdn: {hostname: A.example.com., port: 1}\n"), [""; 0]);
    }

    #[test]
    fn an_empty_list_of_endpoints_is_refused_and_a_missing_one_is_not() {
        assert_eq!(problems("  fallback: true\n"), [""; 0]);
        assert_eq!(problems("  endpoints: []\n").len(), 1);
    }
}
