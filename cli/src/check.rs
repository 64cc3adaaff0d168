//! `understudy check`: every problem of manifests.

use std::collections::HashSet;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use understudy_controller::{Diagnostic, Report, Severity};

use crate::args::CheckArgs;
use crate::manifests;

/// Prints what is wrong; the exit status says whether anything is.
pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode> {
    let report = understudy_controller::check(
        &manifests::sources(&args.manifests.paths),
        &manifests::options(&args.manifests.listen),
    );
    let lowest = if args.verbose { Severity::Info } else { Severity::Warning };
    let mut out = std::io::stdout().lock();
    for diagnostic in report.diagnostics.iter().filter(|diagnostic| is_shown(diagnostic.severity, lowest)) {
        writeln!(out, "{diagnostic}")?;
    }
    let count = |severity| report.diagnostics.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    writeln!(out, "{}", summary(&report, errors, warnings))?;
    let failed = errors > 0 || (args.strict && warnings > 0);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn summary(report: &Report, errors: usize, warnings: usize) -> String {
    let state = &report.state;
    let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}, {}: {} on {}",
        plural(errors, "error"),
        plural(warnings, "warning"),
        plural(state.routes.len(), "route"),
        plural(state.gateways.len(), "gateway"),
    )
}

fn is_shown(severity: Severity, lowest: Severity) -> bool {
    severity != Severity::Info || lowest == Severity::Info
}

/// Tells of a report while manifests are followed.
pub(crate) fn tell(report: &Report) {
    report.diagnostics.iter().for_each(log);
    let state = &report.state;
    log::info!("manifests read: {} gateways, {} routes", state.gateways.len(), state.routes.len());
}

/// Tells of reports while a cluster is followed: each finding once, for as long as it lasts.
#[derive(Default)]
pub(crate) struct Teller {
    said: HashSet<Diagnostic>,
}

impl Teller {
    pub(crate) fn tell(&mut self, report: &Report) {
        let found = &report.diagnostics;
        found.iter().filter(|diagnostic| !self.said.contains(*diagnostic)).for_each(log);
        let state = &report.state;
        if self.said.len() != found.len() || !found.iter().all(|diagnostic| self.said.contains(diagnostic)) {
            self.said = found.iter().cloned().collect();
            log::info!(
                "{} gateways, {} routes, {} findings",
                state.gateways.len(),
                state.routes.len(),
                found.len()
            );
        }
    }
}

fn log(diagnostic: &Diagnostic) {
    match diagnostic.severity {
        Severity::Error => log::error!("{diagnostic}"),
        Severity::Warning => log::warn!("{diagnostic}"),
        Severity::Info => log::debug!("{diagnostic}"),
    }
}
