//! What the generator counts. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::content::Pool;

/// Mismatches that are described.
const DESCRIBED: usize = 10;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The very answer that belongs to it, from this pool.
    Good(Pool),
    /// No such answer, for this reason.
    Failed(&'static str),
    /// A whole answer with this status of 500 or above.
    Status(u16),
    /// An answer with something in it that is not its own.
    Mismatch(String),
}

/// Everything that was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests that were due.
    pub(crate) due: u64,
    /// Requests that could not be sent, because too many waited already.
    pub(crate) unsent: u64,
    /// Good answers of the primary pool.
    pub(crate) primary: u64,
    /// Good answers of the fallback pool.
    pub(crate) fallback: u64,
    /// Failures by kind.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Answers with something that was not their own.
    pub(crate) mismatches: u64,
    /// The first of them.
    pub(crate) described: Vec<String>,
    /// Connections that were used.
    pub(crate) connections: usize,
    /// From the first request to the end of the last answer.
    pub(crate) took: Duration,
    /// From the moment that each request was due to the end of its answer, in microseconds.
    pub(crate) latencies: Vec<u32>,
}

impl Tally {
    /// Counts a request that was due so long ago.
    pub(crate) fn note(&mut self, outcome: Outcome, latency: Duration) {
        self.latencies.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
        match outcome {
            Outcome::Good(Pool::Primary) => self.primary += 1,
            Outcome::Good(Pool::Fallback) => self.fallback += 1,
            Outcome::Failed(kind) => *self.failed.entry(kind.to_owned()).or_default() += 1,
            Outcome::Status(status) => *self.failed.entry(format!("status {status}")).or_default() += 1,
            Outcome::Mismatch(what) => {
                self.mismatches += 1;
                if self.described.len() < DESCRIBED {
                    self.described.push(what);
                }
            }
        }
    }

    /// Requests that got an answer or failed.
    pub(crate) fn done(&self) -> u64 {
        self.primary + self.fallback + self.failures() + self.mismatches
    }

    /// Requests without a good answer, mismatches apart.
    pub(crate) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Requests a second over the whole time.
    pub(crate) fn rate(&self) -> f64 {
        self.done() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// The latency below which this share (0 to 1) of the requests stayed, in microseconds.
    pub(crate) fn quantile(&self, share: f64) -> u32 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_counted_once() {
        let mut tally = Tally { took: Duration::from_secs(2), ..Tally::default() };
        let outcomes = [
            Outcome::Good(Pool::Primary),
            Outcome::Good(Pool::Fallback),
            Outcome::Failed("reset"),
            Outcome::Failed("reset"),
            Outcome::Status(503),
            Outcome::Mismatch("x".to_owned()),
        ];
        for (index, outcome) in outcomes.into_iter().enumerate() {
            tally.note(outcome, Duration::from_micros(10 * index as u64));
        }
        assert_eq!((tally.primary, tally.fallback, tally.failures(), tally.mismatches), (1, 1, 3, 1));
        assert_eq!((tally.failed["reset"], tally.failed["status 503"]), (2, 1));
        assert_eq!((tally.done(), tally.rate()), (6, 3.0));
        assert_eq!((tally.quantile(0.0), tally.quantile(1.0), Tally::default().quantile(0.5)), (0, 50, 0));
    }
}
