//! A pool at work: its members, its view of their health, its counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use understudy_conf::{PoolName, PoolState, Priority};

use crate::event::{Event, EventKind, Hub};
use crate::prober::Check;
use crate::spec::PoolSpec;
use crate::view::View;
use crate::{Instant, MemberSpec, Record};

/// One endpoint in one pool.
#[derive(Debug)]
pub struct Member {
    /// What the pool was told of it.
    pub spec: MemberSpec,
    /// What is known of it.
    pub record: Arc<Record>,
    /// The check that it has to pass.
    pub(crate) check: Option<Arc<Check>>,
    /// Index of its reference in the pool.
    pub reference: usize,
    /// Its rank.
    pub priority: Priority,
}

/// One reference of a pool at work; its specification has the same index in [`PoolSpec::refs`].
#[derive(Debug)]
pub(crate) struct Reference {
    /// Indices of its members.
    pub(crate) members: std::ops::Range<usize>,
    /// Whose turn it is (rule L1).
    pub(crate) turn: AtomicUsize,
}

/// What outlives a rebuild of the pool: its name, its counters, and what it told users last.
#[derive(Debug)]
pub(crate) struct PoolShared {
    name: PoolName,
    /// Changes of the members' health so far.
    changes: AtomicU64,
    /// Requests under way.
    pub(crate) active: AtomicUsize,
    /// Retries under way.
    pub(crate) retries: AtomicUsize,
    serving: Mutex<Serving>,
}

#[derive(Debug)]
struct Serving {
    /// What was last told: whether the primary pool serves.
    primary: bool,
    since: Instant,
}

impl PoolShared {
    pub(crate) fn name(&self) -> &PoolName {
        &self.name
    }

    pub(crate) fn mark_changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// What is known of a member, for building a pool.
pub(crate) struct Found {
    pub(crate) record: Arc<Record>,
    pub(crate) is_new: bool,
    pub(crate) check: Option<Arc<Check>>,
}

/// The pools of one rule at work.
pub struct Pool {
    spec: PoolSpec,
    members: Vec<Member>,
    refs: Vec<Reference>,
    priorities: Vec<Priority>,
    shared: Arc<PoolShared>,
    view: ArcSwap<View>,
    view_until: AtomicU64,
    /// The changes that the view knows of. Of its own, since requests under way may hold the pool before a
    /// rebuild: what one pool has seen, the other has not.
    view_changes: AtomicU64,
    refreshing: Mutex<()>,
    hub: Arc<Hub>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.spec.name)
            .field("members", &self.members)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Builds the pool of records; `previous` is the same pool before a change.
    pub(crate) fn build(
        spec: PoolSpec,
        mut record_of: impl FnMut(&MemberSpec) -> Found,
        previous: Option<&Self>,
        hub: Arc<Hub>,
        now: Instant,
    ) -> Arc<Self> {
        let shared = previous.map_or_else(
            || {
                Arc::new(PoolShared {
                    name: spec.name.clone(),
                    changes: AtomicU64::new(0),
                    active: AtomicUsize::new(0),
                    retries: AtomicUsize::new(0),
                    serving: Mutex::new(Serving { primary: true, since: now }),
                })
            },
            |previous| previous.shared.clone(),
        );
        let mut priorities: Vec<Priority> = spec
            .refs
            .iter()
            .filter(|reference| reference.weight > 0)
            .map(|reference| reference.priority)
            .collect();
        priorities.sort_unstable();
        priorities.dedup();
        let (mut members, mut refs) = (Vec::new(), Vec::new());
        for (index, reference) in spec.refs.iter().enumerate() {
            let start = members.len();
            let had_healthy = previous.is_none_or(|previous| previous.has_healthy(reference.priority, now));
            for member in &reference.members {
                let Found { record, is_new, check } = record_of(member);
                record.set_detection(spec.scope.passive.as_ref());
                // With an active check it takes nothing until that passed.
                if is_new && !had_healthy && check.is_none() {
                    record.join_on_trial(now);
                }
                record.attach_pool(&shared);
                let spec = member.clone();
                members.push(Member { spec, record, check, reference: index, priority: reference.priority });
            }
            refs.push(Reference { members: start..members.len(), turn: AtomicUsize::new(0) });
        }
        let pool = Arc::new(Self {
            spec,
            members,
            refs,
            priorities,
            shared,
            view: ArcSwap::from_pointee(View::default()),
            view_until: AtomicU64::new(0),
            view_changes: AtomicU64::new(0),
            refreshing: Mutex::default(),
            hub,
        });
        pool.refresh(now);
        pool
    }

    /// The pool's name.
    #[must_use]
    pub fn name(&self) -> &PoolName {
        &self.spec.name
    }

    /// What the pool was built of.
    #[must_use]
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// Its endpoints; a [`crate::Choice`] is an index into them.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn refs(&self) -> &[Reference] {
        &self.refs
    }

    /// The priorities that have a reference with weight, ascending.
    pub(crate) fn priorities(&self) -> &[Priority] {
        &self.priorities
    }

    pub(crate) fn shared(&self) -> &PoolShared {
        &self.shared
    }

    /// Whether the view must be built anew.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.shared.changes.load(Ordering::Acquire) != self.view_changes.load(Ordering::Acquire)
            || now.as_micros() >= self.view_until.load(Ordering::Relaxed)
    }

    fn has_healthy(&self, priority: Priority, now: Instant) -> bool {
        let view = self.current(now);
        self.members
            .iter()
            .zip(&view.members)
            .any(|(member, seen)| member.priority == priority && seen.usable)
    }

    /// The view at `now`. Built anew only after a change; otherwise this costs three loads.
    pub(crate) fn current(&self, now: Instant) -> arc_swap::Guard<Arc<View>> {
        if self.is_stale(now) {
            self.refresh(now);
        }
        self.view.load()
    }

    /// Builds the view anew, unless another thread just did, and tells of a switch.
    pub(crate) fn refresh(&self, now: Instant) {
        let _one_at_a_time = self.refreshing.lock();
        if !self.is_stale(now) {
            return;
        }
        // Before the records are read: what changes from here on makes the view stale again.
        let changes = self.shared.changes.load(Ordering::Acquire);
        let view = View::build(self, now);
        let until = view.until.as_micros();
        self.announce(&view, now);
        self.view.store(Arc::new(view));
        // Last, so that nobody takes the old view for the new one.
        self.view_until.store(until, Ordering::Relaxed);
        self.view_changes.store(changes, Ordering::Release);
    }

    fn announce(&self, view: &View, now: Instant) {
        let primary = match view.state {
            PoolState::Primary | PoolState::Split => true,
            PoolState::Fallback => false,
            PoolState::Panic | PoolState::Down => return,
        };
        // The first round of checks is no failover.
        if !primary && view.awaits_primary {
            return;
        }
        let mut serving = self.shared.serving.lock();
        if serving.primary == primary {
            return;
        }
        let lasted = now.since(serving.since);
        *serving = Serving { primary, since: now };
        let cause = view.reason.clone();
        self.hub.push(Event {
            at: now,
            pool: Some(self.spec.name.clone()),
            kind: if primary {
                EventKind::Failback { cause, lasted }
            } else {
                EventKind::Failover { cause, lasted }
            },
        });
    }
}
