//! What the proxy writes back: the version that it serves, what it refused, and what it sees.

use serde::{Deserialize, Serialize};

use crate::{PoolName, Priority};

/// Which version the proxy serves, and what it refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// The version that is served; `None` until the first complete state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving: Option<u64>,
    /// Why the newest state on disk is not served, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// Parts of the served state that could not act: a port that was taken, a pattern that does not compile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
}

/// A state that the proxy did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Its version, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
    /// Why, in a sentence.
    pub reason: String,
}

/// What the proxy sees of its pools. Bounded: one entry per pool and endpoint, and the last switches.
///
/// On disk stand only the pools of which there is something to say, so that the file stays small where thousands of
/// routes are sound.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reports {
    /// When the proxy started, in milliseconds since 1970. [`Switch::seq`] counts from there.
    #[serde(default)]
    pub started_ms: u64,
    /// Pools, by name.
    pub pools: Vec<PoolReport>,
    /// Endpoints that the target guard refuses; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<RefusedTarget>,
    /// The last switches and ejections, oldest first; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<Switch>,
}

impl Reports {
    /// How many switches are remembered at most.
    pub const MAX_SWITCHES: usize = 1000;
    /// How many refused endpoints are named at most.
    pub const MAX_REFUSED: usize = 1000;
}

/// An endpoint that the target guard refuses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedTarget {
    /// The reference's origin: `backend/default/active`.
    pub backend: String,
    /// Where it points: `127.0.0.1:80`, with the name that it came from, if it came from DNS.
    pub target: String,
    /// Why it is refused, in a few words: `loopback`.
    pub why: String,
}

/// One pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolReport {
    /// `httproute/NAMESPACE/NAME/rule/INDEX`.
    pub pool: PoolName,
    /// Which priority serves.
    pub state: PoolState,
    /// Why, in a sentence.
    pub reason: String,
    /// Percentage of new requests per priority.
    pub load: Vec<(Priority, u8)>,
    /// The endpoints.
    pub endpoints: Vec<EndpointReport>,
    /// The references that have no endpoint, by origin.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without_endpoints: Vec<String>,
}

/// Which pool serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PoolState {
    /// The primary pool alone.
    Primary,
    /// The fallback pool alone.
    Fallback,
    /// Both, in proportion to their health.
    Split,
    /// Too few are healthy: all are used (panic).
    Panic,
    /// Nothing can serve.
    Down,
}

/// One endpoint in one pool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointReport {
    /// The reference's origin: `backend/default/active`.
    pub backend: String,
    /// Where it is: `10.0.0.1:3000`.
    pub address: String,
    /// The name that the address came from, if it came from DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its rank.
    pub priority: Priority,
    /// Its health.
    pub health: EndpointHealth,
    /// Requests under way.
    pub active: u64,
    /// Requests that it got, trials included.
    pub requests: u64,
    /// Attempts that counted as failures.
    pub failures: u64,
    /// How often it was ejected.
    pub ejections: u64,
    /// The last failure, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Health of an endpoint with its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointHealth {
    /// The state.
    pub state: Health,
    /// Since when it takes no traffic or is returning, in milliseconds since 1970; `None` where it is healthy, or where
    /// that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<u64>,
    /// Milliseconds until the ejection time is over, for [`Health::Ejected`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// Share of its normal traffic in percent, for [`Health::Ramping`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<u8>,
    /// False where the endpoint is ejected, but the pool may not obey (`maxEjectionPercent`).
    pub obeyed: bool,
}

/// Health of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Takes its share.
    Healthy,
    /// Takes nothing until the ejection time is over.
    Ejected,
    /// The ejection time is over; the proxy connects to it until it answers.
    Probing,
    /// It answered; real requests go to it one at a time.
    Trial,
    /// It has proved itself and gets a growing share.
    Ramping,
    /// Its active check fails, or has not passed yet.
    Unhealthy,
}

/// Something that happened to a pool or one of its endpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Switch {
    /// Counts the switches since the proxy started, from 1.
    #[serde(default)]
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub kind: SwitchKind,
    /// The pool; for an endpoint's event, one of the pools that it is in.
    pub pool: PoolName,
    /// The endpoint's address, where one endpoint was the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The origins that it concerns: of an endpoint, the references that have it; of a pool, its primary references.
    /// At most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<String>,
    /// Why, in a sentence.
    pub cause: String,
    /// How long the state before had lasted, in milliseconds.
    pub lasted_ms: u64,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum SwitchKind {
    /// Traffic left the primary pool.
    Failover,
    /// Traffic came back to the primary pool.
    Failback,
    /// An endpoint was ejected.
    Ejection,
    /// An endpoint came back.
    Return,
    /// An endpoint's active check failed.
    Unhealthy,
    /// An endpoint's active check passes again.
    Healthy,
}
