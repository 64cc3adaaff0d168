//! How many pools refer to each backend and policy: what none refers to is no part of the state.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use understudy_conf::{BackendName, PolicyName, Pool, RefTarget};

/// The references of all pools, counted.
#[derive(Debug, Default)]
pub(super) struct Uses {
    backends: BTreeMap<BackendName, usize>,
    policies: BTreeMap<PolicyName, usize>,
    /// What was counted since the last look.
    counted: Counted,
}

/// What may be used now and was not before, or the other way round.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) backends: BTreeSet<BackendName>,
    pub(super) policies: BTreeSet<PolicyName>,
}

impl Uses {
    pub(super) fn add(&mut self, pool: &Pool) {
        for name in backends_of(pool) {
            let count = self.backends.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.counted.backends.insert(name.clone());
            }
        }
        if let Some(name) = &pool.policy {
            let count = self.policies.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                self.counted.policies.insert(name.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, pool: &Pool) {
        for name in backends_of(pool) {
            if forget(&mut self.backends, name) {
                self.counted.backends.insert(name.clone());
            }
        }
        if let Some(name) = pool.policy.as_ref().filter(|name| forget(&mut self.policies, *name)) {
            self.counted.policies.insert(name.clone());
        }
    }

    /// What was counted since the last look.
    pub(super) fn take(&mut self) -> Counted {
        std::mem::take(&mut self.counted)
    }

    pub(super) fn has_backend(&self, name: &BackendName) -> bool {
        self.backends.contains_key(name)
    }

    /// These names, and those in use that stand for the same under a Gateway's certificate.
    pub(super) fn with_variants(&self, names: &BTreeSet<BackendName>) -> BTreeSet<BackendName> {
        let mut all = names.clone();
        for name in names {
            let prefix = format!("{name}@");
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            let variants = self.backends.range::<str, _>(from).map(|(variant, _)| variant);
            all.extend(variants.take_while(|variant| variant.as_str().starts_with(&prefix)).cloned());
        }
        all
    }

    pub(super) fn has_policy(&self, name: &PolicyName) -> bool {
        self.policies.contains_key(name)
    }
}

fn backends_of(pool: &Pool) -> impl Iterator<Item = &BackendName> {
    pool.refs.iter().filter_map(|reference| match &reference.target {
        RefTarget::Backend(name) => Some(name),
        RefTarget::Invalid(_) => None,
    })
}

/// Takes one from a count; says whether none is left.
fn forget<N: Ord>(counts: &mut BTreeMap<N, usize>, name: &N) -> bool {
    let Some(count) = counts.get_mut(name) else { return false };
    *count -= 1;
    let none = *count == 0;
    if none {
        counts.remove(name);
    }
    none
}
