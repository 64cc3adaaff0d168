//! ReferenceGrant: references into other namespaces.

use crate::cluster::{Cluster, Key};

/// Who refers.
pub(crate) struct Referrer<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

/// Whether a reference is allowed: within a namespace always, else by a grant in the target's namespace.
pub(crate) fn is_permitted(
    cluster: &Cluster,
    from: &Referrer<'_>,
    group: &str,
    kind: &str,
    target: &Key,
) -> bool {
    if *from.namespace == *target.namespace {
        return true;
    }
    cluster.reference_grants.values().filter(|grant| grant.key.namespace == target.namespace).any(|grant| {
        let spec = &grant.value.spec;
        let trusted = spec.from.iter().any(|trusted| {
            trusted.group == from.group && trusted.kind == from.kind && trusted.namespace == from.namespace
        });
        let core = |group: &str| if group == "core" { String::new() } else { group.to_owned() };
        trusted
            && spec.to.iter().any(|to| {
                let name = to.name.as_deref().filter(|name| !name.is_empty());
                core(&to.group) == group && to.kind == kind && name.is_none_or(|name| name == &*target.name)
            })
    })
}
