//! Load on a gateway while something happens: kept-alive connections, and a new connection for each request.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use super::http::{Answer, Connection, Target};
use super::wait::since;

/// How long a client waits between two requests: the cluster and its clients share a small machine.
const PAUSE: Duration = Duration::from_millis(100);

/// No load runs longer, even if its case forgets it.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// How many clients of which kind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clients {
    /// Clients that keep their connection as long as the gateway does.
    pub(crate) kept: usize,
    /// Clients that connect for each request.
    pub(crate) fresh: usize,
}

/// What came of the requests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Good answers by the Deployment of the pod that gave them.
    pub(crate) good: BTreeMap<String, u64>,
    /// Everything else, by what it was.
    pub(crate) failed: BTreeMap<String, u64>,
    /// The longest time until a good answer.
    pub(crate) slowest: Duration,
}

impl Tally {
    /// All good answers.
    pub(crate) fn answered(&self) -> u64 {
        self.good.values().sum()
    }

    /// How many answers a Deployment's pods gave.
    pub(crate) fn of(&self, deployment: &str) -> u64 {
        self.good.get(deployment).copied().unwrap_or_default()
    }

    /// Requires answers and no failure.
    pub(crate) fn require_no_failure(&self) -> Result<()> {
        if !self.failed.is_empty() || self.answered() == 0 {
            bail!("under load: {self}");
        }
        Ok(())
    }

    fn count(&mut self, outcome: Result<Answer>, took: Duration) {
        match outcome {
            Ok(Answer { status: 200, pod, .. }) => {
                self.slowest = self.slowest.max(took);
                *self.good.entry(deployment_of(&pod).to_owned()).or_default() += 1;
            }
            Ok(answer) => *self.failed.entry(format!("status {}", answer.status)).or_default() += 1,
            Err(error) => *self.failed.entry(format!("{error:#}")).or_default() += 1,
        }
    }

    fn add(&mut self, other: Self) {
        for (name, count) in other.good {
            *self.good.entry(name).or_default() += count;
        }
        for (name, count) in other.failed {
            *self.failed.entry(name).or_default() += count;
        }
        self.slowest = self.slowest.max(other.slowest);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answered", self.answered())?;
        for (name, count) in &self.good {
            write!(f, ", {count} by {name}")?;
        }
        write!(f, ", {} failed", self.failed.values().sum::<u64>())?;
        for (what, count) in &self.failed {
            write!(f, ", {count} × {what}")?;
        }
        write!(f, ", slowest {} ms", self.slowest.as_millis())
    }
}

/// The Deployment of a pod: its name without the two parts that Kubernetes adds.
fn deployment_of(pod: &str) -> &str {
    pod.rsplitn(3, '-').nth(2).unwrap_or(pod)
}

/// Clients at work.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// Starts the clients.
    pub(crate) fn start(target: &Target, clients: Clients) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..clients.kept + clients.fresh).map(|number| {
            let (target, stop) = (target.clone(), Arc::clone(&stop));
            spawn(move || client(&target, &stop, number < clients.kept))
        });
        Self { threads: threads.collect(), stop }
    }

    /// Ends the load, when every client has its last answer.
    pub(crate) fn finish(mut self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Tally::default();
        for thread in self.threads.drain(..) {
            match thread.join() {
                Ok(tally) => sum.add(tally),
                Err(_) => *sum.failed.entry("a client panicked".to_owned()).or_default() += 1,
            }
        }
        sum
    }
}

/// A case that fails under load must not leave its clients behind.
impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn client(target: &Target, stop: &AtomicBool, keeps: bool) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let start = SystemTime::now();
    while !stop.load(Ordering::Relaxed) && since(start) < LIMIT {
        let asked = SystemTime::now();
        let mut once = || {
            let mut current = match connection.take() {
                Some(current) => current,
                None => Connection::open(target.address)?,
            };
            let answer = current.ask(target, !keeps)?;
            if keeps && !answer.last {
                connection = Some(current);
            }
            Ok(answer)
        };
        let outcome = once();
        tally.count(outcome, since(asked));
        sleep(PAUSE);
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_deployment_and_failures_by_what_they_were() {
        let mut tally = Tally::default();
        let answer = |status| Ok(Answer { status, pod: "active-5bb896774f-lz8s9".to_owned(), last: false });
        tally.count(answer(200), Duration::from_millis(7));
        tally.count(answer(503), Duration::from_millis(9));
        assert_eq!(tally.of("active"), 1);
        assert!(tally.require_no_failure().is_err());
        assert_eq!(tally.to_string(), "1 answered, 1 by active, 1 failed, 1 × status 503, slowest 7 ms");
    }

    #[test]
    fn no_answers_at_all_are_a_failure() {
        assert!(Tally::default().require_no_failure().is_err());
    }

    #[test]
    fn a_pod_names_its_deployment() {
        assert_eq!(deployment_of("active-bad-5bb896774f-lz8s9"), "active-bad");
        assert_eq!(deployment_of("alone"), "alone");
    }
}
