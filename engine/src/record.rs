//! What is known of one endpoint in one scope: the state machine from healthy to ejected, on trial and back.
//!
//! ```text
//! healthy ── detector fires ─► ejected ── time is over ─► probing ── connected ─► trial ── successes ─► ramping ─► healthy
//!    ▲                            ▲                          │ failed: again after an interval │                    │
//!    └── joined on trial, connected ─────────────────────────┘        └── trial request failed ┴── detector fires ──┘
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use understudy_conf::PassiveHealthCheck;

use crate::check::CheckStanding;
use crate::endpoint::{Endpoint, ScopeKey};
use crate::event::{Event, EventKind, Hub};
use crate::evidence::{self, Counters};
use crate::phase::{Phase, Standing, ramp_step};
use crate::pool::PoolShared;
use crate::prober::Check;
use crate::share::{Grid, Volume, Windows};
use crate::{Cause, ConnectFailure, Instant, Outcome};

/// Longest ejection, unless the base is longer (rule O20).
const MAX_EJECTION: Duration = Duration::from_secs(300);
/// Pause between two probes at least, whatever the interval.
pub(crate) const MIN_PROBE_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug)]
struct Inner {
    phase: Phase,
    counters: Counters,
    /// Counted only where the detection asks for it.
    windows: Windows,
    detection: Option<PassiveHealthCheck>,
    /// n of the ejection time: base × n.
    multiplier: u32,
    /// Since when nothing failed; n shrinks by one for each interval of that with a success at its end.
    proven_since: Instant,
    /// When the endpoint was last taken out of service; `None` where it joined on trial.
    ejected_at: Option<Instant>,
    /// What ejected it last.
    ejected_by: Option<Cause>,
    /// A probe is under way.
    probing: bool,
    last_cause: Option<Cause>,
}

/// What is known of one endpoint in one scope.
pub struct Record {
    endpoint: Arc<Endpoint>,
    key: ScopeKey,
    inner: Mutex<Inner>,
    /// The active check that proves it, in place of a connection of the proxy's.
    check: Mutex<Option<Arc<Check>>>,
    /// False while nothing but successes happened: then a success costs one load.
    marked: AtomicBool,
    /// A trial request is under way.
    trial: AtomicBool,
    /// Whether the hub has it on its list.
    watched: AtomicBool,
    me: Weak<Self>,
    pools: Mutex<Vec<Weak<PoolShared>>>,
    hub: Arc<Hub>,
    requests: AtomicU64,
    failures: AtomicU64,
    ejections: AtomicU64,
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Record")
            .field("endpoint", self.endpoint.identity())
            .field("inner", &self.inner)
            .finish()
    }
}

impl Record {
    pub(crate) fn new(endpoint: Arc<Endpoint>, key: ScopeKey, hub: Arc<Hub>, now: Instant) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            endpoint,
            key,
            inner: Mutex::new(Inner {
                phase: Phase::Healthy,
                counters: Counters::default(),
                windows: Windows::default(),
                detection: None,
                multiplier: 0,
                proven_since: now,
                ejected_at: None,
                ejected_by: None,
                probing: false,
                last_cause: None,
            }),
            check: Mutex::default(),
            marked: AtomicBool::new(false),
            trial: AtomicBool::new(false),
            watched: AtomicBool::new(false),
            me: me.clone(),
            pools: Mutex::default(),
            hub,
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            ejections: AtomicU64::new(0),
        })
    }

    /// The endpoint that it is about.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Requests that the endpoint got in this scope.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Attempts that failed in this scope.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// How often it was ejected.
    #[must_use]
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// The scope's connect timeout.
    #[must_use]
    pub fn connect_timeout(&self) -> Duration {
        self.key.connect_timeout()
    }

    pub(crate) fn key(&self) -> &ScopeKey {
        &self.key
    }

    pub(crate) fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.endpoint.begin();
    }

    /// The policy may have changed since the record was made. Without detection nothing is ejected any longer.
    pub(crate) fn set_detection(&self, detection: Option<&PassiveHealthCheck>) {
        let mut inner = self.inner.lock();
        if inner.detection.as_ref() == detection {
            return;
        }
        inner.detection = detection.cloned();
        // A run that was counted towards another threshold could step over the new one (O13: equality).
        (inner.counters, inner.windows) = (Counters::default(), Windows::default());
        if detection.and_then(evidence::share_threshold).is_some() {
            self.marked.store(true, Ordering::Relaxed);
        }
        if inner.detection.is_none() && inner.phase != Phase::Healthy {
            inner.phase = Phase::Healthy;
            inner.ejected_at = None;
            drop(inner);
            self.changed();
        }
    }

    /// Which check proves the endpoint in this scope. `made` says whether the check is new, `known` whether the
    /// record was there before: then the endpoint goes on serving until the new check fails.
    pub(crate) fn set_check(self: &Arc<Self>, check: Option<&Arc<Check>>, made: bool, known: bool) {
        let mut mine = self.check.lock();
        if let Some(check) = check {
            let stood_well = mine.as_ref().is_none_or(|before| before.standing() == CheckStanding::Passing);
            if made && known && stood_well {
                check.assume_passing();
            }
            check.attach(self);
        }
        *mine = check.cloned();
    }

    pub(crate) fn check(&self) -> Option<Arc<Check>> {
        self.check.lock().clone()
    }

    pub(crate) fn attach_pool(&self, pool: &Arc<PoolShared>) {
        let mut pools = self.pools.lock();
        pools.retain(|known| known.strong_count() > 0);
        // A rebuilt pool shares what it had before.
        if !pools.iter().any(|known| known.as_ptr() == Arc::as_ptr(pool)) {
            pools.push(Arc::downgrade(pool));
        }
    }

    /// Puts a new endpoint on trial by connect: it joined a pool that had no healthy member.
    pub(crate) fn join_on_trial(&self, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.detection.is_some() && inner.phase == Phase::Healthy {
            inner.phase = Phase::Probing { next: now };
            inner.ejected_at = None;
            self.marked.store(true, Ordering::Relaxed);
            drop(inner);
            self.changed();
        }
    }

    /// Counts an outcome of a real request, whichever pool sent it.
    pub(crate) fn record(&self, outcome: Outcome, now: Instant) {
        if outcome == Outcome::Success {
            if self.marked.load(Ordering::Relaxed) {
                self.record_success(now);
            }
            return;
        }
        self.failures.fetch_add(1, Ordering::Relaxed);
        if let Outcome::Failure(cause) = outcome {
            self.count_in_share(outcome, now);
            self.observe(cause, now);
        }
    }

    /// Rule O17: requests of its own, while it takes its share of them.
    fn count_in_share(&self, outcome: Outcome, now: Instant) {
        let mut inner = self.inner.lock();
        if let Some(detection) = &inner.detection
            && evidence::share_threshold(detection).is_some()
            && takes_traffic(inner.phase)
            && let Some(failed) = evidence::counts_in_share(outcome, detection)
        {
            let index = Grid::new(detection.interval.into()).index(now);
            inner.windows.count(failed, index);
        }
    }

    /// The requests of a window that has ended; `None` if the endpoint takes no traffic.
    pub(crate) fn volume(&self, window: u64) -> Option<Volume> {
        let mut inner = self.inner.lock();
        takes_traffic(inner.phase).then(|| inner.windows.completed(window))
    }

    /// Too much of a window failed. Nothing happens if the endpoint takes no traffic any longer.
    pub(crate) fn eject_for_share(&self, volume: Volume, now: Instant) {
        let mut inner = self.inner.lock();
        let Some(detection) = inner.detection.clone().filter(|_| takes_traffic(inner.phase)) else { return };
        let small = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let cause = Cause::Share { failed: small(volume.failed), total: small(volume.total) };
        inner.last_cause = Some(cause);
        inner.proven_since = now;
        self.eject(&mut inner, &detection, cause, now);
        drop(inner);
        self.changed();
    }

    /// Counts a failure without counting a request: also for what others saw of the endpoint.
    pub(crate) fn observe(&self, cause: Cause, now: Instant) {
        let mut inner = self.inner.lock();
        self.marked.store(true, Ordering::Relaxed);
        inner.last_cause = Some(cause);
        inner.proven_since = now;
        let Some(detection) = inner.detection.clone() else { return };
        let ejected = !matches!(inner.phase, Phase::Healthy | Phase::Ramping { .. });
        let fired = inner.counters.record(Outcome::Failure(cause), &detection, ejected);
        if fired && !ejected {
            self.eject(&mut inner, &detection, cause, now);
            drop(inner);
            self.changed();
        }
    }

    fn record_success(&self, now: Instant) {
        self.count_in_share(Outcome::Success, now);
        let mut inner = self.inner.lock();
        let Some(detection) = inner.detection.clone() else { return };
        inner.counters.record(Outcome::Success, &detection, false);
        if let Phase::Ramping { .. } | Phase::Healthy = inner.phase
            && inner.multiplier > 0
            && now.since(inner.proven_since) >= Duration::from(detection.interval)
        {
            // O23, replaced: n shrinks after proven success, not by time alone.
            inner.multiplier -= 1;
            inner.proven_since = now;
        }
        let counted = evidence::share_threshold(&detection).is_some();
        let clean =
            inner.phase == Phase::Healthy && inner.multiplier == 0 && inner.counters.is_zero() && !counted;
        self.marked.store(!clean, Ordering::Relaxed);
    }

    /// Rule O4: a connection came about.
    pub(crate) fn record_connected(&self) {
        if self.marked.load(Ordering::Relaxed) {
            self.inner.lock().counters.record_connected();
        }
    }

    /// Whether this failure to connect would have happened to this scope's requests too.
    pub(crate) fn shares_connect_failure(&self, failure: ConnectFailure, connect_timeout: Duration) -> bool {
        failure != ConnectFailure::TimedOut || self.connect_timeout() <= connect_timeout
    }

    fn eject(&self, inner: &mut Inner, detection: &PassiveHealthCheck, cause: Cause, now: Instant) {
        let base = Duration::from(detection.base_ejection_time);
        let longest = MAX_EJECTION.max(base);
        if base * inner.multiplier < longest + base {
            inner.multiplier += 1; // O20
        }
        let duration = (base * inner.multiplier).min(longest);
        inner.phase = Phase::Ejected { until: now.after(duration) };
        // What was counted before says nothing of what comes back.
        inner.windows = Windows::default();
        inner.ejected_at = Some(now);
        inner.ejected_by = Some(cause);
        inner.probing = false;
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.hub.push(Event {
            at: now,
            pool: self.pool_name(),
            kind: EventKind::Ejection { endpoint: self.endpoint.identity().address.clone(), cause, duration },
        });
    }

    pub(crate) fn pool_name(&self) -> Option<understudy_conf::PoolName> {
        self.pools.lock().iter().find_map(Weak::upgrade).map(|pool| pool.name().clone())
    }

    /// The pools must look again, and the driver too.
    pub(crate) fn changed(&self) {
        for pool in self.pools.lock().iter().filter_map(Weak::upgrade) {
            pool.mark_changed();
        }
        if !self.watched.swap(true, Ordering::AcqRel) {
            self.hub.watch(self.me.clone());
        }
        self.hub.wake();
    }

    /// Says whether time still moves the record on. If not, it is off the list until its next change.
    pub(crate) fn stays_watched(&self) -> bool {
        self.watched.store(false, Ordering::Release);
        let needed = self.inner.lock().phase != Phase::Healthy;
        // A change in between has put it back already.
        needed && !self.watched.swap(true, Ordering::AcqRel)
    }

    /// Moves on what time alone moves on, and says where the endpoint stands.
    pub(crate) fn standing(&self, now: Instant) -> Standing {
        let mut inner = self.inner.lock();
        let interval = inner.detection.as_ref().map_or(Duration::ZERO, |detection| detection.interval.into());
        if let Phase::Ejected { until } = inner.phase
            && now >= until
        {
            inner.phase = Phase::Probing { next: until };
            inner.probing = false;
        }
        let (mut share, mut until) = (100, Instant::NEVER);
        match inner.phase {
            Phase::Ejected { until: end } => until = end,
            Phase::Ramping { since } => match ramp_step(since, interval, now) {
                Some((step_share, end)) => (share, until) = (step_share, end),
                None => {
                    inner.phase = Phase::Healthy;
                    inner.ejected_at = None;
                }
            },
            Phase::Healthy | Phase::Probing { .. } | Phase::Trial { .. } => {}
        }
        Standing {
            phase: inner.phase,
            ejected_at: inner.ejected_at,
            share,
            until,
            last_cause: inner.last_cause,
        }
    }

    /// What is due; a connection is marked as under way.
    pub(crate) fn due(&self, now: Instant) -> Due {
        let standing = self.standing(now);
        let check = self.check();
        let mut inner = self.inner.lock();
        match (inner.phase, check) {
            (Phase::Probing { next }, Some(check)) if now >= next => {
                let interval = inner.detection.as_ref().map_or(Duration::ZERO, |d| d.interval.into());
                let next = now.after(interval.max(MIN_PROBE_PAUSE));
                inner.phase = Phase::Probing { next };
                Due::Check(check, next)
            }
            (Phase::Probing { next }, Some(_)) => Due::Later(next),
            (Phase::Probing { .. }, None) if inner.probing => Due::Later(Instant::NEVER),
            (Phase::Probing { next }, None) if now >= next => {
                inner.probing = true;
                Due::Connect
            }
            (Phase::Probing { next }, None) => Due::Later(next),
            _ => Due::Later(standing.until),
        }
    }

    /// An active check that began at `began` ended. `connects`: its pass shows that connections can be made.
    pub(crate) fn checked(&self, passed: bool, connects: bool, began: Instant, now: Instant) {
        if !self.marked.load(Ordering::Relaxed) {
            return;
        }
        self.standing(now);
        let mut inner = self.inner.lock();
        if !passed {
            inner.proven_since = now;
            return;
        }
        let interval = inner.detection.as_ref().map_or(Duration::ZERO, |detection| detection.interval.into());
        // What was asked before the ejection says nothing about after it.
        let after = inner.ejected_at.is_none_or(|ejected_at| began >= ejected_at);
        match inner.phase {
            // O26, replaced: only a failure to connect is disproved.
            Phase::Ejected { .. } if after && connects && inner.ejected_by.is_some_and(is_of_connecting) => {}
            Phase::Probing { .. } if after => {}
            Phase::Healthy | Phase::Ramping { .. } => {
                if inner.multiplier > 0 && now.since(inner.proven_since) >= interval {
                    inner.multiplier -= 1;
                    inner.proven_since = now;
                }
                return;
            }
            _ => return,
        }
        inner.probing = false;
        inner.counters = Counters::default();
        inner.phase = match inner.ejected_at {
            Some(_) => Phase::Trial { since: now, successes: 0 },
            None => Phase::Healthy,
        };
        drop(inner);
        self.changed();
    }

    /// A probe ended. Returns true if the endpoint moved on.
    pub(crate) fn probed(&self, connected: bool, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        inner.probing = false;
        let Phase::Probing { .. } = inner.phase else { return false };
        let interval = inner.detection.as_ref().map_or(Duration::ZERO, |detection| detection.interval.into());
        if !connected {
            // Failed probes change nothing and cost no client anything.
            inner.phase = Phase::Probing { next: now.after(interval.max(MIN_PROBE_PAUSE)) };
            return false;
        }
        inner.counters = Counters::default();
        if inner.ejected_at.is_some() {
            inner.phase = Phase::Trial { since: now, successes: 0 };
        } else {
            inner.phase = Phase::Healthy;
        }
        drop(inner);
        self.changed();
        true
    }

    /// Takes the one place for a trial request.
    pub(crate) fn begin_trial(&self) -> bool {
        self.trial.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// A trial request ended. `None`: nobody knows how (the client went away).
    pub(crate) fn end_trial(&self, outcome: Option<Outcome>, now: Instant) {
        if let Some(outcome) = outcome {
            self.judge_trial(outcome, now);
        }
        // Last: the next trial request must not start before the verdict on this one is seen.
        self.trial.store(false, Ordering::Release);
    }

    fn judge_trial(&self, outcome: Outcome, now: Instant) {
        let mut inner = self.inner.lock();
        let (Phase::Trial { since, successes }, Some(detection)) = (inner.phase, inner.detection.clone())
        else {
            return;
        };
        match outcome {
            Outcome::Failure(cause) if evidence::counts(outcome, &detection) => {
                inner.last_cause = Some(cause);
                self.eject(&mut inner, &detection, cause, now);
            }
            _ if successes + 1 < evidence::successes_needed(&detection) => {
                inner.phase = Phase::Trial { since, successes: successes + 1 };
                return;
            }
            _ => {
                inner.phase = Phase::Ramping { since: now };
                inner.counters = Counters::default();
                inner.proven_since = now;
                let away = now.since(inner.ejected_at.unwrap_or(now));
                self.hub.push(Event {
                    at: now,
                    pool: self.pool_name(),
                    kind: EventKind::Return { endpoint: self.endpoint.identity().address.clone(), away },
                });
            }
        }
        drop(inner);
        self.changed();
    }
}

/// What a record needs.
pub(crate) enum Due {
    /// A connection of the proxy's.
    Connect,
    /// This check; the record is to be looked at again then.
    Check(Arc<Check>, Instant),
    /// Nothing before then.
    Later(Instant),
}

fn takes_traffic(phase: Phase) -> bool {
    matches!(phase, Phase::Healthy | Phase::Ramping { .. })
}

/// Whether a connection would show that the cause is gone. A check connects under the endpoint's own TLS policy, so
/// that it disproves what was wrong with TLS too.
fn is_of_connecting(cause: Cause) -> bool {
    matches!(cause, Cause::Connect(_) | Cause::TimeoutConnecting)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
