//! The figures of each proxy, from the samples of all rounds. Pure.

use serde::Serialize;

use crate::subject::Evidence;
use crate::wrk::Load;

/// The name of the proxy that all are compared with.
pub(crate) const BARE: &str = "bare Pingora";
/// The name of the proxy that this is about.
pub(crate) const UNDERSTUDY: &str = "Understudy";
/// The second one to compare with, when it takes part.
pub(crate) const ENVOY: &str = "Envoy";

/// One measurement of one proxy.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// CPU time per request in microseconds.
    pub(crate) cpu_us: f64,
    /// Resident memory at the end, in bytes.
    pub(crate) resident: u64,
    /// What the load saw.
    pub(crate) load: Load,
}

/// The middle of several figures, with both ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// `None` without figures.
    pub(crate) fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Some(Self { median, min, max })
    }

    /// As `1.09 (1.07–1.13)`.
    pub(crate) fn ratio(&self) -> String {
        format!("{:.2} ({:.2}–{:.2})", self.median, self.min, self.max)
    }
}

/// A proxy that was measured.
pub(crate) struct Described {
    pub(crate) name: String,
    /// What is switched on in it.
    pub(crate) features: &'static str,
    pub(crate) evidence: Evidence,
}

/// The figures of one proxy.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) features: &'static str,
    /// CPU time per request in microseconds.
    pub(crate) cpu_us: Spread,
    /// Requests per second.
    pub(crate) rate: Spread,
    /// Median latency in microseconds.
    pub(crate) p50_us: Spread,
    /// 99th percentile of the latency in microseconds.
    pub(crate) p99_us: Spread,
    /// Resident memory in megabytes.
    pub(crate) resident_mb: Spread,
    /// CPU time as a multiple of the bare proxy's in the same round.
    pub(crate) to_bare: Option<Spread>,
    /// CPU time as a multiple of Envoy's in the same round.
    pub(crate) to_envoy: Option<Spread>,
    pub(crate) evidence: Evidence,
}

/// One column for each proxy; every round has one sample for each, in the same order. `None` without a round.
pub(crate) fn build(described: Vec<Described>, rounds: &[Vec<Sample>]) -> Option<Vec<Column>> {
    let position = |name: &str| described.iter().position(|one| one.name == name);
    let (bare, envoy) = (position(BARE), position(ENVOY));
    described
        .into_iter()
        .enumerate()
        .map(|(index, described)| {
            let spread =
                |figure: fn(&Sample) -> f64| Spread::of(rounds.iter().map(|samples| figure(&samples[index])));
            let ratio_to = |other: Option<usize>| {
                let other = other?;
                Spread::of(rounds.iter().map(|samples| samples[index].cpu_us / samples[other].cpu_us))
            };
            Some(Column {
                name: described.name,
                features: described.features,
                cpu_us: spread(|sample| sample.cpu_us)?,
                rate: spread(|sample| sample.load.rate)?,
                p50_us: spread(|sample| sample.load.p50_us)?,
                p99_us: spread(|sample| sample.load.p99_us)?,
                resident_mb: spread(|sample| sample.resident as f64 / 1e6)?,
                to_bare: ratio_to(bare),
                to_envoy: ratio_to(envoy),
                evidence: described.evidence,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_even_number_of_figures_has_its_median_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(std::iter::empty()), None);
        assert_eq!(spread.ratio(), "2.50 (1.00–4.00)");
    }
}
