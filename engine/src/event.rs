//! What users are told: switches of pools, ejections, returns.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use understudy_conf::PoolName;

use crate::{Address, Cause, CheckFailure, Instant, Record};

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: Instant,
    /// The pool that it happened to; for an endpoint's event, one of the pools that it is in.
    pub pool: Option<PoolName>,
    /// What.
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    /// Traffic left the primary pool.
    Failover {
        /// Why, in a sentence.
        cause: String,
        /// How long the primary pool had served.
        lasted: Duration,
    },
    /// Traffic came back to the primary pool.
    Failback {
        /// Why, in a sentence.
        cause: String,
        /// How long the primary pool had not served.
        lasted: Duration,
    },
    /// An endpoint was ejected.
    Ejection {
        /// The endpoint.
        endpoint: Address,
        /// What ejected it.
        cause: Cause,
        /// For how long, before it is put on trial.
        duration: Duration,
    },
    /// An endpoint came back.
    Return {
        /// The endpoint.
        endpoint: Address,
        /// How long it had been away.
        away: Duration,
    },
    /// An active check says that an endpoint may take no traffic.
    Unhealthy {
        /// The endpoint.
        endpoint: Address,
        /// Why the check failed.
        failure: CheckFailure,
        /// How long the check had said otherwise.
        lasted: Duration,
    },
    /// An active check passes again.
    Healthy {
        /// The endpoint.
        endpoint: Address,
        /// How long it had failed.
        lasted: Duration,
    },
}

/// How many events wait at most for somebody to take them; older ones are dropped first.
const CAPACITY: usize = 4096;

/// What records tell the engine: events for users, and which records need looking after.
pub(crate) struct Hub {
    queue: Mutex<VecDeque<Event>>,
    watched: Mutex<Vec<Weak<Record>>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Hub {
    pub(crate) fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { queue: Mutex::default(), watched: Mutex::default(), wake: Box::new(wake) })
    }

    pub(crate) fn push(&self, event: Event) {
        let mut queue = self.queue.lock();
        if queue.len() == CAPACITY {
            queue.pop_front();
        }
        queue.push_back(event);
    }

    pub(crate) fn drain(&self) -> Vec<Event> {
        self.queue.lock().drain(..).collect()
    }

    /// Puts a record on the list of those that time moves on. It must not be on it already.
    pub(crate) fn watch(&self, record: Weak<Record>) {
        self.watched.lock().push(record);
    }

    pub(crate) fn watched(&self) -> Vec<Weak<Record>> {
        std::mem::take(&mut *self.watched.lock())
    }

    /// Wakes the driver: deadlines may have changed.
    pub(crate) fn wake(&self) {
        (self.wake)();
    }
}
