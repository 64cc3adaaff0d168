//! The fuzz targets: built with coverage by the stable compiler, run for a bounded time each.
//!
//! Inputs: the seeds beside each target, and what earlier runs found worth keeping. Outputs: an input that breaks
//! a target, if one was found, in the target folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::stages::Done;
use crate::{paths, run};

const BUILD_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Beyond the time that a target was given: for reading seeds, and for the last input.
const GRACE: Duration = Duration::from_secs(60);
/// Seconds for each target in continuous integration.
const SHORT: u32 = 10;

/// What libFuzzer needs in the code under test.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

struct Target {
    name: &'static str,
    package: &'static str,
    seeds: &'static [&'static str],
    /// A file of seeds in hexadecimal, one a line, for inputs that are no text.
    hex: Option<&'static str>,
}

const TARGETS: &[Target] = &[
    Target {
        name: "router_match",
        package: "understudy-router-fuzz",
        seeds: &["router/fuzz/seeds"],
        hex: None,
    },
    Target {
        name: "state_decode",
        package: "understudy-conf-fuzz",
        seeds: &["conf/fuzz/seeds", "controller/tests/golden"],
        hex: None,
    },
    Target {
        name: "translate_yaml",
        package: "understudy-controller-fuzz",
        seeds: &["controller/tests/golden", "conf/examples"],
        hex: None,
    },
    Target {
        name: "dns_answer",
        package: "understudy-proxy-fuzz",
        seeds: &[],
        hex: Some("proxy/fuzz/seeds.hex"),
    },
];

/// The tests' run: the same inputs in the same order each time, so that it fails for a change and not by chance.
/// New ground is for `cargo xtask fuzz`, which begins elsewhere each time.
const FIXED_SEED: &str = "-seed=1";

/// Builds and runs all targets for [`SHORT`] seconds each, as [`FIXED_SEED`] says.
pub(crate) fn run_fixed() -> Result<Done> {
    run_from(Start::Fixed, &[], SHORT, &[])
}

/// Builds and runs targets, all if none is named, each for so many seconds.
pub(crate) fn run(names: &[String], seconds: u32, args: &[String]) -> Result<Done> {
    run_from(Start::Random, names, seconds, args)
}

#[derive(Clone, Copy, PartialEq)]
enum Start {
    /// From the seeds of the tree alone.
    Fixed,
    /// From the seeds, and what earlier runs found worth keeping.
    Random,
}

fn run_from(start: Start, names: &[String], seconds: u32, args: &[String]) -> Result<Done> {
    let targets = chosen(names)?;
    let binaries = build(&targets)?;
    let folder = paths::target()?.join("fuzz");
    let mut notes = Vec::new();
    for target in targets {
        let found = folder.join("found");
        // Inputs that are worth keeping go to the first folder that is named.
        let corpus = folder.join(if start == Start::Fixed { "fixed" } else { "corpus" }).join(target.name);
        if start == Start::Fixed && corpus.exists() {
            std::fs::remove_dir_all(&corpus)?;
        }
        std::fs::create_dir_all(&corpus)?;
        std::fs::create_dir_all(&found)?;
        let mut command = Command::new(binaries.join(target.name));
        command.current_dir(paths::root());
        if args.is_empty() {
            let prefix = found.join(format!("{}-", target.name));
            command
                .arg(format!("-max_total_time={seconds}"))
                .arg(format!("-artifact_prefix={}", prefix.display()))
                .args((start == Start::Fixed).then_some(FIXED_SEED))
                .args(["-timeout=10", "-rss_limit_mb=2048", "-max_len=16384", "-print_final_stats=1"])
                .arg(&corpus)
                .args(target.seeds);
            if let Some(hex) = target.hex {
                command.arg(unpack(&paths::root().join(hex), &folder.join("seeds").join(target.name))?);
            }
        } else {
            command.args(args);
        }
        let limit = Duration::from_secs(seconds.into()) + GRACE;
        let text = run::logged(&mut command, limit)
            .with_context(|| format!("{}: keep the input named below as a seed and a test", target.name))?;
        notes.push(format!(
            "{} {}",
            target.name,
            executed(&text).unwrap_or("ran the inputs that were named")
        ));
    }
    Ok(Done::Note(notes.join(", ")))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Target>> {
    if let Some(name) = names.iter().find(|name| TARGETS.iter().all(|target| target.name != **name)) {
        let known: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
        bail!("there is no fuzz target {name:?}; there are: {}", known.join(", "));
    }
    Ok(TARGETS
        .iter()
        .filter(|target| names.is_empty() || names.iter().any(|name| name == target.name))
        .collect())
}

/// Builds, and gives the folder of the programs. A platform is named so that the flags do not reach build scripts.
fn build(targets: &[&Target]) -> Result<PathBuf> {
    let platform = platform()?;
    let mut command = paths::cargo();
    command.args(["build", "--profile", "fuzz", "--locked", "--target", &platform]);
    for target in targets {
        command.args(["-p", target.package]);
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    run::logged(&mut command, BUILD_LIMIT)?;
    Ok(paths::target()?.join(platform).join("fuzz"))
}

/// The platform that this machine is, as the compiler names it.
fn platform() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = run::output(Command::new(rustc).arg("-vV").current_dir(paths::root()))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Writes the seeds of a file in hexadecimal into a folder, a file each.
fn unpack(hex: &Path, folder: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let text = std::fs::read_to_string(hex).with_context(|| hex.display().to_string())?;
    for (number, line) in text.lines().filter(|line| !line.starts_with('#')).enumerate() {
        let bytes = bytes(line).with_context(|| format!("{}: {line:?} is not hexadecimal", hex.display()))?;
        std::fs::write(folder.join(number.to_string()), bytes)?;
    }
    Ok(folder.to_owned())
}

fn bytes(line: &str) -> Option<Vec<u8>> {
    let pairs = line.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

/// How many inputs were tried, from what libFuzzer prints at its end.
fn executed(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_seeds_in_the_tree() {
        for target in TARGETS {
            for path in target.seeds.iter().copied().chain(target.hex) {
                assert!(paths::root().join(path).exists(), "{path}");
            }
            assert!(target.seeds.len() + usize::from(target.hex.is_some()) > 0, "{}", target.name);
        }
    }

    #[test]
    fn a_target_that_does_not_exist_is_refused_with_those_that_do() {
        let error = chosen(&["router".to_owned()]).err().unwrap().to_string();
        assert!(error.contains("router_match") && error.contains("dns_answer"), "{error}");
        assert_eq!(chosen(&[]).unwrap().len(), TARGETS.len());
    }

    #[test]
    fn hexadecimal_lines_become_bytes() {
        assert_eq!(bytes("00ff7f"), Some(vec![0, 255, 127]));
        assert_eq!(bytes("0g"), None);
    }

    #[test]
    fn the_number_of_inputs_is_read_from_the_closing_lines() {
        assert_eq!(executed("a\nstat::number_of_executed_units: 1234\n"), Some("1234"));
        assert_eq!(executed("a"), None);
    }
}
