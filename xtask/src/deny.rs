//! Licences, bans, sources and advisories, by cargo-deny.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::stages::Done;
use crate::{paths, run, tools};

const LIMIT: Duration = Duration::from_secs(300);

/// Checks the whole tree of dependencies against `deny.toml`. Advisories come from a git repository; where
/// that cannot be reached they are left out, and the note says so.
pub(crate) fn check() -> Result<Done> {
    let program = tools::cargo_deny()?;
    let deny = |what: &[&str]| {
        let mut command = Command::new(&program);
        command.current_dir(paths::root()).args(["--locked", "check", "--hide-inclusion-graph"]).args(what);
        command
    };
    run::logged(&mut deny(&["bans", "licenses", "sources"]), LIMIT)?;
    let (passed, text) = run::attempted(&mut deny(&["advisories"]), LIMIT)?;
    if passed {
        return Ok(Done::Passed);
    }
    match unreachable_database(&text) {
        Some(line) => Ok(Done::Note(format!(
            "bans, licences and sources passed; advisories were NOT checked, their database is out of reach: {line}"
        ))),
        None => bail!("{text}"),
    }
}

/// The line that says that the advisory database could not be fetched.
fn unreachable_database(text: &str) -> Option<&str> {
    let fetch = text.lines().find(|line| line.contains("failed to fetch advisory database"))?;
    Some(text.lines().find(|line| line.starts_with("fatal:")).unwrap_or(fetch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreachable_database_is_told_from_an_advisory() {
        let offline =
            "[ERROR] failed to fetch advisory database X with cli\nfatal: Could not resolve host: h\n";
        assert_eq!(unreachable_database(offline), Some("fatal: Could not resolve host: h"));
        assert_eq!(unreachable_database("error[vulnerability]: use after free"), None);
    }
}
