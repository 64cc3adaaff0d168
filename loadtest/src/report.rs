//! What a benchmark found, as a table.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::wrk::Load;

/// One measurement of one side.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    /// CPU time per request in microseconds.
    pub(crate) cpu_us: f64,
    /// Resident memory at the end, in bytes.
    pub(crate) resident: u64,
    /// What the load saw.
    pub(crate) load: Load,
}

/// Both sides, measured right after one another.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Round {
    pub(crate) measured: Sample,
    pub(crate) bare: Sample,
}

impl Round {
    /// How much more CPU time a request takes than with the bare proxy.
    fn ratio(&self) -> f64 {
        self.measured.cpu_us / self.bare.cpu_us
    }

    /// Answers that were not as they should be; with any, the round does not count.
    fn bad(&self) -> u64 {
        self.measured.load.bad + self.bare.load.bad
    }

    /// The round in one line.
    pub(crate) fn line(&self, number: u32) -> String {
        let invalid =
            if self.bad() > 0 { format!("  INVALID: {} bad answers", self.bad()) } else { String::new() };
        format!(
            "round {number}: {:.2} µs and {:.2} µs of CPU a request, ratio {:.3}{invalid}",
            self.measured.cpu_us,
            self.bare.cpu_us,
            self.ratio()
        )
    }
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    measured: &'static str,
    bare: &'static str,
    machine: String,
    connections: u32,
    seconds: u32,
    ratio: Spread,
    invalid_rounds: usize,
    rounds: Vec<Round>,
}

/// What was measured, and how.
#[derive(Debug)]
pub(crate) struct Setting {
    /// The name of the side that is measured.
    pub(crate) measured: &'static str,
    /// The name of the side that it is compared with.
    pub(crate) bare: &'static str,
    /// The machine in a few words.
    pub(crate) machine: String,
    /// Connections of the load.
    pub(crate) connections: u32,
    /// Seconds of each measurement.
    pub(crate) seconds: u32,
}

/// The middle of several figures, with both ends.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// `None` without figures.
    fn of(figures: impl Iterator<Item = f64>) -> Option<Self> {
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
}

impl Report {
    /// Sums up rounds; those with bad answers are left out.
    ///
    /// # Errors
    /// When no round is valid.
    pub(crate) fn new(setting: Setting, all: Vec<Round>) -> Result<Self> {
        let total = all.len();
        let bad: u64 = all.iter().map(Round::bad).sum();
        let rounds: Vec<Round> = all.into_iter().filter(|round| round.bad() == 0).collect();
        let Some(ratio) = Spread::of(rounds.iter().map(Round::ratio)) else {
            bail!("no valid round: {bad} answers in {total} rounds were not 2xx, or failed");
        };
        let Setting { measured, bare, machine, connections, seconds } = setting;
        let invalid_rounds = total - rounds.len();
        Ok(Self { measured, bare, machine, connections, seconds, ratio, invalid_rounds, rounds })
    }

    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "CPU time per request, {} against {}: median ratio **{:.3}** (from {:.3} to {:.3} in {} rounds)\n\n",
            self.measured,
            self.bare,
            self.ratio.median,
            self.ratio.min,
            self.ratio.max,
            self.rounds.len()
        );
        if self.invalid_rounds > 0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{} rounds with bad answers were left out.\n", self.invalid_rounds);
        }
        text.push_str("| median of the rounds | CPU µs/request | requests/s | p50 µs | p99 µs | RSS MB |\n");
        text.push_str("| --- | ---: | ---: | ---: | ---: | ---: |\n");
        for (name, side) in [(self.measured, measured as fn(&Round) -> &Sample), (self.bare, bare)] {
            let median = |figure: fn(&Sample) -> f64| {
                Spread::of(self.rounds.iter().map(|round| figure(side(round))))
                    .map_or(0.0, |spread| spread.median)
            };
            let _ = writeln!(
                text,
                "| {name} | {:.2} | {:.0} | {:.0} | {:.0} | {:.1} |",
                median(|sample| sample.cpu_us),
                median(|sample| sample.load.rate),
                median(|sample| sample.load.p50_us),
                median(|sample| sample.load.p99_us),
                median(|sample| sample.resident as f64 / 1e6),
            );
        }
        let _ = writeln!(
            text,
            "\nHTTP/1.1 with keep-alive on both sides, one worker thread each, {} connections, {} s a round, \
             order alternating. {}.",
            self.connections, self.seconds, self.machine
        );
        text
    }

    /// Writes the report to a file: JSON where its name ends so, else Markdown.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let text = if path.extension().is_some_and(|extension| extension == "json") {
            format!("{:#}\n", serde_json::to_value(self)?)
        } else {
            self.markdown()
        };
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

fn measured(round: &Round) -> &Sample {
    &round.measured
}

fn bare(round: &Round) -> &Sample {
    &round.bare
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(measured_us: f64, bare_us: f64, bad: u64) -> Round {
        let sample = |cpu_us, bad| Sample {
            cpu_us,
            resident: 10_000_000,
            load: Load { requests: 1, rate: 1.0, p50_us: 1.0, p99_us: 1.0, bad },
        };
        Round { measured: sample(measured_us, bad), bare: sample(bare_us, 0) }
    }

    fn setting() -> Setting {
        Setting { measured: "a", bare: "b", machine: "m".to_owned(), connections: 32, seconds: 5 }
    }

    #[test]
    fn the_ratio_is_the_median_of_the_valid_rounds() {
        let rounds =
            vec![round(11.0, 10.0, 0), round(13.0, 10.0, 0), round(12.0, 10.0, 0), round(99.0, 1.0, 3)];
        let report = Report::new(setting(), rounds).unwrap();
        assert!((report.ratio.median - 1.2).abs() < 1e-9);
        assert_eq!((report.invalid_rounds, report.rounds.len()), (1, 3));
        let text = report.markdown();
        assert!(text.contains("**1.200** (from 1.100 to 1.300 in 3 rounds)"), "{text}");
        assert!(text.contains("1 rounds with bad answers"), "{text}");
        assert!(text.contains("| a | 12.00 |"), "{text}");
    }

    #[test]
    fn without_a_valid_round_there_is_no_report() {
        let error = Report::new(setting(), vec![round(1.0, 1.0, 7)]).unwrap_err();
        assert!(error.to_string().contains("7 answers"), "{error}");
    }

    #[test]
    fn an_even_number_of_figures_has_its_median_between_the_middle_two() {
        let spread = Spread::of([4.0, 1.0, 2.0, 3.0].into_iter()).unwrap();
        assert_eq!(spread, Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of(std::iter::empty()), None);
    }
}
