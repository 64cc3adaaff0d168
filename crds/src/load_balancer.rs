//! How an endpoint is chosen.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::DurationText;
use crate::problem::Checker;
use crate::schema;

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.type == 'ConsistentHash' ? has(self.consistentHash) : !has(self.consistentHash)", "consistentHash belongs to type ConsistentHash, which needs it"),
    ("self.type == 'BackendUtilization' ? has(self.backendUtilization) : !has(self.backendUtilization)", "backendUtilization belongs to type BackendUtilization, which needs it"),
    ("self.type == 'DynamicModule' ? has(self.dynamicModule) : !has(self.dynamicModule)", "dynamicModule belongs to type DynamicModule, which needs it"),
    ("!has(self.slowStart) || !(self.type in ['Random', 'ConsistentHash', 'DynamicModule'])", "slowStart needs type RoundRobin or LeastRequest"),
    ("self.type != 'DynamicModule' || !(has(self.zoneAware) || has(self.endpointOverride))", "zoneAware and endpointOverride have no meaning with type DynamicModule"),
])))]
pub struct LoadBalancer {
    /// The method.
    #[serde(rename = "type")]
    pub kind: LoadBalancerType,
    /// For type ConsistentHash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consistent_hash: Option<ConsistentHash>,
    /// A growing share for new endpoints, for RoundRobin and LeastRequest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<SlowStart>,
    /// Preference of zones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub zone_aware: Option<serde_json::Value>,
    /// Endpoints chosen by a header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub endpoint_override: Option<serde_json::Value>,
    /// For type BackendUtilization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub backend_utilization: Option<serde_json::Value>,
    /// For type DynamicModule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::opaque")]
    pub dynamic_module: Option<serde_json::Value>,
}

/// A method of choosing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LoadBalancerType {
    /// One after the other.
    RoundRobin,
    /// Two at random, the one with fewer requests under way.
    LeastRequest,
    /// At random.
    Random,
    /// By a hash of the request.
    ConsistentHash,
    /// By load that the endpoints report.
    BackendUtilization,
    /// By a module.
    DynamicModule,
}

/// By a hash of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.type == 'Header' ? has(self.header) : !has(self.header)", "header belongs to type Header, which needs it"),
    ("self.type == 'Headers' ? has(self.headers) : !has(self.headers)", "headers belongs to type Headers, which needs it"),
    ("self.type == 'Cookie' ? has(self.cookie) : !has(self.cookie)", "cookie belongs to type Cookie, which needs it"),
    ("self.type == 'QueryParams' ? has(self.queryParams) : !has(self.queryParams)", "queryParams belongs to type QueryParams, which needs it"),
])))]
pub struct ConsistentHash {
    /// What is hashed.
    #[serde(rename = "type")]
    pub kind: ConsistentHashType,
    /// Size of the table, a prime number; default 65537.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2, max = 5000011))]
    pub table_size: Option<i64>,
    /// For type Header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<NamedField>,
    /// For type Headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Vec<NamedField>>,
    /// For type Cookie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cookie: Option<HashCookie>,
    /// For type QueryParams.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_params: Option<Vec<NamedField>>,
}

/// What is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConsistentHashType {
    /// The client's address.
    SourceIP,
    /// One header.
    Header,
    /// Several headers.
    Headers,
    /// A cookie.
    Cookie,
    /// Query parameters.
    QueryParams,
}

/// A header or query parameter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedField {
    /// Its name.
    #[schemars(length(min = 1, max = 256), regex(pattern = schema::TOKEN))]
    pub name: String,
}

/// A cookie that is hashed, and set where it is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HashCookie {
    /// Its name.
    #[schemars(length(min = 1, max = 256), regex(pattern = schema::TOKEN))]
    pub name: String,
    /// Its lifetime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<DurationText>,
    /// Further attributes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, String>>,
}

/// A growing share for new endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SlowStart {
    /// Time until the full share.
    pub window: DurationText,
}

impl LoadBalancer {
    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        use LoadBalancerType as Type;
        for (field, given, wanted, kind) in [
            (
                "consistentHash",
                self.consistent_hash.is_some(),
                self.kind == Type::ConsistentHash,
                "ConsistentHash",
            ),
            (
                "backendUtilization",
                self.backend_utilization.is_some(),
                self.kind == Type::BackendUtilization,
                "BackendUtilization",
            ),
            (
                "dynamicModule",
                self.dynamic_module.is_some(),
                self.kind == Type::DynamicModule,
                "DynamicModule",
            ),
        ] {
            if given && !wanted {
                check.problem(
                    field,
                    "the block does not belong to the type",
                    format!("Set type: {kind}, or remove it."),
                );
            } else if wanted && !given {
                check.problem(
                    field,
                    format!("type {kind} needs the block"),
                    format!("Add {field}, or change the type."),
                );
            }
        }
        if let Some(slow_start) = &self.slow_start {
            check.positive_duration("slowStart.window", Some(&slow_start.window));
            if matches!(self.kind, Type::Random | Type::ConsistentHash | Type::DynamicModule) {
                check.problem(
                    "slowStart",
                    format!("it has no meaning with type {:?}", self.kind),
                    "Use type RoundRobin or LeastRequest, or remove it.",
                );
            }
        }
        if let Some(zone) = &self.zone_aware {
            let prefer = zone.get("preferLocal").is_some();
            if prefer && zone.get("weightedZones").is_some() {
                check.problem("zoneAware", "preferLocal excludes weightedZones", "Keep one of the two.");
            }
            if prefer && matches!(self.kind, Type::ConsistentHash | Type::BackendUtilization) {
                check.problem(
                    "zoneAware.preferLocal",
                    format!("it has no meaning with type {:?}", self.kind),
                    "Remove it, or change the type.",
                );
            }
        }
        for (field, given) in
            [("zoneAware", self.zone_aware.is_some()), ("endpointOverride", self.endpoint_override.is_some())]
        {
            if given && self.kind == Type::DynamicModule {
                check.problem(
                    field,
                    "it has no meaning with type DynamicModule",
                    "Remove it, or change the type.",
                );
            }
        }
        if let Some(hash) = &self.consistent_hash {
            hash.validate(&mut check.at("consistentHash"));
        }
    }
}

impl ConsistentHash {
    fn validate(&self, check: &mut Checker<'_>) {
        check.range("tableSize", self.table_size, 2, 5_000_011);
        if let Some(size) = self.table_size
            && (2..=5_000_011).contains(&size)
            && !is_prime(size)
        {
            check.problem("tableSize", format!("{size} is not a prime number"), "Use a prime such as 65537.");
        }
        use ConsistentHashType as Type;
        for (field, given, wanted) in [
            ("header", self.header.is_some(), self.kind == Type::Header),
            ("headers", self.headers.is_some(), self.kind == Type::Headers),
            ("cookie", self.cookie.is_some(), self.kind == Type::Cookie),
            ("queryParams", self.query_params.is_some(), self.kind == Type::QueryParams),
        ] {
            if given != wanted {
                let message =
                    if given { "the block does not belong to the type" } else { "the type needs the block" };
                check.problem(field, message, "Let type and block name the same thing.");
            }
        }
        if let Some(header) = &self.header {
            check_token(check, "header.name", &header.name);
        }
        for (index, header) in self.headers.iter().flatten().enumerate() {
            check_token(check, &format!("headers[{index}].name"), &header.name);
        }
        if let Some(cookie) = &self.cookie {
            check.length("cookie.name", &cookie.name, 1, 256);
            check_token(check, "cookie.name", &cookie.name);
            for (name, value) in cookie.attributes.iter().flatten() {
                check_token(check, "cookie.attributes", name);
                if value.contains(|c: char| c == ';' || !(' '..='~').contains(&c)) {
                    let message = format!("the value of {name} cannot stand in a cookie");
                    check.problem("cookie.attributes", message, "Use printable ASCII without a semicolon.");
                }
            }
            check.duration("cookie.ttl", cookie.ttl.as_ref());
        }
    }
}

/// Names of headers and cookies are tokens (RFC 9110, section 5.6.2).
fn check_token(check: &mut Checker<'_>, field: &str, name: &str) {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        check.problem(field, format!("{name:?} is no valid name"), "Use letters, digits, \"-\" and \"_\".");
    }
}

fn is_prime(number: i64) -> bool {
    number >= 2 && (2..).take_while(|factor| factor * factor <= number).all(|factor| number % factor != 0)
}
