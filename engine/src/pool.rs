//! A pool at work: its members, its view of their health, its counters.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use understudy_conf::{ConsistentHash, LoadBalancer, PoolName, PoolState, Priority, UpstreamProtocol};

use crate::admission::Lane;
use crate::event::{Event, EventKind, Hub};
use crate::evidence;
use crate::hash::{self, Table};
use crate::prober::{Check, CheckProblem};
use crate::share::{self, Grid, Volume};
use crate::slow_start::Joined;
use crate::spec::PoolSpec;
use crate::view::{MemberView, View};
use crate::{Identity, Instant, MemberSpec, Record};

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
    /// What hashes are compared with.
    pub(crate) key: u64,
    /// Requests that one connection to it carries at once.
    pub(crate) carries: usize,
    pub(crate) state: Arc<MemberState>,
}

/// What a pool knows of an endpoint beside its health. It outlives rebuilds of the pool.
#[derive(Debug)]
pub(crate) struct MemberState {
    /// Connections in use: requests of this pool under way at it.
    pub(crate) in_use: AtomicUsize,
    pub(crate) joined: Joined,
    /// The pool that serves now does without it.
    left: AtomicBool,
}

/// Says whether an endpoint has left its pool, to those who still wait for it.
#[derive(Debug, Clone)]
pub struct Departure(Arc<MemberState>);

impl Departure {
    /// Whether a pool without the endpoint has taken the place of its own, which has others.
    #[must_use]
    pub fn has_left(&self) -> bool {
        self.0.left.load(Ordering::Relaxed)
    }
}

impl Member {
    /// To be asked later, by a request that began before another pool took this one's place.
    #[must_use]
    pub fn departure(&self) -> Departure {
        Departure(self.state.clone())
    }
}

/// One reference of a pool at work; its specification has the same index in [`PoolSpec::refs`].
#[derive(Debug)]
pub(crate) struct Reference {
    /// Indices of its members.
    pub(crate) members: std::ops::Range<usize>,
    /// Whose turn it is (rule L1).
    pub(crate) turn: AtomicUsize,
    /// What hashes are compared with.
    pub(crate) key: u64,
    /// Which endpoint a hash belongs to (rule L5), where there is a choice.
    pub(crate) table: Option<Arc<Table>>,
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
    lanes: Mutex<Vec<(Priority, Arc<Lane>)>>,
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

    /// The counts of these priorities; those of others are forgotten.
    fn lanes_of(&self, priorities: &[Priority]) -> Vec<Arc<Lane>> {
        let mut lanes = self.lanes.lock();
        let of = |priority: &Priority| {
            let known = lanes.iter().find(|(known, _)| known == priority);
            known.map(|(_, lane)| lane.clone()).unwrap_or_default()
        };
        let mine: Vec<Arc<Lane>> = priorities.iter().map(of).collect();
        *lanes = priorities.iter().copied().zip(mine.iter().cloned()).collect();
        mine
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
    lanes: Vec<Arc<Lane>>,
    carries: Vec<usize>,
    shared: Arc<PoolShared>,
    view: ArcSwap<View>,
    view_until: AtomicU64,
    /// The changes that the view knows of. Of its own, since requests under way may hold the pool before a
    /// rebuild: what one pool has seen, the other has not.
    view_changes: AtomicU64,
    refreshing: Mutex<()>,
    /// Another one serves in its place: what is told of the pool is not its to say any more, however long somebody has it.
    replaced: AtomicBool,
    /// The window of rule O17 that is being counted.
    window: AtomicU64,
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
                    lanes: Mutex::default(),
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
        let (mut members, mut refs) = (Vec::<Member>::new(), Vec::<Reference>::new());
        let mut states = known_states(previous);
        for (index, reference) in spec.refs.iter().enumerate() {
            let start = members.len();
            let had_healthy = previous.is_none_or(|previous| previous.has_healthy(reference.priority, now));
            for member in reference.members.iter() {
                let Found { record, is_new, check } = record_of(member);
                record.set_detection(spec.scope.passive.as_ref());
                // With an active check it takes nothing until that passed.
                if is_new && !had_healthy && check.is_none() {
                    record.join_on_trial(now);
                }
                record.attach_pool(&shared);
                let state = states.entry(member.identity.clone()).or_insert_with(|| {
                    // All endpoints of a new pool are new: then none is.
                    let joined = if previous.is_some() { Joined::at(now) } else { Joined::long_ago() };
                    Arc::new(MemberState {
                        in_use: AtomicUsize::new(0),
                        joined,
                        left: AtomicBool::new(false),
                    })
                });
                members.push(Member {
                    spec: member.clone(),
                    record,
                    check,
                    reference: index,
                    priority: reference.priority,
                    carries: match member.identity.protocol {
                        UpstreamProtocol::Http1 => 1,
                        UpstreamProtocol::H2c => spec.streams_per_connection.max(1) as usize,
                    },
                    key: hash::hash(member.identity.address.to_string().as_bytes()),
                    state: state.clone(),
                });
            }
            let same = spec.refs[..index].iter().filter(|other| other.origin == reference.origin).count();
            refs.push(Reference {
                turn: AtomicUsize::new(0),
                key: hash::mix(hash::hash(reference.origin.as_bytes()), same as u64),
                table: match &spec.load_balancer {
                    LoadBalancer::ConsistentHash(hash) => build_table(hash, &members[start..], previous),
                    _ => None,
                },
                members: start..members.len(),
            });
        }
        members.shrink_to_fit();
        let lanes = shared.lanes_of(&priorities);
        // Mixed protocols count as the one that needs more connections.
        let carries = |priority: &Priority| {
            let members = members.iter().filter(|member| member.priority == *priority);
            members.map(|member| member.carries).min().unwrap_or(1)
        };
        let carries = priorities.iter().map(carries).collect();
        let pool = Arc::new(Self {
            spec,
            members,
            refs,
            priorities,
            lanes,
            carries,
            shared,
            view: ArcSwap::from_pointee(View::default()),
            view_until: AtomicU64::new(0),
            view_changes: AtomicU64::new(0),
            refreshing: Mutex::default(),
            replaced: AtomicBool::new(false),
            window: AtomicU64::new(0),
            hub,
        });
        if let Some((grid, _)) = pool.share_detector() {
            // What the pool before a rebuild has not judged yet is judged by this one.
            let before =
                previous.filter(|previous| previous.share_detector().map(|(known, _)| known) == Some(grid));
            let window = before.map(|previous| previous.window.load(Ordering::Relaxed));
            pool.window.store(window.unwrap_or_else(|| grid.index(now)), Ordering::Relaxed);
        }
        pool.refresh(now);
        pool
    }

    /// Another pool serves in its place: who still waits for an endpoint that this one does without may go elsewhere,
    /// if there is an elsewhere.
    pub(crate) fn make_way_for(&self, next: &Self) {
        if std::ptr::eq(self, next) {
            return;
        }
        self.replaced.store(true, Ordering::Relaxed);
        let stay: HashSet<_> = next.members.iter().map(|member| Arc::as_ptr(&member.state)).collect();
        let (stays, leaves): (Vec<_>, Vec<_>) =
            self.members.iter().partition(|member| stay.contains(&Arc::as_ptr(&member.state)));
        if !stays.is_empty() {
            leaves.iter().for_each(|member| member.state.left.store(true, Ordering::Relaxed));
        }
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

    /// The counts of [`Self::priorities`], in the same order.
    pub(crate) fn lanes(&self) -> &[Arc<Lane>] {
        &self.lanes
    }

    /// Requests that one connection carries at once, for each of [`Self::priorities`].
    pub(crate) fn carries(&self) -> &[usize] {
        &self.carries
    }

    pub(crate) fn shared(&self) -> &PoolShared {
        &self.shared
    }

    /// Whether the view must be built anew.
    pub(crate) fn is_stale(&self, now: Instant) -> bool {
        self.shared.changes.load(Ordering::Acquire) != self.view_changes.load(Ordering::Acquire)
            || now.as_micros() >= self.view_until.load(Ordering::Relaxed)
    }

    /// Whether its first priority can serve nothing yet, since the active check of some endpoint there has no result and
    /// began less than `patience` ago.
    #[must_use]
    pub fn awaits_first_checks(&self, patience: Duration, now: Instant) -> bool {
        let Some(first) = self.priorities.first() else { return false };
        let view = self.current(now);
        let is_pending = |member: &Member, seen: &MemberView| {
            let check = member.check.as_ref().filter(|_| seen.check == Some(CheckProblem::Pending));
            check.is_some_and(|check| now.since(check.since()) < patience)
        };
        let mut awaits = false;
        for (member, seen) in self.members.iter().zip(&view.members) {
            if member.priority == *first {
                if seen.usable {
                    return false;
                }
                awaits |= is_pending(member, seen);
            }
        }
        awaits
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

    /// Whether it is to be looked at when an interval ends.
    pub(crate) fn sweeps(&self) -> bool {
        self.share_detector().is_some()
    }

    /// The windows of rule O17 and the percentage that ejects, where that detector is on.
    fn share_detector(&self) -> Option<(Grid, u8)> {
        let passive = self.spec.scope.passive.as_ref()?;
        Some((Grid::new(passive.interval.into()), evidence::share_threshold(passive)?))
    }

    /// Rule O17: adds to `over` who failed too much of the window that ended, with what was counted. Says when the
    /// next one ends; `None`: never.
    pub(crate) fn sweep(&self, over: &mut Vec<(Arc<Record>, Volume)>, now: Instant) -> Option<Instant> {
        let (grid, percent) = self.share_detector()?;
        let index = grid.index(now);
        if self.window.swap(index, Ordering::Relaxed) < index {
            let mut records: Vec<&Arc<Record>> = self.members.iter().map(|member| &member.record).collect();
            records.sort_by_key(|record| Arc::as_ptr(record));
            records.dedup_by(|a, b| Arc::ptr_eq(a, b));
            let volumes: Vec<_> = records.iter().map(|record| record.volume(index - 1)).collect();
            let verdicts = share::over_threshold(&volumes, percent);
            let found = records.into_iter().zip(volumes).zip(verdicts);
            over.extend(found.filter_map(|((record, volume), is_over)| {
                volume.filter(|_| is_over).map(|volume| (record.clone(), volume))
            }));
        }
        Some(grid.end(index))
    }

    fn announce(&self, view: &View, now: Instant) {
        if self.replaced.load(Ordering::Relaxed) {
            return;
        }
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

fn known_states(previous: Option<&Pool>) -> HashMap<Identity, Arc<MemberState>> {
    let members = previous.map(Pool::members).unwrap_or_default();
    members.iter().map(|member| (member.spec.identity.clone(), member.state.clone())).collect()
}

/// The table of a reference's members; the one that stands where nothing changed, since a table is costly.
fn build_table(hash: &ConsistentHash, members: &[Member], previous: Option<&Pool>) -> Option<Arc<Table>> {
    let keys: Vec<u64> = members.iter().map(|member| member.key).collect();
    let mut known =
        previous.into_iter().flat_map(Pool::refs).filter_map(|reference| reference.table.as_ref());
    match known.find(|table| table.is_of(&keys, hash.table_size)) {
        Some(table) => Some(table.clone()),
        None => Table::build(keys, hash.table_size).map(Arc::new),
    }
}
