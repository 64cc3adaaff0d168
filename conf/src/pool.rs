//! Pools: which backends carry a rule's traffic, in which order and proportion.

use serde::{Deserialize, Serialize};

use crate::{BackendName, HttpFilter, PolicyName, PoolName};

/// A rank among the references of a pool: 0 is the primary pool, 1 the fallback pool, and more may follow.
pub type Priority = u32;

/// A share among the references of one priority; 0 takes no traffic (Gateway API, `BackendRef.weight`).
pub type Weight = u32;

/// The pools of one rule: its references with their priorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pool {
    /// `httproute/NAMESPACE/NAME/rule/INDEX`.
    pub name: PoolName,
    /// The policy that governs it; without one there is no detection and no retry but the safe one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyName>,
    /// The references, in the order of the rule.
    pub refs: Vec<PoolRef>,
}

/// One reference of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PoolRef {
    /// What it refers to.
    pub target: RefTarget,
    /// Its rank.
    #[serde(default)]
    pub priority: Priority,
    /// Its share among the references of the same priority.
    #[serde(default = "one")]
    pub weight: Weight,
    /// Filters that apply only to requests that this reference gets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<HttpFilter>,
}

fn one() -> Weight {
    1
}

/// What a reference refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefTarget {
    /// A backend of the state.
    Backend(BackendName),
    /// Nothing that can be served; the text says why. Its share gets 500 where there is no fallback.
    Invalid(String),
}
