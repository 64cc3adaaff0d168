//! Who is checked when: one prober for each endpoint and check, however many pools use it.
//!
//! Inputs: checks as pools ask for them, results, and `now`. Outputs: the checks that are due, and word to the
//! records and pools concerned when an endpoint's standing changes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use understudy_conf::UpstreamProtocol;

use crate::check::{CheckStanding, Verdict};
use crate::endpoint::Endpoint;
use crate::event::{Event, EventKind, Hub};
use crate::record::{MIN_PROBE_PAUSE, Record};
use crate::{Address, CheckFailure, CheckResult, CheckSpec, Instant, TlsIdentity};

/// Checks fall due on this grid, so that many of them cost few ticks.
const GRID: Duration = Duration::from_millis(10);

/// One endpoint under one check.
pub(crate) struct Check {
    endpoint: Arc<Endpoint>,
    spec: CheckSpec,
    state: Mutex<State>,
    running: AtomicBool,
    /// Whoever wants to know of each result.
    records: Mutex<Vec<Weak<Record>>>,
    schedule: Arc<Schedule>,
    hub: Arc<Hub>,
}

struct State {
    verdict: Verdict,
    since: Instant,
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Check").field("endpoint", self.endpoint.identity()).field("spec", &self.spec).finish()
    }
}

impl Check {
    pub(crate) fn new(
        endpoint: Arc<Endpoint>,
        spec: CheckSpec,
        schedule: Arc<Schedule>,
        hub: Arc<Hub>,
        now: Instant,
    ) -> Arc<Self> {
        schedule.pending.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self {
            endpoint,
            spec,
            state: Mutex::new(State { verdict: Verdict::new(), since: now }),
            running: AtomicBool::new(false),
            records: Mutex::default(),
            schedule,
            hub,
        })
    }

    pub(crate) fn spec(&self) -> &CheckSpec {
        &self.spec
    }

    pub(crate) fn standing(&self) -> CheckStanding {
        self.state.lock().verdict.standing
    }

    /// Since when it says what it says.
    pub(crate) fn since(&self) -> Instant {
        self.state.lock().since
    }

    /// Whether a pass shows that the endpoint's own port can be connected to.
    fn proves_connect(&self) -> bool {
        match (&self.endpoint.identity().address, self.spec.settings.port) {
            (Address::Socket(address), Some(port)) => address.port() == port,
            // Over TCP nothing shows of a port of UDP.
            (Address::Udp(_), _) => false,
            _ => true,
        }
    }

    pub(crate) fn attach(&self, record: &Arc<Record>) {
        let mut records = self.records.lock();
        records.retain(|known| known.strong_count() > 0);
        if !records.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(record))) {
            records.push(Arc::downgrade(record));
        }
    }

    /// The endpoint served well until now under another check, or without one: it goes on until this one fails.
    pub(crate) fn assume_passing(&self) {
        let mut state = self.state.lock();
        if state.verdict.standing == CheckStanding::Pending {
            state.verdict.assume_passing();
            self.schedule.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Rule H7: an answer to a request says that the endpoint wants no traffic.
    pub(crate) fn fail_on_request(&self, now: Instant) {
        self.finished(CheckResult::Failed(CheckFailure::OnRequest), now, now);
    }

    /// Marks a check as under way, unless one is.
    pub(crate) fn begin(self: &Arc<Self>, now: Instant) -> Option<CheckProbe> {
        let free = !self.running.swap(true, Ordering::AcqRel);
        free.then(|| CheckProbe { check: self.clone(), began: now })
    }

    fn finished(&self, result: CheckResult, began: Instant, now: Instant) {
        let records: Vec<Arc<Record>> = self.records.lock().iter().filter_map(Weak::upgrade).collect();
        let change = {
            let mut state = self.state.lock();
            let before = state.verdict.standing;
            // H7: what was asked before the endpoint said so says nothing about after it.
            let asked_before =
                before == CheckStanding::Failing(CheckFailure::OnRequest) && began <= state.since;
            if asked_before && result == CheckResult::Passed {
                return;
            }
            let changed = state.verdict.record(result, &self.spec.settings);
            if before == CheckStanding::Pending {
                self.schedule.pending.fetch_sub(1, Ordering::AcqRel);
            }
            let lasted = now.since(state.since);
            if changed {
                state.since = now;
            }
            changed.then_some((before, state.verdict.standing, lasted))
        };
        for record in &records {
            record.checked(result == CheckResult::Passed, self.proves_connect(), began, now);
        }
        let Some((before, standing, lasted)) = change else { return };
        for record in &records {
            record.changed();
        }
        let endpoint = self.endpoint.identity().address.clone();
        let kind = match (before, standing) {
            (_, CheckStanding::Failing(failure)) => EventKind::Unhealthy { endpoint, failure, lasted },
            (CheckStanding::Failing(_), CheckStanding::Passing) => EventKind::Healthy { endpoint, lasted },
            // The first check of a sound endpoint is no news.
            _ => return,
        };
        let pool = records.iter().find_map(|record| record.pool_name());
        self.hub.push(Event { at: now, pool, kind });
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        if self.state.get_mut().verdict.standing == CheckStanding::Pending {
            self.schedule.pending.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Why a check keeps an endpoint from traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CheckProblem {
    /// It has no result yet.
    Pending,
    /// It fails.
    Failing(CheckFailure),
}

impl CheckProblem {
    pub(crate) fn of(check: &Check) -> Option<Self> {
        match check.standing() {
            CheckStanding::Pending => Some(Self::Pending),
            CheckStanding::Passing => None,
            CheckStanding::Failing(failure) => Some(Self::Failing(failure)),
        }
    }
}

/// A check to run now. Dropping it unanswered leaves everything as it was.
#[derive(Debug)]
pub struct CheckProbe {
    check: Arc<Check>,
    began: Instant,
}

impl CheckProbe {
    /// Where to ask: the endpoint's address, with the check's own port if it has one. Over TCP always: endpoints of UDP
    /// are asked at the same port.
    #[must_use]
    pub fn address(&self) -> Address {
        let address = self.check.endpoint.identity().address.clone();
        match (address, self.check.spec.settings.port) {
            (Address::Socket(mut socket) | Address::Udp(mut socket), Some(port)) => {
                socket.set_port(port);
                Address::Socket(socket)
            }
            (Address::Udp(socket), None) => Address::Socket(socket),
            (address, _) => address,
        }
    }

    /// Under which TLS policy to ask; `None`: in clear text.
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<TlsIdentity>> {
        self.check.endpoint.identity().tls.as_ref()
    }

    /// What is spoken there.
    #[must_use]
    pub fn protocol(&self) -> UpstreamProtocol {
        self.check.endpoint.identity().protocol
    }

    /// What to ask.
    #[must_use]
    pub fn spec(&self) -> &CheckSpec {
        &self.check.spec
    }

    pub(crate) fn finish(self, result: CheckResult, now: Instant) {
        self.check.finished(result, self.began, now);
    }
}

impl Drop for CheckProbe {
    fn drop(&mut self) {
        self.check.running.store(false, Ordering::Release);
    }
}

/// When each check is due.
#[derive(Default)]
pub(crate) struct Schedule {
    queue: Mutex<BinaryHeap<Reverse<Entry>>>,
    /// Checks without a result.
    pending: AtomicUsize,
}

struct Entry {
    at: Instant,
    /// The moment before it was put on the grid.
    exact: Instant,
    /// Rounds so far; the second one spreads the checks over the interval.
    first: bool,
    check: Weak<Check>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}

impl Schedule {
    /// Checks without a result.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Acquire)
    }

    /// Rule H1: the first check at once, but for `initialJitter`.
    pub(crate) fn add(&self, check: &Arc<Check>, now: Instant) {
        let jitter = Duration::from(check.spec.settings.initial_jitter);
        let exact = now.after(fraction_of(jitter, check));
        self.push(Entry { at: exact, exact, first: true, check: Arc::downgrade(check) });
    }

    fn push(&self, entry: Entry) {
        self.queue.lock().push(Reverse(entry));
    }

    /// The checks that are due, and when the next ones are.
    pub(crate) fn due(&self, now: Instant) -> (Vec<CheckProbe>, Instant) {
        let mut due = Vec::new();
        loop {
            let entry = {
                let mut queue = self.queue.lock();
                match queue.peek() {
                    Some(Reverse(entry)) if entry.at <= now => queue.pop(),
                    Some(Reverse(entry)) => return (due, entry.at),
                    None => return (due, Instant::NEVER),
                }
            };
            let Some(Reverse(entry)) = entry else { return (due, Instant::NEVER) };
            // Whoever asked for it is gone.
            let Some(check) = entry.check.upgrade() else { continue };
            due.extend(check.begin(now));
            let interval = Duration::from(check.spec.settings.interval).max(MIN_PROBE_PAUSE);
            let mut exact = entry.exact.after(interval);
            if entry.first {
                // No storm: from here on the checks are spread over the interval by what they check.
                exact = now.after(interval / 2 + fraction_of(interval, &check));
            } else if exact <= now {
                exact = now.after(interval);
            }
            self.push(Entry { at: on_grid(exact), exact, first: false, check: Arc::downgrade(&check) });
        }
    }

    /// Forgets checks that nobody asks for any longer.
    pub(crate) fn forget_unused(&self) {
        self.queue.lock().retain(|Reverse(entry)| entry.check.strong_count() > 0);
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.queue.lock().len()
    }
}

fn on_grid(moment: Instant) -> Instant {
    let grid = u64::try_from(GRID.as_micros()).unwrap_or(1);
    Instant::from_micros(moment.as_micros().div_ceil(grid).saturating_mul(grid))
}

/// A part of the duration, from none to all of it, that is always the same for the same check of an endpoint.
fn fraction_of(duration: Duration, check: &Check) -> Duration {
    let mut hasher = DefaultHasher::new();
    check.endpoint.identity().hash(&mut hasher);
    check.spec.hash(&mut hasher);
    let parts = u32::try_from(hasher.finish() % 1_000).unwrap_or(0);
    duration / 1_000 * parts
}

#[cfg(test)]
mod tests {
    use understudy_conf::{ActiveHealthCheck, ActiveProbe, GatewayDuration, TcpProbe, UpstreamProtocol};

    use super::*;
    use crate::Identity;

    fn checks(count: u16, schedule: &Arc<Schedule>, now: Instant) -> Vec<Arc<Check>> {
        let settings = ActiveHealthCheck {
            interval: GatewayDuration::from_secs(1),
            ..ActiveHealthCheck::new(ActiveProbe::Tcp(TcpProbe::default()))
        };
        let spec = CheckSpec { settings: settings.into(), host: "".into() };
        let hub = Hub::new(|| {});
        (1..=count)
            .map(|port| {
                let address = Address::Socket(([10, 0, 0, 1], port).into());
                let identity =
                    Identity { origin: None, address, protocol: UpstreamProtocol::Http1, tls: None };
                let endpoint = Endpoint::new(identity);
                let check = Check::new(endpoint, spec.clone(), schedule.clone(), hub.clone(), now);
                schedule.add(&check, now);
                check
            })
            .collect()
    }

    #[test]
    fn the_first_checks_are_at_once_and_the_next_ones_spread_over_the_interval() {
        // H1
        let (schedule, mut now) = (Arc::new(Schedule::default()), Instant::from_micros(7_000_000));
        let checks = checks(1000, &schedule, now);
        let (first, mut next) = schedule.due(now);
        assert_eq!((first.len(), schedule.pending()), (1000, 1000));
        first.into_iter().for_each(|probe| probe.finish(CheckResult::Passed, now));
        assert_eq!(schedule.pending(), 0);
        let start = now;
        let mut most = 0;
        let mut counts = [0_usize; 5];
        while next.since(start) < Duration::from_secs(5) {
            now = next;
            let (due, after) = schedule.due(now);
            most = most.max(due.len());
            counts[now.since(start).as_secs() as usize] += due.len();
            due.into_iter().for_each(|probe| probe.finish(CheckResult::Passed, now));
            assert!(after > now);
            next = after;
        }
        assert!(most < 40, "{most} at once");
        for count in &counts[2..] {
            assert!((950..=1050).contains(count), "{counts:?}");
        }
        drop(checks);
        schedule.forget_unused();
        assert_eq!(schedule.len(), 0);
    }

    #[test]
    fn a_check_is_not_begun_while_it_runs_and_goes_on_when_its_probe_is_lost() {
        let (schedule, now) = (Arc::new(Schedule::default()), Instant::from_micros(0));
        let checks = checks(1, &schedule, now);
        let probe = checks[0].begin(now);
        assert!(probe.is_some());
        assert!(checks[0].begin(now).is_none());
        drop(probe);
        assert!(checks[0].begin(now).is_some());
        drop(checks);
        assert_eq!(schedule.pending(), 0);
    }
}
