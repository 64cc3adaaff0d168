//! Copies of requests for somebody else to see.

use serde::{Deserialize, Serialize};

use crate::PoolName;

/// A share of the requests goes to this pool too; its answers are thrown away (filter `RequestMirror`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestMirror {
    /// Where the copies go: a pool of its own, with one reference.
    pub pool: PoolName,
    /// Numerator of the share.
    #[serde(default = "hundred", skip_serializing_if = "is_hundred")]
    pub numerator: u32,
    /// Denominator of the share, not 0.
    #[serde(default = "hundred", skip_serializing_if = "is_hundred")]
    pub denominator: u32,
}

const fn hundred() -> u32 {
    100
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_hundred(number: &u32) -> bool {
    *number == hundred()
}
