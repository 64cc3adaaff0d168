//! The contract between controller and proxy.
//!
//! Purpose: one vocabulary for what the controller decided and what the proxy serves, with the way it stands
//! on disk. Inputs: values built by the controller. Outputs: files that the proxy reads, and the reports that
//! the proxy writes back. Nothing here knows Kubernetes, Pingora or the network.
//!
//! The world is a [`State`]: [`Gateway`]s with their listeners, [`Route`]s keyed by gateway and listener,
//! [`Pool`]s with weighted references, [`Policy`] objects, [`Backend`]s with their endpoints, [`CaBundle`]s, [`Certificate`]s and,
//! in a cluster, a [`Guard`]. Every object is named after its origin (`httproute/default/shop`), and refers to others by name only.

mod backend;
mod backend_tls;
mod certificate;
mod changes;
mod cors;
mod differences;
mod duration;
mod gateway;
mod guard;
mod health_check;
mod mirror;
mod names;
mod policy;
mod pool;
mod report;
mod route;
mod state;
pub mod store;

pub use backend::{Backend, Endpoint, EndpointAddress, EndpointCondition, UpstreamProtocol};
pub use backend_tls::{BackendTls, CaBundle, SubjectAltName, TlsVersion, Trust};
pub use certificate::{Certificate, PrivateKey};
pub use changes::{Change, changes};
pub use cors::Cors;
pub use differences::differences;
pub use duration::{DurationError, GatewayDuration};
pub use gateway::{
    ClientValidation, ClientValidationMode, Gateway, Listener, ListenerTls, Protocol, TlsMode,
};
pub use guard::{DeniedTargets, Guard, Network, NetworkError};
pub use health_check::{ActiveHealthCheck, ActiveProbe, GrpcProbe, HttpProbe, Payload, TcpProbe};
pub use mirror::RequestMirror;
pub use names::{
    BackendName, CaBundleName, CertificateName, GatewayName, GuardName, Hostname, HostnameError,
    ListenerName, NameError, PolicyName, PoolName, RouteName,
};
pub use policy::{
    BackOff, CircuitBreaker, ConsistentHash, Dns, HashCookie, HashKey, Http2, Http2Keepalive, LoadBalancer,
    LookupFamily, Overflow, PassiveHealthCheck, Percent, PercentError, Policy, Retry, RetryBudget,
    RetryTrigger, TcpKeepalive, Timeouts,
};
pub use pool::{Pool, PoolRef, Priority, RefTarget, Weight};
pub use report::{
    Acknowledgement, EndpointHealth, EndpointReport, Health, PoolReport, PoolState, Refusal, RefusedTarget,
    Reports, Switch, SwitchKind,
};
pub use route::{
    Action, Attachment, HeaderMatch, HeaderValue, HttpFilter, HttpMatch, HttpMethod, PathMatch, PathRewrite,
    QueryMatch, Redirect, Route, RouteKind, Rule, RuleTimeouts, StringMatch, UrlRewrite,
};
pub use state::{DanglingReference, State};
