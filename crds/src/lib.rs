//! The kinds of `gateway.envoyproxy.io/v1alpha1` that Understudy owns: [`Backend`] and
//! [`BackendTrafficPolicy`].
//!
//! Purpose: one typed form of each kind, with its defaults and its rules. Inputs: whatever serde can read.
//! Outputs: typed objects, and from their `validate()` a list of [`Problem`]s that name field and remedy.
//!
//! Numbers and durations are kept as they were written and checked by `validate()`, not while reading: so one
//! look finds every problem of an object, and none hides the next. After `validate()` found nothing, the
//! accessors with defaults are exact.
//!
//! Each type also has a schema, from which `crds/*.yaml` are generated and checked by a test: limits stand beside their
//! fields, and rules across fields as CEL beside their types. The objects as a whole are plain serde structs without
//! `kube`'s `CustomResource` derive, since nothing here talks to a cluster.

mod backend;
mod backend_tls;
mod backend_traffic_policy;
mod circuit_breaker;
mod connection;
mod extras;
mod health;
mod load_balancer;
mod problem;
mod retry;
mod schema;
mod target;
mod text;
mod timeout;

pub use backend::{
    AppProtocol, Backend, BackendEndpoint, BackendSpec, BackendType, FqdnEndpoint, IpEndpoint, UnixEndpoint,
};
pub use backend_tls::{BackendTls, ObjectReference, SecretReference};
pub use backend_traffic_policy::{BackendTrafficPolicy, BackendTrafficPolicySpec};
pub use circuit_breaker::{CircuitBreaker, Fraction, PerEndpointCircuitBreaker, RetryBudget};
pub use connection::{
    Connection, Dns, DnsLookupFamily, Http2, Http2Keepalive, Preconnect, ProxyProtocol, ProxyProtocolVersion,
    RequestBuffer, TcpKeepalive,
};
pub use extras::{Compression, CompressionKind, FaultAbort, FaultDelay, FaultInjection, OpaqueBlock};
pub use health::{
    ActiveHealthCheck, ActiveHealthCheckType, ActiveOverrides, GrpcCheck, HealthCheck, HttpCheck,
    PassiveHealthCheck, Payload, PayloadType, TcpCheck,
};
pub use load_balancer::{
    ConsistentHash, ConsistentHashType, HashCookie, LoadBalancer, LoadBalancerType, NamedField, SlowStart,
};
pub use problem::Problem;
pub use retry::{BackOff, PerRetry, Retry, RetryOn, Trigger};
pub use target::{
    LabelRequirement, NamespacesFrom, PolicyTarget, PolicyTargetSelector, SelectorNamespaces, TargetLabels,
};
pub use text::{DurationText, Quantity, QuantityError};
pub use timeout::{HttpTimeout, TcpTimeout, Timeout};

/// The group of both kinds.
pub const GROUP: &str = "gateway.envoyproxy.io";
/// The version of both kinds.
pub const VERSION: &str = "v1alpha1";
/// Group and version, as `apiVersion` has them.
pub const API_VERSION: &str = "gateway.envoyproxy.io/v1alpha1";
