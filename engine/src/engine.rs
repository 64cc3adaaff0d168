//! The registry of endpoints and pools, and what time alone moves on.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use understudy_conf::{PoolName, PoolReport};

use crate::endpoint::{Endpoint, ScopeKey};
use crate::event::{Event, Hub};
use crate::pool::{Found, Pool};
use crate::prober::{Check, CheckProbe, Schedule};
use crate::record::{Due, Record};
use crate::{Address, CheckResult, Identity, Instant, MemberSpec, PoolSpec, report};

/// Every endpoint that some pool refers to, with what is known of it. It outlives reloads: an endpoint dies
/// with its last reference.
pub struct Engine {
    endpoints: Mutex<HashMap<Identity, Weak<Endpoint>>>,
    /// Those in service.
    pools: Mutex<HashMap<PoolName, Weak<Pool>>>,
    /// Those that were built since, and may never serve.
    candidates: Mutex<HashMap<PoolName, Weak<Pool>>>,
    checks: Arc<Schedule>,
    hub: Arc<Hub>,
}

/// A connection to make, to see whether an endpoint on trial answers.
#[derive(Debug)]
pub struct Probe {
    /// The endpoint to connect to.
    pub endpoint: Arc<Endpoint>,
    /// How long to wait for it.
    pub timeout: Duration,
    records: Vec<Arc<Record>>,
}

/// What is to be done at a moment.
#[derive(Debug)]
pub struct Tick {
    /// Probes to run now; each is to be answered with [`Engine::probed`].
    pub probes: Vec<Probe>,
    /// Active checks to run now; each is to be answered with [`Engine::checked`].
    pub checks: Vec<CheckProbe>,
    /// When to call [`Engine::tick`] again, unless woken before.
    pub next: Instant,
}

impl Engine {
    /// An engine without pools. `wake` is called whenever [`Self::tick`] should be called soon; it must not block.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            endpoints: Mutex::default(),
            pools: Mutex::default(),
            candidates: Mutex::default(),
            checks: Arc::default(),
            hub: Hub::new(wake),
        })
    }

    /// Builds a pool, or gives back the one that stands if nothing changed. Health, counters and what users were
    /// told go on from the pool of the same name that serves. The new one serves from [`adopt`](Self::adopt) on.
    pub fn build_pool(&self, spec: PoolSpec, now: Instant) -> Arc<Pool> {
        let previous = self.pools.lock().get(&spec.name).and_then(Weak::upgrade);
        let candidate = self.candidates.lock().get(&spec.name).and_then(Weak::upgrade);
        if let Some(known) = previous.iter().chain(&candidate).find(|known| *known.spec() == spec) {
            return known.clone();
        }
        let name = spec.name.clone();
        let key = ScopeKey::from(&spec.scope);
        let mut new_checks: Vec<Arc<Check>> = Vec::new();
        let record_of = |member: &MemberSpec| {
            let (record, is_new) = self.record_of(member, &key, now);
            let check = self.check_of(member, &record, is_new, now).map(|(check, made)| {
                if made {
                    new_checks.push(check.clone());
                }
                check
            });
            Found { record, is_new, check }
        };
        let pool = Pool::build(spec, record_of, previous.as_deref(), self.hub.clone(), now);
        // Not before the pool stands: the result of a check is told to pools.
        for check in &new_checks {
            self.checks.add(check, now);
        }
        if !new_checks.is_empty() {
            self.hub.wake();
        }
        self.candidates.lock().insert(name, Arc::downgrade(&pool));
        pool
    }

    /// From here on these pools serve, each in the place of the one that had its name.
    pub fn adopt<'a>(&self, pools: impl IntoIterator<Item = &'a Arc<Pool>>) {
        let (mut serving, mut candidates) = (self.pools.lock(), self.candidates.lock());
        let mut sweeps = false;
        for pool in pools {
            candidates.remove(pool.name());
            let before = serving.insert(pool.name().clone(), Arc::downgrade(pool));
            if let Some(before) = before.and_then(|before| before.upgrade()) {
                before.make_way_for(pool);
            }
            sweeps |= pool.sweeps();
        }
        drop((serving, candidates));
        if sweeps {
            // Not before they are on the list: whoever is woken must find them.
            self.hub.wake();
        }
    }

    /// The record of an endpoint in a scope, and whether it is new.
    fn record_of(&self, member: &MemberSpec, key: &ScopeKey, now: Instant) -> (Arc<Record>, bool) {
        let mut endpoints = self.endpoints.lock();
        let known = endpoints.get(&member.identity).and_then(Weak::upgrade);
        let endpoint = known.unwrap_or_else(|| {
            let endpoint = Endpoint::new(member.identity.clone());
            endpoints.insert(member.identity.clone(), Arc::downgrade(&endpoint));
            endpoint
        });
        if let Some(record) = endpoint.records().into_iter().find(|record| record.key() == key) {
            return (record, false);
        }
        let record = Record::new(endpoint.clone(), key.clone(), self.hub.clone(), now);
        endpoint.attach(&record);
        (record, true)
    }

    /// The check that a member has to pass, one for all that ask the endpoint the same, and whether it is new.
    fn check_of(
        &self,
        member: &MemberSpec,
        record: &Arc<Record>,
        is_new: bool,
        now: Instant,
    ) -> Option<(Arc<Check>, bool)> {
        let Some(spec) = &member.check else {
            record.set_check(None, false, !is_new);
            return None;
        };
        let endpoint = record.endpoint();
        let make = || {
            Check::new(endpoint.clone(), spec.as_ref().clone(), self.checks.clone(), self.hub.clone(), now)
        };
        let (check, made) = endpoint.check(spec, make);
        record.set_check(Some(&check), made, !is_new);
        Some((check, made))
    }

    /// Active checks that have no result yet. A new world waits for them a little.
    #[must_use]
    pub fn pending_checks(&self) -> usize {
        self.checks.pending()
    }

    /// Forgets endpoints that no pool refers to any longer. To be called after a change of the state.
    pub fn forget_unused(&self) {
        self.endpoints.lock().retain(|_, endpoint| endpoint.strong_count() > 0);
        self.pools.lock().retain(|_, pool| pool.strong_count() > 0);
        self.candidates.lock().retain(|_, pool| pool.strong_count() > 0);
        self.checks.forget_unused();
    }

    /// How many endpoints are known.
    #[must_use]
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.lock().values().filter(|endpoint| endpoint.strong_count() > 0).count()
    }

    /// Moves on what time moves on, and says which probes to run.
    pub fn tick(&self, now: Instant) -> Tick {
        let (mut checks, mut next) = self.checks.due(now);
        let mut due: Vec<Arc<Record>> = Vec::new();
        for record in self.hub.watched().into_iter().filter_map(|record| record.upgrade()) {
            match record.due(now) {
                Due::Connect => due.push(record.clone()),
                Due::Check(check, deadline) => {
                    checks.extend(check.begin(now));
                    next = next.min(deadline);
                }
                Due::Later(deadline) => next = next.min(deadline),
            }
            if record.stays_watched() {
                self.hub.watch(Arc::downgrade(&record));
            }
        }
        let pools: Vec<Arc<Pool>> = self.pools.lock().values().filter_map(Weak::upgrade).collect();
        // All pools judge the window before one of them ejects whom another counts among its five.
        let mut over = Vec::new();
        for pool in &pools {
            next = next.min(pool.sweep(&mut over, now).unwrap_or(Instant::NEVER));
        }
        for (record, volume) in over {
            record.eject_for_share(volume, now);
        }
        for pool in pools.into_iter().filter(|pool| pool.is_stale(now)) {
            pool.refresh(now);
        }
        Tick { probes: one_per_endpoint(due), checks, next }
    }

    /// A probe ended: connected, or not.
    pub fn probed(&self, probe: &Probe, connected: bool, now: Instant) {
        for record in &probe.records {
            record.probed(connected, now);
        }
        self.hub.wake();
    }

    /// An active check ended.
    pub fn checked(&self, probe: CheckProbe, result: CheckResult, now: Instant) {
        probe.finish(result, now);
    }

    /// Takes what happened since the last call, oldest first.
    #[must_use]
    pub fn drain_events(&self) -> Vec<Event> {
        self.hub.drain()
    }

    /// What every pool sees, sorted by name. `epoch_ms` is the moment zero of `now`, in milliseconds since 1970.
    #[must_use]
    pub fn reports(&self, now: Instant, epoch_ms: u64) -> Vec<PoolReport> {
        self.reports_where(now, epoch_ms, |_| true)
    }

    /// The same, of those pools only whose report is wanted: with thousands of pools the others take no room.
    #[must_use]
    pub fn reports_where(
        &self,
        now: Instant,
        epoch_ms: u64,
        is_wanted: impl Fn(&PoolReport) -> bool,
    ) -> Vec<PoolReport> {
        let pools: Vec<Arc<Pool>> = self.pools.lock().values().filter_map(Weak::upgrade).collect();
        let reports = pools.iter().map(|pool| report::pool(pool, now, epoch_ms));
        let mut reports: Vec<PoolReport> = reports.filter(is_wanted).collect();
        reports.sort_by(|a, b| a.pool.cmp(&b.pool));
        reports
    }

    /// The origins of a pool's references that an event concerns: those that have the endpoint; without one, the
    /// primary references. At most 16.
    #[must_use]
    pub fn origins(&self, pool: &PoolName, endpoint: Option<&Address>) -> Vec<String> {
        let pool = self.pools.lock().get(pool).and_then(Weak::upgrade);
        pool.map(|pool| report::origins(&pool, endpoint)).unwrap_or_default()
    }
}

/// One connection shows all scopes of an endpoint whether it answers.
fn one_per_endpoint(due: Vec<Arc<Record>>) -> Vec<Probe> {
    let mut probes: Vec<Probe> = Vec::new();
    let mut index: HashMap<*const Endpoint, usize> = HashMap::new();
    for record in due {
        let endpoint = record.endpoint().clone();
        let timeout = record.connect_timeout();
        let slot = *index.entry(Arc::as_ptr(&endpoint)).or_insert_with(|| {
            probes.push(Probe { endpoint, timeout, records: Vec::new() });
            probes.len() - 1
        });
        probes[slot].timeout = probes[slot].timeout.max(timeout);
        probes[slot].records.push(record);
    }
    probes
}
