//! Stages of a chore: each is timed, failures are shown where they happen, and a table closes the run.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

/// How a stage ended, when it did not fail.
pub(crate) enum Done {
    /// As it should.
    Passed,
    /// As it should, with something to tell.
    Note(String),
    /// It was left out, for this reason.
    Skipped(String),
}

/// Runs stages and remembers how they ended.
#[derive(Default)]
pub(crate) struct Stages {
    only: Vec<String>,
    names: Vec<&'static str>,
    reports: Vec<Report>,
}

struct Report {
    name: &'static str,
    took: Duration,
    budget: Duration,
    end: End,
}

enum End {
    Passed,
    Skipped,
    Failed,
}

impl Stages {
    /// Runs only the stages with these names; all, if there are none.
    pub(crate) fn only(only: Vec<String>) -> Self {
        Self { only, ..Self::default() }
    }

    /// Checks that every stage that was asked for exists. The names are known once all stages were offered.
    pub(crate) fn check_names(&self) -> Result<()> {
        match self.only.iter().find(|name| !self.names.contains(&name.as_str())) {
            Some(name) => bail!("there is no stage {name:?}; there are: {}", self.names.join(", ")),
            None => Ok(()),
        }
    }

    /// Runs a stage. A failure is printed and remembered; the stages after it run all the same, so that one
    /// run shows all that is wrong.
    pub(crate) fn run(&mut self, name: &'static str, budget_secs: u64, stage: impl FnOnce() -> Result<Done>) {
        self.names.push(name);
        if !self.only.is_empty() && !self.only.iter().any(|wanted| wanted == name) {
            return;
        }
        println!("==> {name}");
        let start = SystemTime::now();
        let outcome = stage();
        let took = start.elapsed().unwrap_or_default();
        let end = match outcome {
            Ok(Done::Passed) => End::Passed,
            Ok(Done::Note(note)) => {
                println!("    {note}");
                End::Passed
            }
            Ok(Done::Skipped(reason)) => {
                println!("    skipped: {reason}");
                End::Skipped
            }
            Err(error) => {
                println!("{error:#}\n==> {name}: FAILED");
                End::Failed
            }
        };
        self.reports.push(Report { name, took, budget: Duration::from_secs(budget_secs), end });
    }

    /// Prints the table of stages with their time and budget.
    pub(crate) fn print_table(&self) {
        println!("\n{:<14} {:>8} {:>8}", "stage", "took", "budget");
        for report in &self.reports {
            let end = match report.end {
                End::Passed => "",
                End::Skipped => "  skipped",
                End::Failed => "  FAILED",
            };
            let late = if report.took > report.budget { "  over its budget" } else { "" };
            println!("{:<14} {:>8} {:>8}{end}{late}", report.name, clock(report.took), clock(report.budget));
        }
        let took = self.reports.iter().map(|r| r.took).sum();
        let budget = self.reports.iter().map(|r| r.budget).sum();
        println!("{:<14} {:>8} {:>8}", "all", clock(took), clock(budget));
    }

    /// The stages that failed.
    pub(crate) fn failed(&self) -> Vec<&'static str> {
        self.reports.iter().filter(|r| matches!(r.end, End::Failed)).map(|r| r.name).collect()
    }
}

/// Minutes and seconds.
fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs_f64().round() as u64;
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_stages_are_remembered_and_later_ones_still_run() {
        let mut stages = Stages::default();
        let mut ran = false;
        stages.run("a", 1, || Ok(Done::Passed));
        stages.run("b", 1, || bail!("no"));
        stages.run("c", 1, || {
            ran = true;
            Ok(Done::Skipped("why not".to_owned()))
        });
        assert!(ran);
        assert_eq!(stages.failed(), ["b"]);
    }

    #[test]
    fn only_the_stages_asked_for_run_and_unknown_names_are_told() {
        let mut stages = Stages::only(vec!["b".to_owned()]);
        stages.run("a", 1, || bail!("must not run"));
        assert!(stages.check_names().is_err());
        stages.run("b", 1, || Ok(Done::Passed));
        assert!(stages.check_names().is_ok());
        assert_eq!((stages.reports.len(), stages.failed().len()), (1, 0));
    }

    #[test]
    fn durations_are_shown_in_minutes_and_seconds() {
        assert_eq!(clock(Duration::from_millis(61_400)), "1:01");
        assert_eq!(clock(Duration::from_millis(400)), "0:00");
    }
}
