//! The result as a Markdown page: table, judgement, machine and command.

use std::fmt::Write as _;

use super::cases::Length;
use super::gateway::Proxy;
use super::outcome::Row;
use super::table::{table, totals};
use super::{Args, Who};
use crate::envoy::install::VERSION;

/// Everything that a result says.
pub(crate) struct Report<'a> {
    pub(crate) rows: &'a [Row],
    pub(crate) proxies: &'a [Proxy],
    /// Why the Envoy column does not count.
    pub(crate) objection: Option<&'a str>,
    /// The command that makes this result.
    pub(crate) command: &'a str,
}

impl Report<'_> {
    /// The table and what it comes to.
    pub(crate) fn body(&self) -> String {
        let mut text = table(self.rows, self.proxies, self.objection);
        if let Some(totals) = totals(self.rows) {
            // Writing to a String cannot fail.
            let _ = write!(text, "\n{totals}\n");
        }
        if self.proxies.contains(&Proxy::Envoy) {
            match self.objection {
                None => {
                    let _ = write!(
                        text,
                        "\nThe Envoy column counts: this run reproduces the known figures of cases 2, 8, 11 and 15 \
                         of Envoy {VERSION}.\n"
                    );
                }
                Some(why) => {
                    let _ = write!(text, "\n**The Envoy column does not count**: {why}.\n");
                }
            }
        }
        if self.rows.iter().any(|row| row.wire) {
            text.push_str(
                "\nOn the wire: requests that had reached the primary when it reset their connections, counted by the \
                 primary. They are lost to every proxy that may not repeat them; who lost fewer beyond them is better.\n",
            );
        }
        text
    }

    /// The whole page.
    pub(crate) fn markdown(&self) -> String {
        format!(
            "# The drill\n\n`{}`\n\n{}\n\n{}\n\
             Lost is a request without a whole answer below 500. Primary and fallback: answers of each pool, \
             bad ones included. Times: from the fault until the fallback served, and from each repair until \
             the primary pool served again. What the cases are: [docs/drill.md](../../docs/drill.md).\n",
            self.command,
            machine(),
            self.body()
        )
    }
}

/// The command line that gives these results, without the files that it writes.
pub(crate) fn command(args: &Args, length: Length) -> String {
    let profile = if cfg!(debug_assertions) { "" } else { " --release" };
    let mut command = format!("cargo run{profile} -p understudy-loadtest -- drill");
    match args.proxy {
        Who::Both => {}
        Who::Understudy => command.push_str(" --proxy understudy"),
        Who::Envoy => command.push_str(" --proxy envoy"),
    }
    if length == Length::Short {
        command.push_str(" --short");
    }
    for case in &args.cases {
        command.push(' ');
        command.push_str(case);
    }
    command
}

/// What it ran on.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model =
        info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let model = model.trim_start_matches([' ', '\t', ':']);
    let memory = read("/proc/meminfo");
    let kib: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok())
        .unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{processors} processors ({model}), {:.0} GB of memory, Linux {}; backends, clients and proxies on \
         loopback, each proxy with one worker thread.",
        kib as f64 * 1024.0 / 1e9,
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::outcome::tests::{record, row};

    #[test]
    fn the_page_says_whether_the_envoy_column_counts() {
        let rows = [row("2", "no retry", Some(Ok(record(0, 20))), Some(Ok(record(1, 19))))];
        let proxies = [Proxy::Understudy, Proxy::Envoy];
        let page =
            |objection| Report { rows: &rows, proxies: &proxies, objection, command: "drill 2" }.markdown();
        let good = page(None);
        assert!(good.contains("`drill 2`") && good.contains("The Envoy column counts"), "{good}");
        assert!(good.contains("Lost in all of them: Understudy 0 of 20 requests, Envoy 1."), "{good}");
        let bad = page(Some("case 8 was not run"));
        assert!(bad.contains("**The Envoy column does not count**: case 8 was not run."), "{bad}");
    }

    #[test]
    fn the_machine_is_described_without_its_name() {
        let machine = machine();
        assert!(machine.contains("processors (") && machine.contains("Linux "), "{machine}");
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert!(!machine.contains(host.trim()), "{machine}");
    }
}
