//! What a client saw during one run of a case, and what that comes to. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

/// The pool that answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Primary,
    Fallback,
}

/// What a client got for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A whole answer; without a side it came from the gateway itself.
    Whole { status: u16, side: Option<Side> },
    /// An answer whose body is not the one that was asked for.
    Wrong { side: Option<Side> },
    /// An answer whose body ended too early.
    Cut { side: Option<Side> },
    /// No answer.
    Nothing(String),
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sample {
    /// When it was sent, from the start of the run.
    pub(crate) at: Duration,
    /// Until its answer was whole, or failed.
    pub(crate) took: Duration,
    pub(crate) reply: Reply,
}

impl Sample {
    /// Whether the client lost this request: no whole answer, or a 5xx.
    pub(crate) fn is_lost(&self) -> bool {
        !matches!(self.reply, Reply::Whole { status: ..=499, .. })
    }

    /// The pool that answered, if one did.
    pub(crate) fn side(&self) -> Option<Side> {
        match self.reply {
            Reply::Whole { side, .. } | Reply::Wrong { side } | Reply::Cut { side } => side,
            Reply::Nothing(_) => None,
        }
    }

    /// Whether this pool served the client well.
    fn is_served_by(&self, side: Side) -> bool {
        !self.is_lost() && self.side() == Some(side)
    }

    fn end(&self) -> Duration {
        self.at + self.took
    }

    /// What is counted under "answers": the status, or what came instead.
    fn word(&self) -> String {
        match &self.reply {
            Reply::Whole { status, .. } => status.to_string(),
            Reply::Wrong { .. } => "wrong body".to_owned(),
            Reply::Cut { .. } => "cut".to_owned(),
            Reply::Nothing(_) => "no answer".to_owned(),
        }
    }
}

/// What the script did to the backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Something broke.
    Break,
    /// Something was repaired.
    Heal,
}

/// A turn with its time and a word for the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: Duration,
    pub(crate) turn: Turn,
    pub(crate) label: String,
}

/// Everything that was seen in one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) samples: Vec<Sample>,
    pub(crate) marks: Vec<Mark>,
    /// From here on the shares of the pools are counted.
    pub(crate) shares_from: Duration,
    /// Requests that were with a backend when it reset their connections, as the backends counted them.
    pub(crate) on_the_wire: usize,
    /// Length of the run.
    pub(crate) length: Duration,
}

/// A record in figures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) requests: usize,
    pub(crate) lost: usize,
    /// Answers of the primary pool, bad ones included, while shares are counted.
    pub(crate) primary: usize,
    /// Answers of the fallback pool, bad ones included, while shares are counted.
    pub(crate) fallback: usize,
    /// From the first break until the fallback first served.
    pub(crate) failover: Option<Duration>,
    /// From each repair until the primary pool served again.
    pub(crate) returns: Vec<Duration>,
    /// The longest that a client waited.
    pub(crate) slowest: Duration,
    /// How often each kind of answer came.
    pub(crate) answers: BTreeMap<String, usize>,
}

impl Record {
    /// Counts.
    pub(crate) fn summary(&self) -> Summary {
        let mut summary = Summary {
            requests: self.samples.len(),
            lost: self.samples.iter().filter(|sample| sample.is_lost()).count(),
            slowest: self.samples.iter().map(|sample| sample.took).max().unwrap_or_default(),
            failover: self.failovers().first().map(|(broken, served)| *served - *broken),
            returns: self.returns().iter().map(|(healed, served)| *served - *healed).collect(),
            ..Summary::default()
        };
        for sample in &self.samples {
            *summary.answers.entry(sample.word()).or_default() += 1;
            if sample.at >= self.shares_from {
                match sample.side() {
                    Some(Side::Primary) => summary.primary += 1,
                    Some(Side::Fallback) => summary.fallback += 1,
                    None => {}
                }
            }
        }
        summary
    }

    /// Requests lost beyond those that were on the wire when their connections were reset.
    pub(crate) fn lost_needlessly(&self) -> usize {
        self.samples.iter().filter(|sample| sample.is_lost()).count().saturating_sub(self.on_the_wire)
    }

    /// Requests lost among those sent before this time.
    pub(crate) fn lost_before(&self, end: Duration) -> usize {
        self.samples.iter().filter(|sample| sample.at < end && sample.is_lost()).count()
    }

    /// When each break was followed by service of the fallback: (break, end of the first good answer).
    pub(crate) fn failovers(&self) -> Vec<(Duration, Duration)> {
        self.followed(Turn::Break, Side::Fallback)
    }

    /// When each repair was followed by service of the primary pool.
    pub(crate) fn returns(&self) -> Vec<(Duration, Duration)> {
        self.followed(Turn::Heal, Side::Primary)
    }

    /// For each turn of this kind, the first good answer of that side before the next turn of any kind.
    fn followed(&self, turn: Turn, side: Side) -> Vec<(Duration, Duration)> {
        let mut found = Vec::new();
        for (index, mark) in self.marks.iter().enumerate() {
            let until = self.marks[index + 1..].iter().find(|next| next.turn != turn);
            let until = until.map_or(Duration::MAX, |next| next.at);
            let served = self
                .samples
                .iter()
                .filter(|sample| sample.at >= mark.at && sample.at < until && sample.is_served_by(side))
                .map(Sample::end)
                .min();
            // Several backends that break together are one failover.
            let repeated = index > 0 && self.marks[index - 1].turn == turn;
            if let Some(served) = served
                && mark.turn == turn
                && !repeated
            {
                found.push((mark.at, served));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at: u64, reply: Reply) -> Sample {
        Sample { at: Duration::from_millis(at), took: Duration::from_millis(5), reply }
    }

    fn answer(at: u64, status: u16, side: Side) -> Sample {
        sample(at, Reply::Whole { status, side: Some(side) })
    }

    fn mark(at: u64, turn: Turn) -> Mark {
        Mark { at: Duration::from_millis(at), turn, label: String::new() }
    }

    #[test]
    fn only_whole_answers_below_500_are_not_lost() {
        assert!(!answer(0, 404, Side::Primary).is_lost());
        assert!(!answer(0, 200, Side::Fallback).is_lost());
        assert!(answer(0, 500, Side::Primary).is_lost());
        for reply in [
            Reply::Cut { side: Some(Side::Primary) },
            Reply::Wrong { side: None },
            Reply::Nothing("reset".into()),
        ] {
            assert!(sample(0, reply).is_lost());
        }
    }

    #[test]
    fn failover_and_return_are_measured_from_their_turns() {
        let record = Record {
            samples: vec![
                answer(0, 200, Side::Primary),
                answer(110, 503, Side::Primary),
                answer(120, 200, Side::Fallback),
                answer(250, 200, Side::Fallback),
                answer(300, 200, Side::Primary),
                sample(410, Reply::Nothing("closed".into())),
                answer(420, 200, Side::Fallback),
            ],
            marks: vec![
                mark(100, Turn::Break),
                mark(101, Turn::Break),
                mark(200, Turn::Heal),
                mark(400, Turn::Break),
            ],
            ..Record::default()
        };
        let summary = record.summary();
        assert_eq!((summary.requests, summary.lost), (7, 2));
        assert_eq!((summary.primary, summary.fallback), (3, 3));
        assert_eq!(summary.failover, Some(Duration::from_millis(25)));
        assert_eq!(summary.returns, [Duration::from_millis(105)]);
        assert_eq!(record.failovers().len(), 2, "the breaks at 100 and 101 are one");
        assert_eq!(summary.answers["200"], 5);
        assert_eq!(summary.answers["no answer"], 1);
        assert_eq!(record.lost_before(Duration::from_millis(400)), 1);
    }

    #[test]
    fn a_return_after_the_next_break_is_none() {
        let record = Record {
            samples: vec![answer(30, 200, Side::Primary)],
            marks: vec![mark(0, Turn::Break), mark(10, Turn::Heal), mark(20, Turn::Break)],
            ..Record::default()
        };
        assert!(record.summary().returns.is_empty());
    }

    #[test]
    fn shares_leave_the_warm_up_out_and_losses_do_not() {
        let record = Record {
            samples: vec![answer(0, 503, Side::Primary), answer(10, 200, Side::Fallback)],
            shares_from: Duration::from_millis(10),
            ..Record::default()
        };
        let summary = record.summary();
        assert_eq!((summary.lost, summary.primary, summary.fallback), (1, 0, 1));
    }

    #[test]
    fn an_empty_record_comes_to_zero() {
        assert_eq!(Record::default().summary(), Summary::default());
    }
}
