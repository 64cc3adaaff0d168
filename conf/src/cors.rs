//! Cross-origin requests: which pages of other origins may read the answers of a rule.

use serde::{Deserialize, Serialize};

/// What a rule says to browsers about pages of other origins (filter `CORS` of HTTPRoute).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cors {
    /// Origins that are allowed: `*`, or `SCHEME://HOST[:PORT]`, where `*` in the host stands for any labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_origins: Vec<String>,
    /// Methods that are allowed; `*` among them: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_methods: Vec<String>,
    /// Request headers that are allowed; `*` among them: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow_headers: Vec<String>,
    /// Headers of the answer that pages may read; `*` among them: all, where credentials are not allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expose_headers: Vec<String>,
    /// How long a browser may keep the answer to a preflight request, in seconds.
    #[serde(default = "five", skip_serializing_if = "is_five")]
    pub max_age: u32,
    /// Whether requests may carry cookies and other credentials.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_credentials: bool,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            allow_origins: Vec::new(),
            allow_methods: Vec::new(),
            allow_headers: Vec::new(),
            expose_headers: Vec::new(),
            max_age: five(),
            allow_credentials: false,
        }
    }
}

const fn five() -> u32 {
    5
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_five(seconds: &u32) -> bool {
    *seconds == five()
}
