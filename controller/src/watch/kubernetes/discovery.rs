//! Which kinds the API server has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::watch::Kind;
use crate::watch::kubernetes::Event;
use crate::watch::kubernetes::backoff::Backoff;
use crate::watch::kubernetes::reflector::Reflector;
use crate::watch::kubernetes::requests::{RequestError, Requests};
use crate::watch::kubernetes::target::Target;

/// A kind counts as absent when it is so twice: an API server that has just started may not know all its kinds. Where it
/// was there before, that takes the whole interval.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// Looks that a kind asks for which seems to be gone are at least this far apart.
const DISTANCE: Duration = Duration::from_secs(2);

/// Watches every kind that the API server has, and each that it gets.
pub(crate) async fn watch_all(requests: Arc<Requests>, events: mpsc::Sender<Event>, interval: Duration) {
    let mut watches = Watches {
        requests,
        events,
        missing: Arc::new(Notify::new()),
        tasks: JoinSet::new(),
        watched: BTreeMap::new(),
    };
    for target in Kind::all().filter_map(Target::built_in) {
        watches.start(target);
    }
    let mut absent_before = BTreeSet::new();
    let mut absent = BTreeSet::new();
    let mut backoff = Backoff::default();
    loop {
        let found = match watches.look().await {
            Ok(found) => found,
            Err(error) => {
                if backoff.fail() % 20 == 2 {
                    log::warn!("the API server does not say which kinds it has: {error}");
                }
                backoff.wait().await;
                continue;
            }
        };
        backoff.reset();
        let mut doubtful = BTreeSet::new();
        for kind in Kind::all().filter(|kind| Target::built_in(*kind).is_none()) {
            match found.get(&kind) {
                Some(target) => {
                    absent.remove(&kind);
                    watches.start(*target);
                }
                None if absent_before.contains(&kind) => {
                    if absent.insert(kind) {
                        log::info!("the cluster has no kind {kind}; it is looked for every {interval:?}");
                        watches.stop(kind);
                        if watches.events.send(Event::Absent(kind)).await.is_err() {
                            return;
                        }
                    }
                }
                None => drop(doubtful.insert(kind)),
            }
        }
        absent_before = absent.union(&doubtful).copied().collect();
        if doubtful.is_empty() {
            // What wakes it up may do so often.
            sleep(DISTANCE.min(interval)).await;
            let _ = timeout(interval.saturating_sub(DISTANCE), watches.missing.notified()).await;
        } else {
            let had = doubtful.iter().any(|kind| watches.watched.contains_key(kind));
            sleep(if had { interval } else { SECOND_LOOK }).await;
        }
    }
}

struct Watches {
    requests: Arc<Requests>,
    events: mpsc::Sender<Event>,
    missing: Arc<Notify>,
    tasks: JoinSet<()>,
    watched: BTreeMap<Kind, (Target, AbortHandle)>,
}

impl Watches {
    /// Finds the best version of each kind that is not built in.
    async fn look(&self) -> Result<BTreeMap<Kind, Target>, RequestError> {
        let mut answers: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
        let mut found = BTreeMap::new();
        for kind in Kind::all().filter(|kind| Target::built_in(*kind).is_none()) {
            let info = kind.info();
            for version in info.versions {
                let kinds = match answers.get(&(info.group, *version)) {
                    Some(kinds) => kinds,
                    None => {
                        let kinds = self.requests.kinds(info.group, version).await?;
                        answers.entry((info.group, *version)).or_insert(kinds)
                    }
                };
                if kinds.iter().any(|known| known == info.name) {
                    found.insert(kind, Target { kind, version });
                    break;
                }
            }
        }
        Ok(found)
    }

    /// Watches a kind, unless it is watched in this version already.
    fn start(&mut self, target: Target) {
        if self.watched.get(&target.kind).is_some_and(|(known, _)| *known == target) {
            return;
        }
        self.stop(target.kind);
        let reflector = Reflector {
            requests: self.requests.clone(),
            target,
            events: self.events.clone(),
            missing: self.missing.clone(),
        };
        let task = self.tasks.spawn(reflector.run());
        self.watched.insert(target.kind, (target, task));
    }

    fn stop(&mut self, kind: Kind) {
        if let Some((_, task)) = self.watched.remove(&kind) {
            task.abort();
        }
    }
}
