//! What was measured, as a table with the aims. Pure.

use std::fmt::Write as _;
use std::time::Duration;

use super::objects::Size;
use super::sidecar::{Cpu, Usage};

/// Bytes that are promised at the full size.
const PROXY: u64 = 60_000_000;
const CONTROLLER: u64 = 150_000_000;
/// One changed route.
const RELOAD: Duration = Duration::from_millis(5);

/// While pods churned.
pub(super) struct Churn {
    pub(super) changes: usize,
    pub(super) versions: u64,
    pub(super) took: Duration,
    pub(super) controller: Duration,
    pub(super) proxy: Duration,
    pub(super) most: Usage,
}

/// Everything that was measured.
pub(super) struct Report {
    pub(super) size: Size,
    /// From the start of both to the first state served, and the CPU time for it.
    pub(super) first: (Duration, Cpu),
    /// From the start to the right count in the Gateway's status.
    pub(super) attached: Duration,
    pub(super) settled: Usage,
    /// Of the proxy, sorted.
    pub(super) edits: Vec<Duration>,
    pub(super) churn: Churn,
    pub(super) end: Usage,
}

impl Report {
    /// The table.
    pub(super) fn table(&self, machine: &str) -> String {
        let Size { routes, services, namespaces, pods } = self.size;
        let Self { first: (first, cpu), churn, settled, end, .. } = self;
        let mut text = format!(
            "\n{routes} routes over {namespaces} namespaces, {services} Services of {pods} pods; {machine}\n\n"
        );
        let mut row = |what: &str, aim: &str, measured: String| {
            // A string takes whatever is written to it.
            let _ = writeln!(text, "| {what:<44} | {aim:>9} | {measured} |");
        };
        row("", "aim", "measured".to_owned());
        row(&"-".repeat(44), &"-".repeat(9), "---".to_owned());
        row("proxy: RSS with the first state", &aim(PROXY), megabytes(settled.proxy));
        row("proxy: RSS after edits and churn", &aim(PROXY), megabytes(end.proxy));
        row("proxy: the most while pods churned", "", megabytes(churn.most.proxy));
        row("proxy: peak", "", megabytes(end.proxy_peak));
        row("controller: RSS with the first state", &aim(CONTROLLER), megabytes(settled.controller));
        row("controller: RSS after edits and churn", &aim(CONTROLLER), megabytes(end.controller));
        row("controller: peak", "", megabytes(end.controller_peak));
        row("first state served after", "", format!("{:.2} s", first.as_secs_f64()));
        let times = format!("{:.2} s and {:.2} s", cpu.controller.as_secs_f64(), cpu.proxy.as_secs_f64());
        row("CPU time until then, controller and proxy", "", times);
        row("attachedRoutes right after", "", format!("{:.2} s", self.attached.as_secs_f64()));
        row(
            "proxy: reload, one changed route, median",
            &format!("≤ {} ms", RELOAD.as_millis()),
            self.edit(50),
        );
        row(&format!("proxy: the longest of {}", self.edits.len()), "", self.edit(100));
        let rate = churn.changes as f64 / churn.took.as_secs_f64();
        row("churn: EndpointSlices changed", "", format!("{}, {rate:.1} a second", churn.changes));
        row("churn: versions of the state", "", churn.versions.to_string());
        let per_second = |cpu: Duration| {
            let share = cpu.as_secs_f64() / churn.took.as_secs_f64();
            format!(
                "{share:.3} s of CPU a second, {:.1} ms a change",
                cpu.as_secs_f64() * 1e3 / churn.changes as f64
            )
        };
        row("churn: controller", "", per_second(churn.controller));
        row("churn: proxy", "", per_second(churn.proxy));
        text
    }

    /// What is promised of memory and was not held.
    pub(super) fn missed(&self) -> Vec<String> {
        let Self { settled, end, .. } = self;
        let measured = [
            ("the proxy", settled.proxy.max(end.proxy), PROXY),
            ("the controller", settled.controller.max(end.controller), CONTROLLER),
        ];
        let missed = measured.into_iter().filter(|(_, bytes, promised)| bytes > promised);
        missed
            .map(|(who, bytes, promised)| format!("{who} has {}, aim {}", megabytes(bytes), aim(promised)))
            .collect()
    }

    /// The time that so many of a hundred edits did not exceed.
    fn edit(&self, percent: usize) -> String {
        let at = (self.edits.len() * percent).div_ceil(100).saturating_sub(1);
        self.edits
            .get(at)
            .map_or_else(|| "none".to_owned(), |time| format!("{:.1} ms", time.as_secs_f64() * 1e3))
    }
}

fn aim(bytes: u64) -> String {
    format!("≤ {} MB", bytes / 1_000_000)
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(proxy: u64) -> Report {
        let cpu = Cpu { controller: Duration::from_secs(2), proxy: Duration::from_secs(1) };
        let usage = Usage { controller: 100_000_000, proxy, controller_peak: 0, proxy_peak: 0 };
        Report {
            size: Size { routes: 50, services: 10, namespaces: 5, pods: 3 },
            first: (Duration::from_millis(1500), cpu),
            attached: Duration::from_secs(2),
            settled: usage,
            edits: [1, 2, 3].map(Duration::from_millis).into(),
            churn: Churn {
                changes: 40,
                versions: 30,
                took: Duration::from_secs(2),
                controller: Duration::from_millis(200),
                proxy: Duration::from_millis(40),
                most: usage,
            },
            end: usage,
        }
    }

    #[test]
    fn the_table_has_aims_and_measures() {
        let table = report(50_000_000).table("a machine");
        for part in [
            "50 routes over 5 namespaces, 10 Services of 3 pods; a machine",
            "≤ 60 MB | 50.0 MB |",
            "≤ 5 ms | 2.0 ms |",
            "| 0.100 s of CPU a second, 5.0 ms a change |",
            "| 40, 20.0 a second |",
        ] {
            assert!(table.contains(part), "{part}\n{table}");
        }
    }

    #[test]
    fn more_memory_than_promised_is_told() {
        assert!(report(60_000_000).missed().is_empty());
        assert_eq!(report(61_000_000).missed(), ["the proxy has 61.0 MB, aim ≤ 60 MB"]);
    }
}
