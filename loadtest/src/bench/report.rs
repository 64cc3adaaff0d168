//! What a benchmark found, as Markdown and JSON. Pure, but for writing files.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::columns::{self, BARE, Column, Described, ENVOY, Sample, Spread, UNDERSTUDY};

/// CPU time per request that Understudy may take, as a multiple of bare Pingora's.
const MOST_TO_BARE: f64 = 1.10;
/// CPU time per request that Understudy may take, as a multiple of Envoy's.
const MOST_TO_ENVOY: f64 = 0.75;

/// How it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    pub(crate) command: String,
    /// The machine in a few words.
    pub(crate) machine: String,
    /// The load average before, when it was more than there are processors.
    pub(crate) overload: Option<f64>,
    /// Connections of the load.
    pub(crate) connections: u32,
    /// Seconds of each measurement.
    pub(crate) seconds: u32,
    /// Whether the proxy had a processor of its own.
    pub(crate) pinned: bool,
    /// Who was left out, and why.
    pub(crate) left_out: Vec<String>,
}

/// The whole run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) setting: Setting,
    pub(crate) columns: Vec<Column>,
    pub(crate) valid_rounds: usize,
    pub(crate) invalid_rounds: usize,
    rounds: Vec<Vec<Sample>>,
}

impl Report {
    /// Sums up rounds; those with bad answers are left out.
    ///
    /// # Errors
    /// When no round is valid.
    pub(crate) fn new(setting: Setting, described: Vec<Described>, all: Vec<Vec<Sample>>) -> Result<Self> {
        let total = all.len();
        let bad_in = |round: &[Sample]| round.iter().map(|sample| sample.load.bad).sum::<u64>();
        let bad: u64 = all.iter().map(|round| bad_in(round)).sum();
        let rounds: Vec<_> = all.into_iter().filter(|round| bad_in(round) == 0).collect();
        let Some(columns) = columns::build(described, &rounds) else {
            bail!("no valid round: {bad} answers in {total} rounds were not 2xx, or failed");
        };
        let (valid_rounds, invalid_rounds) = (rounds.len(), total - rounds.len());
        Ok(Self { setting, columns, valid_rounds, invalid_rounds, rounds })
    }

    fn understudy(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == UNDERSTUDY)
    }

    /// The report as Markdown.
    pub(crate) fn markdown(&self) -> String {
        let setting = &self.setting;
        let mut text = format!("# CPU time per request\n\n`{}`\n\n", setting.command);
        if let Some(load) = setting.overload {
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "**The machine was busy with other things (load average {load:.1}): ratios are rough, and all other \
                 figures say little.**\n"
            );
        }
        text.push_str(&self.verdicts());
        text.push_str(
            "| median of the rounds | CPU µs/request | × bare Pingora (min–max) | × Envoy (min–max) | requests/s | p50 µs | p99 µs | RSS MB |\n\
             | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for column in &self.columns {
            let ratio = |spread: Option<Spread>, to: &str| match spread {
                Some(_) if column.name == to => "1".to_owned(),
                Some(spread) => spread.ratio(),
                None => "–".to_owned(),
            };
            let _ = writeln!(
                text,
                "| {} | {:.2} | {} | {} | {:.0} | {:.0} | {:.0} | {:.1} |",
                column.name,
                column.cpu_us.median,
                ratio(column.to_bare, BARE),
                ratio(column.to_envoy, ENVOY),
                column.rate.median,
                column.p50_us.median,
                column.p99_us.median,
                column.resident_mb.median,
            );
        }
        let pinned = if setting.pinned {
            "The proxy that is measured has one processor, load and backend share another."
        } else {
            "Nothing is pinned: this machine has one processor, or no taskset."
        };
        let _ = writeln!(
            text,
            "\nThe same plain work for all: GET with 256 bytes in the answer, HTTP/1.1 with keep-alive on both sides, \
             one worker thread each, {} connections that ask as fast as they are answered, so latencies are those of a \
             busy proxy. {} rounds of {} s each, after 1 s that does not count; all in turns, beginning with another \
             one each round; the others idle meanwhile. {pinned} CPU time is that of the whole process, user and \
             kernel. Ratios are those within a round. {}.",
            setting.connections, self.valid_rounds, setting.seconds, setting.machine
        );
        if self.invalid_rounds > 0 {
            let _ = writeln!(text, "\n{} rounds with bad answers were left out.", self.invalid_rounds);
        }
        for reason in &setting.left_out {
            let _ = writeln!(text, "\nLeft out: {reason}.");
        }
        text.push_str("\n## What is on\n");
        for column in &self.columns {
            let _ = writeln!(text, "- **{}**: {}.{}", column.name, column.features, self.proof(column));
        }
        text
    }

    /// What was to be reached, and whether it was.
    fn verdicts(&self) -> String {
        let mut text = String::new();
        let Some(column) = self.understudy() else { return text };
        for (spread, name, most) in
            [(column.to_bare, BARE, MOST_TO_BARE), (column.to_envoy, ENVOY, MOST_TO_ENVOY)]
        {
            let Some(spread) = spread else { continue };
            let verdict = if spread.median <= most { "reached" } else { "missed" };
            let _ = writeln!(
                text,
                "- Understudy takes **{:.3}** ({:.3} to {:.3}) of the CPU time of {name}; at most {most:.2} is the aim: {verdict}.",
                spread.median, spread.min, spread.max
            );
        }
        text.push('\n');
        text
    }

    /// What log and statistics of a proxy say.
    fn proof(&self, column: &Column) -> String {
        let mut said = Vec::new();
        if let Some(lines) = column.evidence.lines {
            said.push(format!("{lines} lines in its access log"));
        }
        if let Some(dropped) = column.evidence.dropped {
            said.push(format!("{dropped} lines dropped in the whole run"));
        }
        if let Some(counted) = column.evidence.counted {
            said.push(format!("{counted} requests in its statistics over the whole run"));
        }
        if said.is_empty() { String::new() } else { format!(" After its last turn: {}.", said.join(", ")) }
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::subject::Evidence;
    use crate::wrk::Load;

    fn sample(cpu_us: f64, bad: u64) -> Sample {
        let load = Load { requests: 1, rate: 1e6 / cpu_us, p50_us: 1.0, p99_us: 40.0 * cpu_us, bad };
        Sample { cpu_us, resident: (cpu_us * 1e6) as u64, load }
    }

    fn described(name: &str) -> Described {
        let evidence = Evidence { lines: Some(9), counted: Some(99), dropped: None };
        Described { name: name.to_owned(), features: "a & b", evidence }
    }

    fn setting() -> Setting {
        Setting {
            command: "cargo xtask bench".to_owned(),
            machine: "m".to_owned(),
            overload: Some(17.5),
            connections: 32,
            seconds: 5,
            pinned: true,
            left_out: vec!["Nginx: not installed".to_owned()],
        }
    }

    /// Three valid rounds of three proxies.
    pub(crate) fn report() -> Report {
        let round = |ours, bare, envoy, bad| vec![sample(ours, bad), sample(bare, 0), sample(envoy, 0)];
        let rounds = vec![
            round(11.0, 10.0, 22.0, 0),
            round(13.0, 10.0, 20.0, 0),
            round(12.0, 10.0, 24.0, 0),
            round(99.0, 1.0, 1.0, 3),
        ];
        let described = [UNDERSTUDY, BARE, ENVOY].map(described).into();
        Report::new(setting(), described, rounds).unwrap()
    }

    #[test]
    fn ratios_are_the_medians_of_the_valid_rounds() {
        let report = report();
        assert_eq!((report.invalid_rounds, report.valid_rounds), (1, 3));
        let text = report.markdown();
        for expected in [
            "takes **1.200** (1.100 to 1.300) of the CPU time of bare Pingora; at most 1.10 is the aim: missed.",
            "takes **0.500** (0.500 to 0.650) of the CPU time of Envoy; at most 0.75 is the aim: reached.",
            "| Understudy | 12.00 | 1.20 (1.10–1.30) | 0.50 (0.50–0.65) |",
            "| bare Pingora | 10.00 | 1 | 0.45 (0.42–0.50) |",
            "1 rounds with bad answers",
            "busy with other things (load average 17.5)",
            "Left out: Nginx: not installed.",
            "- **Envoy**: a & b. After its last turn: 9 lines in its access log, 99 requests",
        ] {
            assert!(text.contains(expected), "{expected}\n{text}");
        }
    }

    #[test]
    fn without_a_valid_round_there_is_no_report() {
        let error = Report::new(setting(), vec![described(BARE)], vec![vec![sample(1.0, 7)]]).unwrap_err();
        assert!(error.to_string().contains("7 answers"), "{error}");
    }
}
