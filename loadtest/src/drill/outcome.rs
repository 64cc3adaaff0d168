//! What the runs of both proxies came to, side by side. Pure.

use std::cmp::Ordering;

use super::gateway::Proxy;
use super::record::Record;

/// What became of one run: what was seen, or why it could not be done.
pub(crate) type Ran = Result<Record, String>;

/// One plan with what each proxy did; `None` for a proxy that did not take part.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) case: &'static str,
    pub(crate) title: &'static str,
    pub(crate) label: String,
    /// Only what is lost beyond the requests on the wire counts.
    pub(crate) wire: bool,
    pub(crate) understudy: Option<Ran>,
    pub(crate) envoy: Option<Ran>,
}

/// Who lost fewer requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    Understudy,
    Envoy,
    Equal,
}

impl Row {
    /// What a proxy did.
    pub(crate) fn of(&self, proxy: Proxy) -> Option<&Ran> {
        match proxy {
            Proxy::Understudy => self.understudy.as_ref(),
            Proxy::Envoy => self.envoy.as_ref(),
        }
    }

    /// Compares; `None` unless both ran.
    pub(crate) fn better(&self) -> Option<Better> {
        let (understudy, envoy) = (self.counted(Proxy::Understudy)?, self.counted(Proxy::Envoy)?);
        Some(match understudy.cmp(&envoy) {
            Ordering::Less => Better::Understudy,
            Ordering::Equal => Better::Equal,
            Ordering::Greater => Better::Envoy,
        })
    }

    /// How many lost requests count against a proxy; `None` if it did not run.
    pub(crate) fn counted(&self, proxy: Proxy) -> Option<usize> {
        let record = self.of(proxy)?.as_ref().ok()?;
        Some(if self.wire { record.lost_needlessly() } else { record.summary().lost })
    }

    /// Why a proxy could not run, for each that could not.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (Proxy, &str)> {
        [Proxy::Understudy, Proxy::Envoy]
            .into_iter()
            .filter_map(|proxy| Some((proxy, self.of(proxy)?.as_ref().err()?.as_str())))
    }

    /// The name of the run.
    pub(crate) fn name(&self) -> String {
        format!("{} ({})", self.case, self.label)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::drill::record::{Mark, Reply, Sample, Side, Turn};

    /// A record with so many lost requests and so many good answers of the fallback after a kill.
    pub(crate) fn record(lost: usize, good: usize) -> Record {
        let sample = |index: usize, reply| Sample {
            at: Duration::from_millis(100 + 20 * index as u64),
            took: Duration::from_millis(2),
            reply,
        };
        let mut samples: Vec<Sample> =
            (0..lost).map(|index| sample(index, Reply::Whole { status: 503, side: None })).collect();
        samples.extend(
            (lost..lost + good)
                .map(|index| sample(index, Reply::Whole { status: 200, side: Some(Side::Fallback) })),
        );
        let mark = Mark { at: Duration::from_millis(90), turn: Turn::Break, label: "primary killed".into() };
        let length = Duration::from_millis(200 + 20 * (lost + good) as u64);
        Record { samples, marks: vec![mark], length, ..Record::default() }
    }

    pub(crate) fn row(case: &'static str, label: &str, understudy: Option<Ran>, envoy: Option<Ran>) -> Row {
        Row { case, title: "a title", label: label.to_owned(), wire: false, understudy, envoy }
    }

    #[test]
    fn fewer_lost_requests_are_better_but_for_those_on_the_wire() {
        let wired = |lost, on_the_wire| Some(Ok(Record { on_the_wire, ..record(lost, 8) }));
        let mut row = row("1", "x", wired(2, 2), wired(3, 3));
        assert_eq!(row.better(), Some(Better::Understudy));
        row.wire = true;
        assert_eq!(row.better(), Some(Better::Equal));
        row.understudy = wired(4, 3);
        assert_eq!(row.better(), Some(Better::Envoy));
        assert_eq!((row.counted(Proxy::Understudy), row.counted(Proxy::Envoy)), (Some(1), Some(0)));
    }

    #[test]
    fn what_did_not_run_is_not_compared() {
        let row = row("1", "x", Some(Ok(record(0, 1))), Some(Err("no port".to_owned())));
        assert_eq!(row.better(), None);
        assert_eq!(row.failures().collect::<Vec<_>>(), [(Proxy::Envoy, "no port")]);
    }
}
