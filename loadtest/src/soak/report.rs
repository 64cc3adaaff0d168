//! What a soak test found, and which promises it saw broken. Pure.

use std::time::Duration;

use super::Args;
use super::faults::Switches;
use super::tally::Tally;

/// Memory at the end, as a multiple of memory at the first look.
const MOST_GROWTH: f64 = 1.05;
/// The share of the rate that must be reached.
const LEAST_RATE: f64 = 0.99;

/// Resident memory of the gateway in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resident {
    /// When it was first measured.
    pub(crate) first: Duration,
    pub(crate) at_first: u64,
    pub(crate) at_end: u64,
}

impl Resident {
    fn growth(&self) -> f64 {
        self.at_end as f64 / self.at_first as f64
    }
}

/// Everything that was found.
pub(crate) struct Report<'a> {
    pub(crate) args: &'a Args,
    /// The machine in a few words.
    pub(crate) machine: String,
    pub(crate) tally: Tally,
    /// How often the backend broke.
    pub(crate) broken: u32,
    pub(crate) switches: Switches,
    pub(crate) resident: Resident,
    /// Whether the run was long enough to say something about memory.
    pub(crate) judge_memory: bool,
}

impl Report<'_> {
    /// One line for each promise that was broken.
    pub(crate) fn broken_promises(&self) -> Vec<String> {
        let (tally, wanted) = (&self.tally, u64::from(self.args.failovers));
        let mut broken = Vec::new();
        if tally.mismatches > 0 {
            broken.push(format!("{} answers had something that is not their own:", tally.mismatches));
            broken.extend(tally.described.iter().cloned());
        }
        if tally.failures() > 0 {
            broken.push(format!("{} requests failed: {}", tally.failures(), self.failures()));
        }
        let Switches { failovers, failbacks } = self.switches;
        if failovers < wanted || failbacks < wanted {
            broken.push(format!(
                "{failovers} failovers and {failbacks} failbacks were seen, not {wanted} of each"
            ));
        }
        if self.judge_memory && self.resident.growth() > MOST_GROWTH {
            broken.push(format!("memory grew to {:.3} × what it was", self.resident.growth()));
        }
        let least = self.args.rate as f64 * LEAST_RATE;
        if !self.args.any_rate && (tally.unsent > 0 || tally.rate() < least) {
            broken.push(format!(
                "{:.0} of {} requests a second were reached, and {} were never sent: the machine is too slow or busy",
                tally.rate(),
                self.args.rate,
                tally.unsent
            ));
        }
        broken
    }

    fn failures(&self) -> String {
        let kinds: Vec<String> =
            self.tally.failed.iter().map(|(kind, count)| format!("{kind} ×{count}")).collect();
        if kinds.is_empty() { "none".to_owned() } else { kinds.join(", ") }
    }

    /// The result as a page.
    pub(crate) fn markdown(&self) -> String {
        let Self { args, tally, switches, resident, .. } = self;
        let profile = if cfg!(debug_assertions) { "" } else { " --release" };
        let any_rate = if args.any_rate { " --any-rate" } else { "" };
        let memory = if self.judge_memory { "" } else { " (too short a run to judge)" };
        let ms = |micros: u32| f64::from(micros) / 1000.0;
        format!(
            "# Soak\n\n\
             `cargo run{profile} -p understudy-loadtest -- soak --seconds {} --rate {} --failovers {}{any_rate}`\n\n\
             | what | found |\n| --- | --- |\n\
             | requests | {} due, {} answered or failed, {} never sent |\n\
             | rate | {:.0} a second over {} connections with keep-alive |\n\
             | answers | {} from the primary pool, {} from the fallback |\n\
             | answers that are not the request's own, byte by byte | {} |\n\
             | failed | {} |\n\
             | primary broken (refuses, 503, resets, in turn) | {} times |\n\
             | switches counted by the gateway | {} failovers, {} failbacks |\n\
             | latency since each request was due | median {:.2} ms, 99 % {:.2} ms, longest {:.1} ms |\n\
             | resident memory | {:.1} MB after {:.1} s, {:.1} MB at the end: × {:.3}{memory} |\n\n\
             Base ejection time 1 s; retries on 503 and reset. Proxy with one worker thread, access log to a file, \
             metrics on; generator and backends beside it. {}.\n",
            args.seconds,
            args.rate,
            args.failovers,
            tally.due,
            tally.done(),
            tally.unsent,
            tally.rate(),
            tally.connections,
            tally.primary,
            tally.fallback,
            tally.mismatches,
            self.failures(),
            self.broken,
            switches.failovers,
            switches.failbacks,
            ms(tally.quantile(0.5)),
            ms(tally.quantile(0.99)),
            ms(tally.quantile(1.0)),
            resident.at_first as f64 / 1e6,
            resident.first.as_secs_f64(),
            resident.at_end as f64 / 1e6,
            resident.growth(),
            self.machine,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soak::content::Pool;
    use crate::soak::tally::Outcome;

    fn args() -> Args {
        Args { seconds: 60, rate: 100, failovers: 2, any_rate: false, out: None }
    }

    fn report(args: &Args) -> Report<'_> {
        let mut tally = Tally { due: 6000, took: Duration::from_secs(60), ..Tally::default() };
        for _ in 0..6000 {
            tally.note(Outcome::Good(Pool::Primary), Duration::from_millis(1));
        }
        Report {
            args,
            machine: "m".to_owned(),
            tally,
            broken: 2,
            switches: Switches { failovers: 2, failbacks: 2 },
            resident: Resident { first: Duration::from_secs(10), at_first: 20_000_000, at_end: 20_800_000 },
            judge_memory: true,
        }
    }

    #[test]
    fn a_good_run_breaks_no_promise() {
        let args = args();
        let report = report(&args);
        assert_eq!(report.broken_promises(), Vec::<String>::new());
        assert!(
            report.markdown().contains("20.0 MB after 10.0 s, 20.8 MB at the end: × 1.040 |"),
            "{}",
            report.markdown()
        );
    }

    #[test]
    fn each_broken_promise_is_named() {
        let args = args();
        let mut bad = report(&args);
        bad.tally.note(Outcome::Mismatch("request 7: the answer to 8".to_owned()), Duration::ZERO);
        bad.tally.note(Outcome::Failed("reset without an answer"), Duration::ZERO);
        bad.switches.failbacks = 1;
        bad.resident.at_end = 21_100_000;
        bad.tally.unsent = 3;
        let broken = bad.broken_promises().join("\n");
        for expected in [
            "1 answers",
            "the answer to 8",
            "reset without an answer ×1",
            "1 failbacks",
            "1.055",
            "3 were never sent",
        ] {
            assert!(broken.contains(expected), "{expected}: {broken}");
        }
    }

    #[test]
    fn a_short_run_on_a_busy_machine_judges_neither_memory_nor_rate() {
        let args = Args { any_rate: true, ..args() };
        let mut report = report(&args);
        report.judge_memory = false;
        report.resident.at_end *= 2;
        report.tally.unsent = 100;
        assert!(report.broken_promises().is_empty());
        assert!(report.markdown().contains("--any-rate`"));
    }
}
