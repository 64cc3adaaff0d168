//! Routes: which requests go where, and what is changed on the way.

use serde::{Deserialize, Serialize};

use crate::{
    Cors, GatewayDuration, GatewayName, Hostname, ListenerName, PoolName, RequestMirror, Retry, RouteName,
};

/// A route with the listeners that it is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// `httproute/NAMESPACE/NAME`; `grpcroute/…`, `tlsroute/…`, `tcproute/…`, `udproute/…`.
    pub name: RouteName,
    /// What is matched.
    pub kind: RouteKind,
    /// When the object was made, in seconds since 1970 (0: unknown). The oldest wins ties, then the name.
    #[serde(default)]
    pub created: i64,
    /// The listeners that it is attached to, with the hostnames that it has there.
    pub attachments: Vec<Attachment>,
    /// The rules, in their order.
    pub rules: Vec<Rule>,
}

/// What a route matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RouteKind {
    /// HTTP requests (HTTPRoute).
    Http,
    /// gRPC calls (GRPCRoute), matched as HTTP requests.
    Grpc,
    /// TLS connections, by server name (TLSRoute).
    Tls,
    /// TCP connections (TCPRoute).
    Tcp,
    /// UDP datagrams (UDPRoute).
    Udp,
}

/// A route on one listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attachment {
    /// The gateway.
    pub gateway: GatewayName,
    /// Its listener.
    pub listener: ListenerName,
    /// The intersection of the listener's and the route's hostnames; empty: every host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Hostname>,
}

/// One rule: a request that any of its matches fits goes through its filters to its action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Rule {
    /// The rule's own name, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Alternatives; never empty (the controller writes out the default, path prefix `/`).
    pub matches: Vec<HttpMatch>,
    /// What is changed, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
    /// Timeouts of the route itself; they replace the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<RuleTimeouts>,
    /// Retries of the route itself; they replace the policy's wholly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What happens with the request.
    pub action: Action,
}

/// Timeouts of a rule (`HTTPRoute.rules[].timeouts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RuleTimeouts {
    /// The whole request, all attempts included; zero: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<GatewayDuration>,
    /// One attempt; zero: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<GatewayDuration>,
}

/// What happens with a request that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// It goes to a pool.
    Forward(PoolName),
    /// It is answered with a redirect.
    Redirect(Redirect),
    /// It is answered with this status and a short text, as Gateway API asks where nothing can be forwarded.
    Respond(u16),
}

/// What a request must have. All that is given must fit; names of headers are lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpMatch {
    /// The path.
    pub path: PathMatch,
    /// The method; `None`: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<HttpMethod>,
    /// The headers; each name stands once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
    /// The query parameters; each name stands once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryMatch>,
}

/// How a path is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole elements of the path from its start: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path, by a regular expression (RE2 syntax, anchored at both ends).
    Regex(String),
}

/// A request method, in upper case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct HttpMethod(pub String);

/// One header that a request must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// The name, in lower case.
    pub name: String,
    /// Its value.
    pub value: StringMatch,
}

/// One query parameter that a request must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// The name, with its case.
    pub name: String,
    /// Its value.
    pub value: StringMatch,
}

/// How a text is matched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum StringMatch {
    /// The whole text.
    Exact(String),
    /// The whole text, by a regular expression (RE2 syntax, anchored at both ends).
    Regex(String),
}

/// What is changed on a request or its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HttpFilter {
    /// Changes the headers of the request.
    RequestHeaders {
        /// Replaces all values of a name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        set: Vec<HeaderValue>,
        /// Adds a value to a name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        add: Vec<HeaderValue>,
        /// Names that are removed, in lower case.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remove: Vec<String>,
    },
    /// Changes the headers of the answer.
    ResponseHeaders {
        /// Replaces all values of a name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        set: Vec<HeaderValue>,
        /// Adds a value to a name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        add: Vec<HeaderValue>,
        /// Names that are removed, in lower case.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        remove: Vec<String>,
    },
    /// Changes host and path of the request.
    UrlRewrite(UrlRewrite),
    /// Answers browsers that ask for pages of other origins; on rules only.
    Cors(Cors),
    /// Sends a copy of the request to another pool.
    RequestMirror(RequestMirror),
}

/// A header with its value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderValue {
    /// The name, in lower case.
    pub name: String,
    /// The value.
    pub value: String,
}

/// A redirect (`RequestRedirect`). What is `None` stays as the request has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Redirect {
    /// `http` or `https`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The host of the Location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The port of the Location; left out where it is the scheme's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The path of the Location.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
    /// The status: 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// A rewrite (`URLRewrite`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UrlRewrite {
    /// The new Host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathRewrite>,
}

/// How a path changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathRewrite {
    /// The whole path becomes this; the query stays.
    Full(String),
    /// The matched prefix becomes this; only with a [`PathMatch::Prefix`].
    Prefix(String),
}
