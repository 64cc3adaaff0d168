//! BackendTLSPolicy: which backends must not be spoken to in plain text.
//!
//! TLS towards backends is not spoken yet. What a BackendTLSPolicy covers is therefore not served, rather than
//! served without the protection that was asked for.

use crate::cluster::{Cluster, Key, Object};
use gateway_api::apis::standard::backendtlspolicies::BackendTlsPolicy;

/// The policy that covers a target, if one does. Sections are not told apart: a Service of which one port is
/// protected is refused as a whole.
pub(crate) fn find_tls_policy<'a>(
    cluster: &'a Cluster,
    group: &str,
    kind: &str,
    target: &Key,
) -> Option<&'a Object<BackendTlsPolicy>> {
    cluster.backend_tls_policies.values().find(|policy| {
        policy.key.namespace == target.namespace
            && policy.value.spec.target_refs.iter().any(|reference| {
                reference.group == group && reference.kind == kind && *reference.name == *target.name
            })
    })
}
