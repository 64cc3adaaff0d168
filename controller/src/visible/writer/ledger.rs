//! What is written where, and when more may be. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::Wanted;
use crate::cluster::Key;
use crate::visible::budget::Bucket;
use crate::visible::condition::{HEALTHY, ROLE};

/// Writes of one Backend at once, and how long one more takes: a flapping endpoint costs no more.
const BURST: u32 = 3;
const EVERY: Duration = Duration::from_secs(10);
/// The pause between two writes of one Backend.
const PAUSE: Duration = Duration::from_secs(2);
/// The pause after a write that failed, which doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// A condition as it stands at the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) kind: String,
    status: String,
    reason: String,
    message: String,
    generation: Option<i64>,
    /// When `status` changed last.
    transition: String,
}

impl Written {
    fn says_the_same(&self, other: &Self) -> bool {
        (&self.kind, &self.status, &self.reason, &self.message, self.generation)
            == (&other.kind, &other.status, &other.reason, &other.message, other.generation)
    }
}

/// Our conditions in a status.
pub(crate) fn written_in(status: &Value) -> Vec<Written> {
    let conditions = status["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    let found = conditions.iter().map(|condition| Written {
        kind: text(condition, "type"),
        status: text(condition, "status"),
        reason: text(condition, "reason"),
        message: text(condition, "message"),
        generation: condition["observedGeneration"].as_i64(),
        transition: text(condition, "lastTransitionTime"),
    });
    found.filter(|condition| [HEALTHY, ROLE].contains(&condition.kind.as_str())).collect()
}

/// What stands in each Backend.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: BTreeMap<Key, Entry>,
}

struct Entry {
    uid: Option<String>,
    written: Vec<Written>,
    bucket: Bucket,
    not_before: Duration,
    failures: u32,
}

impl Entry {
    fn new(uid: Option<String>, written: Vec<Written>, now: Duration) -> Self {
        Self { uid, written, bucket: Bucket::new(BURST, EVERY, now), not_before: Duration::ZERO, failures: 0 }
    }
}

impl Ledger {
    /// Notes what was found.
    pub(crate) fn remember(&mut self, key: Key, uid: Option<String>, written: Vec<Written>, now: Duration) {
        self.entries.insert(key, Entry::new(uid, written, now));
    }

    /// The Backends to write now, and when the next one may be written that may not be yet.
    pub(crate) fn due(
        &mut self,
        wanted: &BTreeMap<Key, Wanted>,
        now: Duration,
    ) -> (Vec<Key>, Option<Duration>) {
        self.entries.retain(|key, _| wanted.contains_key(key));
        let (mut due, mut next) = (Vec::new(), None);
        for (key, wanted) in wanted {
            let entry = self
                .entries
                .entry(key.clone())
                .or_insert_with(|| Entry::new(wanted.info.uid.clone(), Vec::new(), now));
            if entry.uid != wanted.info.uid {
                // Another object of the same name. What it costs counts together.
                entry.uid.clone_from(&wanted.info.uid);
                entry.written.clear();
            }
            let should = conditions_of(&entry.written, wanted, "");
            let stands = should.len() == entry.written.len()
                && should.iter().all(|new| entry.written.iter().any(|old| old.says_the_same(new)));
            if stands {
                continue;
            }
            let at = entry.bucket.ready_at(now).max(entry.not_before);
            if at <= now {
                due.push(key.clone());
            } else {
                next = next.into_iter().chain([at]).min();
            }
        }
        (due, next)
    }

    /// The conditions as they are to stand. `now` is the time, as Kubernetes writes it.
    pub(crate) fn conditions(&self, key: &Key, wanted: &Wanted, now: &str) -> Vec<Written> {
        let written = self.entries.get(key).map(|entry| entry.written.as_slice()).unwrap_or_default();
        conditions_of(written, wanted, now)
    }

    /// They were written.
    pub(crate) fn written(&mut self, key: &Key, conditions: Vec<Written>, now: Duration) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.written = conditions;
        entry.failures = 0;
        entry.bucket.take(now);
        entry.not_before = now + PAUSE;
    }

    /// They could not be written. Says when to try again.
    pub(crate) fn failed(&mut self, key: &Key, now: Duration) -> Duration {
        let Some(entry) = self.entries.get_mut(key) else { return now + RETRY.1 };
        let pause = (RETRY.0 * 2_u32.pow(entry.failures.min(5))).min(RETRY.1);
        entry.failures += 1;
        entry.bucket.take(now);
        entry.not_before = now + pause;
        entry.not_before
    }
}

fn conditions_of(written: &[Written], wanted: &Wanted, now: &str) -> Vec<Written> {
    let conditions = wanted.conditions.iter().map(|condition| {
        let before = written.iter().find(|old| old.kind == condition.kind && old.status == condition.status);
        Written {
            kind: condition.kind.to_owned(),
            status: condition.status.to_owned(),
            reason: condition.reason.to_owned(),
            message: condition.message.clone(),
            generation: wanted.info.generation,
            transition: before.map_or_else(|| now.to_owned(), |old| old.transition.clone()),
        }
    });
    conditions.collect()
}

/// What is applied: our conditions and no others.
pub(crate) fn patch(key: &Key, wanted: &Wanted, conditions: &[Written]) -> Value {
    let conditions = conditions.iter().map(|condition| {
        let mut value = json!({
            "type": condition.kind,
            "status": condition.status,
            "reason": condition.reason,
            "message": condition.message,
            "lastTransitionTime": condition.transition,
        });
        if let Some(generation) = condition.generation {
            value["observedGeneration"] = generation.into();
        }
        value
    });
    let mut patch = json!({
        "apiVersion": understudy_crds::API_VERSION,
        "kind": "Backend",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "status": {"conditions": conditions.collect::<Vec<_>>()},
    });
    // An object that took the name meanwhile is not meant.
    if let Some(uid) = &wanted.info.uid {
        patch["metadata"]["uid"] = uid.as_str().into();
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::visible::condition;
    use crate::visible::inventory::BackendInfo;

    const SECOND: Duration = Duration::from_secs(1);

    fn key() -> Key {
        Key::new("default", "active")
    }

    fn wanted(message: &str, uid: &str, generation: i64) -> BTreeMap<Key, Wanted> {
        let info = BackendInfo {
            uid: Some(uid.to_owned()),
            generation: Some(generation),
            is_fallback: false,
            is_used: true,
        };
        let health = match message {
            "" => condition::all_healthy(1),
            message => condition::endpoints_ejected(message.to_owned()),
        };
        let conditions = vec![health, condition::role(&info)];
        BTreeMap::from([(key(), Wanted { info, conditions })])
    }

    fn write(ledger: &mut Ledger, wanted: &BTreeMap<Key, Wanted>, now: Duration, time: &str) -> bool {
        let (due, _) = ledger.due(wanted, now);
        for key in &due {
            let conditions = ledger.conditions(key, &wanted[key], time);
            ledger.written(key, conditions, now);
        }
        !due.is_empty()
    }

    #[test]
    fn what_stands_already_is_not_written_again() {
        let mut ledger = Ledger::default();
        assert!(write(&mut ledger, &wanted("", "u", 1), SECOND, "t1"));
        for second in 2..100 {
            assert!(!write(&mut ledger, &wanted("", "u", 1), SECOND * second, "t2"));
        }
        assert!(write(&mut ledger, &wanted("", "u", 2), SECOND * 100, "t3"), "observedGeneration counts");
        // A new leader finds what the one before wrote.
        let patch = patch(&key(), &wanted("", "u", 2)[&key()], &ledger.entries[&key()].written);
        let mut successor = Ledger::default();
        successor.remember(key(), Some("u".to_owned()), written_in(&patch["status"]), SECOND);
        assert!(!write(&mut successor, &wanted("", "u", 2), SECOND * 2, "t4"));
        assert!(
            write(&mut successor, &wanted("", "other", 2), SECOND * 9, "t4"),
            "another object of the name"
        );
    }

    #[test]
    fn the_transition_time_is_that_of_the_last_change_of_status() {
        let mut ledger = Ledger::default();
        let times = |ledger: &Ledger| ledger.entries[&key()].written[0].transition.clone();
        for (second, message, time, expected) in
            [(0, "", "t0", "t0"), (10, "a", "t1", "t1"), (20, "b", "t2", "t1"), (40, "", "t3", "t3")]
        {
            assert!(write(&mut ledger, &wanted(message, "u", 1), SECOND * second, time), "{second}");
            assert_eq!(times(&ledger), expected);
        }
    }

    #[test]
    fn a_flapping_backend_is_written_three_times_and_then_every_ten_seconds() {
        let mut ledger = Ledger::default();
        let mut writes = Vec::new();
        for tenth in 0..600_u32 {
            let message = if tenth % 2 == 0 { "out" } else { "" };
            let now = Duration::from_millis(100) * tenth;
            if write(&mut ledger, &wanted(message, "u", 1), now, "t") {
                writes.push(now);
            }
        }
        assert!(writes.windows(2).all(|two| two[1] - two[0] >= PAUSE), "{writes:?}");
        assert!(writes.len() <= 3 + 6 && writes.len() >= 7, "{writes:?}");
        assert!(writes[4..].windows(2).all(|two| two[1] - two[0] >= SECOND * 9), "{writes:?}");
    }

    #[test]
    fn what_may_not_be_written_yet_says_when_it_may_and_failures_wait_longer_each_time() {
        let mut ledger = Ledger::default();
        assert!(write(&mut ledger, &wanted("", "u", 1), SECOND, "t"));
        assert_eq!(ledger.due(&wanted("x", "u", 1), SECOND * 2), (vec![], Some(SECOND * 3)));
        let pauses: Vec<u64> = (0..7).map(|_| ledger.failed(&key(), Duration::ZERO).as_secs()).collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn only_our_own_conditions_are_read_and_applied() {
        let status = json!({"conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "t"},
            {"type": HEALTHY, "status": "True", "reason": "AllHealthy", "message": "m", "lastTransitionTime": "t"},
        ]});
        assert_eq!(written_in(&status).len(), 1);
        assert!(written_in(&json!(null)).is_empty());
        let wanted = wanted("a", "u", 7);
        let conditions = conditions_of(&[], &wanted[&key()], "2026-11-23T12:00:00Z");
        let patch = patch(&key(), &wanted[&key()], &conditions);
        let kinds: Vec<_> = patch["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["type"].as_str().unwrap())
            .collect();
        assert_eq!(kinds, [HEALTHY, ROLE]);
        assert_eq!(patch["status"]["conditions"][0]["observedGeneration"], 7);
        assert_eq!(patch["metadata"]["uid"], "u");
    }
}
