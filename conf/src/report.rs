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
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reports {
    /// Every pool that is served.
    pub pools: Vec<PoolReport>,
    /// The last switches and ejections, oldest first; at most 1,000.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub switches: Vec<Switch>,
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
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// What.
    pub kind: SwitchKind,
    /// The pool; for an endpoint's event, one of the pools that it is in.
    pub pool: PoolName,
    /// The endpoint's backend and address, where one endpoint was the cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
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
