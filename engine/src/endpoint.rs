//! One endpoint, and the scopes in which something is known of it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use crate::prober::Check;
use crate::record::Record;
use crate::{CheckSpec, Identity, Scope};

/// What is shared by all that reach an endpoint, whatever their policy.
#[derive(Debug)]
pub struct Endpoint {
    identity: Identity,
    active: AtomicUsize,
    records: Mutex<Vec<Weak<Record>>>,
    checks: Mutex<Vec<Weak<Check>>>,
}

impl Endpoint {
    pub(crate) fn new(identity: Identity) -> Arc<Self> {
        Arc::new(Self {
            identity,
            active: AtomicUsize::new(0),
            records: Mutex::default(),
            checks: Mutex::default(),
        })
    }

    /// What makes the endpoint itself.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Requests under way, over all pools.
    #[must_use]
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn records(&self) -> Vec<Arc<Record>> {
        self.records.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The check that asks this of the endpoint; a new one, and true, if there is none.
    pub(crate) fn check(&self, spec: &CheckSpec, make: impl FnOnce() -> Arc<Check>) -> (Arc<Check>, bool) {
        let mut checks = self.checks.lock();
        checks.retain(|known| known.strong_count() > 0);
        if let Some(known) = checks.iter().filter_map(Weak::upgrade).find(|known| known.spec() == spec) {
            return (known, false);
        }
        let made = make();
        checks.push(Arc::downgrade(&made));
        (made, true)
    }

    pub(crate) fn attach(&self, record: &Arc<Record>) {
        let mut records = self.records.lock();
        records.retain(|known| known.strong_count() > 0);
        records.push(Arc::downgrade(record));
    }
}

/// Under which evidence of one endpoint is kept together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopeKey {
    policy: Option<understudy_conf::PolicyName>,
    timeouts: understudy_conf::Timeouts,
    per_try: Option<understudy_conf::GatewayDuration>,
}

impl ScopeKey {
    pub(crate) fn connect_timeout(&self) -> Duration {
        self.timeouts.connect.into()
    }
}

impl From<&Scope> for ScopeKey {
    fn from(scope: &Scope) -> Self {
        Self {
            policy: scope.policy.clone(),
            timeouts: scope.timeouts.clone(),
            per_try: scope.per_try_timeout,
        }
    }
}
