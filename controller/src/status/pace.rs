//! How often statuses are written: all of them together, and each one.
//!
//! Inputs: what has to be written, and `now`. Outputs: what may be written now, or when something may. Pure.
//!
//! Whatever changes again before its turn is written once, as it is then. The more important kinds come first: a
//! thousand new routes do not make their Gateway wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use crate::watch::{Kind, ObjectId};

/// Writes of all objects together: at most this many at once, and one more each [`REFILL`].
const BURST: u32 = 100;
const REFILL: Duration = Duration::from_millis(20);
/// Writes of one object: at most this many at once, and one more each [`SPACING`].
const OBJECT_BURST: u32 = 3;
const SPACING: Duration = Duration::from_millis(1500);
/// An object that does not keep what is written to it is left alone for up to this long.
const LONGEST: Duration = Duration::from_secs(300);

/// A number of writes that grows with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    tokens: u32,
    since: Instant,
}

impl Bucket {
    fn new(tokens: u32, now: Instant) -> Self {
        Self { tokens, since: now }
    }

    fn fill(&mut self, burst: u32, refill: Duration, now: Instant) {
        let grown = now.saturating_duration_since(self.since).as_nanos() / refill.as_nanos();
        let grown = u32::try_from(grown).unwrap_or(u32::MAX);
        if grown >= burst - self.tokens.min(burst) {
            *self = Self::new(burst, now);
        } else {
            self.tokens += grown;
            self.since += refill * grown;
        }
    }

    /// When the next write may be.
    fn next(&self, refill: Duration) -> Instant {
        if self.tokens > 0 { self.since } else { self.since + refill }
    }
}

/// The pace of one object.
#[derive(Debug)]
struct Pace {
    bucket: Bucket,
    /// Not before this, after a failure or because the object does not keep what is written.
    not_before: Instant,
    /// What was written the last time.
    last: Option<u64>,
    /// How often the same was written again, or writing failed.
    repeats: u32,
}

/// What waits to be written.
#[derive(Debug)]
pub(super) struct Pacer {
    all: Bucket,
    paces: HashMap<ObjectId, Pace>,
    /// In the order in which they are written.
    waiting: BTreeSet<(u8, u64, ObjectId)>,
    places: BTreeMap<ObjectId, u64>,
    next_place: u64,
}

impl Pacer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            all: Bucket::new(BURST, now),
            paces: HashMap::new(),
            waiting: BTreeSet::new(),
            places: BTreeMap::new(),
            next_place: 0,
        }
    }

    /// Something has to be written to an object. It keeps its place if it waits already.
    pub(super) fn want(&mut self, id: &ObjectId) {
        if !self.places.contains_key(id) {
            self.places.insert(id.clone(), self.next_place);
            self.waiting.insert((rank(id.kind), self.next_place, id.clone()));
            self.next_place += 1;
        }
    }

    /// Nothing has to be written to an object any more.
    pub(super) fn drop(&mut self, id: &ObjectId) {
        if let Some(place) = self.places.remove(id) {
            self.waiting.remove(&(rank(id.kind), place, id.clone()));
        }
    }

    /// What may be written now, or when something may; `None` where nothing waits.
    pub(super) fn next(&mut self, now: Instant) -> Option<Result<ObjectId, Instant>> {
        self.all.fill(BURST, REFILL, now);
        self.paces.retain(|_, pace| {
            pace.bucket.fill(OBJECT_BURST, SPACING, now);
            pace.bucket.tokens < OBJECT_BURST || pace.not_before + LONGEST > now && pace.repeats > 0
        });
        let mut soonest: Option<Instant> = None;
        for (_, _, id) in &self.waiting {
            let due = match self.paces.get(id) {
                Some(pace) => pace.bucket.next(SPACING).max(pace.not_before),
                None => now,
            };
            if due <= now {
                let due = self.all.next(REFILL);
                return Some(if due <= now { Ok(id.clone()) } else { Err(due) });
            }
            soonest = Some(soonest.map_or(due, |soonest| soonest.min(due)));
        }
        soonest.map(Err)
    }

    /// Something is being written to an object; `content` tells it from other contents.
    pub(super) fn begin(&mut self, id: &ObjectId, content: u64, now: Instant) {
        self.drop(id);
        self.all.tokens = self.all.tokens.saturating_sub(1);
        let pace = self.pace(id, now);
        pace.bucket.tokens = pace.bucket.tokens.saturating_sub(1);
        if pace.last.replace(content) == Some(content) {
            // Somebody else writes there as well, or the API server takes away what it does not know.
            pace.repeats = pace.repeats.saturating_add(1);
            pace.not_before = now + backoff(pace.repeats);
        } else {
            pace.repeats = 0;
        }
    }

    /// Writing failed for a reason that lies in the object or in our rights: not again too soon.
    pub(super) fn refuse(&mut self, id: &ObjectId, now: Instant) {
        let pace = self.pace(id, now);
        pace.repeats = pace.repeats.saturating_add(3);
        pace.not_before = now + backoff(pace.repeats);
    }

    /// What was begun was not carried out, through no fault of the object.
    pub(super) fn forgive(&mut self, id: &ObjectId) {
        if let Some(pace) = self.paces.get_mut(id) {
            (pace.last, pace.repeats, pace.not_before) = (None, 0, pace.bucket.since);
        }
    }

    fn pace(&mut self, id: &ObjectId, now: Instant) -> &mut Pace {
        self.paces.entry(id.clone()).or_insert_with(|| Pace {
            bucket: Bucket::new(OBJECT_BURST, now),
            not_before: now,
            last: None,
            repeats: 0,
        })
    }
}

fn backoff(repeats: u32) -> Duration {
    SPACING.saturating_mul(1 << repeats.min(8)).min(LONGEST)
}

fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::GatewayClass => 0,
        Kind::Gateway => 1,
        Kind::Backend => 2,
        kind if kind.is_route() => 4,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Key;

    fn id(kind: Kind, name: &str) -> ObjectId {
        ObjectId { kind, key: Key::new("default", name) }
    }

    /// Writes whatever may be written until a time; returns when.
    fn drain(pacer: &mut Pacer, from: Instant, until: Instant) -> Vec<(Duration, ObjectId)> {
        let mut now = from;
        let mut written = Vec::new();
        while let Some(next) = pacer.next(now) {
            match next {
                Ok(id) => {
                    pacer.begin(&id, written.len() as u64, now);
                    written.push((now - from, id));
                }
                Err(due) if due > until => break,
                Err(due) => now = due,
            }
        }
        written
    }

    #[tokio::test(start_paused = true)]
    async fn all_writes_together_have_a_burst_and_a_rate() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        (0..1000).for_each(|n| pacer.want(&id(Kind::HttpRoute, &n.to_string())));
        let written = drain(&mut pacer, now, now + Duration::from_secs(10));
        let in_time = |limit: f64| written.iter().filter(|(at, _)| at.as_secs_f64() <= limit).count();
        assert_eq!((in_time(0.0), in_time(1.0), in_time(10.0)), (100, 150, 600));
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_does_not_wait_for_the_routes_before_it() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        (0..1000).for_each(|n| pacer.want(&id(Kind::HttpRoute, &n.to_string())));
        pacer.want(&id(Kind::Gateway, "eg"));
        assert_eq!(pacer.next(now), Some(Ok(id(Kind::Gateway, "eg"))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_changes_all_the_time_is_written_each_one_and_a_half_seconds() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        let gateway = id(Kind::Gateway, "eg");
        let mut written = 0_u64;
        for step in 0..6000 {
            let now = now + Duration::from_millis(10) * step;
            pacer.want(&gateway);
            if let Some(Ok(found)) = pacer.next(now) {
                pacer.begin(&found, written, now);
                written += 1;
            }
        }
        // 60 s: three at once, then 40.
        assert!((40..=43).contains(&written), "{written}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_does_not_keep_what_is_written_is_written_ever_less_often() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        let backend = id(Kind::Backend, "active");
        let mut written = 0;
        for step in 0..36_000 {
            let now = now + Duration::from_millis(100) * step;
            pacer.want(&backend);
            if let Some(Ok(found)) = pacer.next(now) {
                pacer.begin(&found, 7, now);
                written += 1;
            }
        }
        // An hour of it.
        assert!(written <= 25, "{written}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_put_right_again_before_its_turn_is_not_written() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        let backend = id(Kind::Backend, "active");
        pacer.want(&backend);
        pacer.drop(&backend);
        assert_eq!(pacer.next(now), None);
        assert!(pacer.waiting.is_empty() && pacer.places.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_rest_are_forgotten() {
        let now = Instant::now();
        let mut pacer = Pacer::new(now);
        (0..50).for_each(|n| pacer.want(&id(Kind::HttpRoute, &n.to_string())));
        drain(&mut pacer, now, now);
        assert_eq!(pacer.next(now + Duration::from_secs(10)), None);
        assert!(pacer.paces.is_empty());
    }
}
