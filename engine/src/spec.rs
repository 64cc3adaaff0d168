//! What a pool is made of, before the engine gives it life.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use understudy_conf::{
    CircuitBreaker, GatewayDuration, LoadBalancer, PassiveHealthCheck, Percent, PolicyName, PoolName,
    Priority, Retry, Timeouts, UpstreamProtocol, Weight,
};

use crate::{CheckSpec, TlsIdentity, TlsStrength};

/// Where bytes are sent: an address that needs no further resolution.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// TCP.
    Socket(SocketAddr),
    /// A Unix-domain socket.
    Unix(Arc<Path>),
    /// UDP: another endpoint than the one that has the same address over TCP.
    Udp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What makes an endpoint itself, for every pool that reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The pod's UID, or the name that the address came from; `None` for a bare address.
    pub origin: Option<Arc<str>>,
    /// Where it is.
    pub address: Address,
    /// What is spoken to it.
    pub protocol: UpstreamProtocol,
    /// The TLS policy under which it is spoken to; `None`: clear text.
    pub tls: Option<Arc<TlsIdentity>>,
}

impl Identity {
    /// How much the way to it protects a request.
    #[must_use]
    pub fn strength(&self) -> TlsStrength {
        self.tls.as_ref().map_or(TlsStrength::Plain, |tls| tls.strength)
    }
}

/// Under what evidence of status, reset and timeout is shared: the same policy object with equal timeouts.
#[derive(Debug, Clone, PartialEq)]
pub struct Scope {
    /// The policy object; pools without one share nothing but connect failures.
    pub policy: Option<PolicyName>,
    /// The timeouts in force.
    pub timeouts: Timeouts,
    /// Limit of one attempt, if any.
    pub per_try_timeout: Option<understudy_conf::GatewayDuration>,
    /// What ejects; `None`: nothing.
    pub passive: Option<PassiveHealthCheck>,
}

/// One endpoint of a reference.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberSpec {
    /// The endpoint.
    pub identity: Identity,
    /// The name that the address came from, for reports.
    pub hostname: Option<Arc<str>>,
    /// What it is asked before and while it takes traffic, if anything.
    pub check: Option<Arc<CheckSpec>>,
}

/// One reference of a pool.
#[derive(Debug, Clone, PartialEq)]
pub struct RefSpec {
    /// The backend's name, or what is wrong with the reference.
    pub origin: Arc<str>,
    /// True where the reference is invalid: its share gets 500 unless there is a fallback.
    pub invalid: bool,
    /// Its rank.
    pub priority: Priority,
    /// Its share in its priority; 0 takes nothing.
    pub weight: Weight,
    /// Its endpoints; pools that refer to the same may share them.
    pub members: Arc<[MemberSpec]>,
}

/// A pool with everything that governs it.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSpec {
    /// The pool's name.
    pub name: PoolName,
    /// Where its evidence belongs.
    pub scope: Scope,
    /// Below this percentage of healthy endpoints all are used.
    pub panic_threshold: Percent,
    /// Retries, if the policy or the route asks for them.
    pub retry: Option<Retry>,
    /// Limits.
    pub circuit_breaker: CircuitBreaker,
    /// Requests that one HTTP/2 connection carries at once; endpoints of HTTP/1.1 have one for each request.
    pub streams_per_connection: u32,
    /// How an endpoint is chosen within a reference.
    pub load_balancer: LoadBalancer,
    /// Time over which the share of an endpoint that joins or returns grows (rule L6).
    pub slow_start: Option<GatewayDuration>,
    /// The references, in the order of the rule.
    pub refs: Vec<RefSpec>,
}
