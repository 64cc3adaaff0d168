//! What `/proc` says about a process.

use std::time::Duration;

use anyhow::{Context, Result};

/// Linux counts CPU time for user space in hundredths of a second, whatever its own clock is.
const TICK: Duration = Duration::from_millis(10);

/// CPU time of a process with all its threads, the ended ones included, in user space and kernel.
///
/// # Errors
/// When there is no such process.
pub(crate) fn cpu_time(pid: u32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let ticks = ticks(&stat).with_context(|| format!("{path} is not as expected: {stat}"))?;
    Ok(TICK * u32::try_from(ticks)?)
}

/// Resident memory of a process in bytes.
///
/// # Errors
/// When there is no such process.
pub(crate) fn resident(pid: u32) -> Result<u64> {
    of_status(pid, "VmRSS:")
}

/// The most memory in bytes that a process ever had resident.
///
/// # Errors
/// When there is no such process.
pub(crate) fn peak(pid: u32) -> Result<u64> {
    of_status(pid, "VmHWM:")
}

fn of_status(pid: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    kibibytes(&status, name).map(|kib| kib * 1024).with_context(|| format!("{path} has no {name}"))
}

/// The machine in a few words: processors, their model, and how busy it was over the last minute.
pub(crate) fn machine() -> String {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let count = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let loadavg = read("/proc/loadavg");
    let load = loadavg.split_whitespace().next().unwrap_or("unknown");
    format!("{count} × {}, load average {load} before", model.map_or("unknown processor", |(_, name)| name))
}

/// How many programs wanted to run at once over the last minute, beyond one for each processor; `None` if that many
/// processors are enough.
pub(crate) fn overload() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    let load: f64 = text.split_whitespace().next()?.parse().ok()?;
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    (load > processors).then_some(load)
}

/// utime and stime: the 14th and 15th field. The second one, in parentheses, may contain anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read_behind_a_name_with_spaces_and_parentheses() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 9 9 20 0 1 0 1000 1000 10";
        assert_eq!(ticks(stat), Some(400));
        assert_eq!(ticks("7 (x) S 1"), None);
    }

    #[test]
    fn the_own_process_has_memory_and_time() {
        let pid = std::process::id();
        assert!(resident(pid).unwrap() > 1024 * 1024);
        assert!(peak(pid).unwrap() >= resident(pid).unwrap());
        assert!(cpu_time(pid).unwrap() < Duration::from_secs(3600));
        assert_eq!(kibibytes("Name: x\nVmRSS:\t  120 kB\n", "VmRSS:"), Some(120));
    }
}
