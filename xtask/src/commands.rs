//! Commands that documents name: each must exist, with the options that the documents give it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use clap::error::{ContextKind, ErrorKind};

use crate::{Cli, files, paths, run};

const LIMIT: Duration = Duration::from_secs(30 * 60);

/// Commands in the documents that no program knows, with the place where they stand.
pub(crate) fn unknown(names: &[String]) -> Result<Vec<String>> {
    run::logged(
        paths::cargo().args(["build", "--locked", "-p", "understudy", "-p", "understudy-loadtest"]),
        LIMIT,
    )?;
    let mut helps = Helps { folder: paths::target()?.join("debug"), known: BTreeMap::new() };
    let mut problems = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".md")) {
        let Some(text) = files::text(name)? else { continue };
        for words in commands(&text) {
            let Some((program, rest)) = program_of(&words) else { continue };
            if let Some(problem) = helps.problem(program, rest)? {
                problems.push(format!("{name}: `{}`: {problem}", words.join(" ")));
            }
        }
    }
    Ok(problems)
}

/// The programs of this project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Program {
    Xtask,
    Understudy,
    Loadtest,
}

/// Which of the project's programs a command runs, and the words after it.
fn program_of(words: &[String]) -> Option<(Program, &[String])> {
    let start = words.iter().position(|word| !word.contains('=') && word != "sudo")?;
    let words = &words[start..];
    match words.first()?.rsplit('/').next()? {
        "understudy" => Some((Program::Understudy, &words[1..])),
        "understudy-loadtest" => Some((Program::Loadtest, &words[1..])),
        "cargo" if words.get(1)? == "xtask" => Some((Program::Xtask, &words[2..])),
        "cargo" if words.get(1)? == "run" => {
            let dashes = words.iter().position(|word| word == "--")?;
            let loadtest = words[..dashes].iter().any(|word| word == "understudy-loadtest");
            Some((if loadtest { Program::Loadtest } else { Program::Understudy }, &words[dashes + 1..]))
        }
        _ => None,
    }
}

/// What the programs say about themselves.
struct Helps {
    folder: PathBuf,
    known: BTreeMap<(Program, String), Option<String>>,
}

impl Helps {
    fn problem(&mut self, program: Program, rest: &[String]) -> Result<Option<String>> {
        let Some(sub) = rest.first().filter(|word| !word.starts_with('-') && word.is_ascii()) else {
            return Ok(None);
        };
        if program == Program::Xtask {
            return Ok(problem_of_chore(sub, rest));
        }
        let Some(help) = self.help(program, sub)? else {
            return Ok(Some(format!("there is no command {sub}")));
        };
        let options = rest[1..].iter().take_while(|word| *word != "--").filter(|word| word.starts_with("--"));
        for option in options {
            let option = option.split('=').next().unwrap_or_default();
            if !help.split(|c: char| !c.is_ascii_alphanumeric() && c != '-').any(|word| word == option) {
                return Ok(Some(format!("{sub} has no option {option}")));
            }
        }
        Ok(None)
    }

    fn help(&mut self, program: Program, sub: &str) -> Result<Option<String>> {
        let key = (program, sub.to_owned());
        if let Some(help) = self.known.get(&key) {
            return Ok(help.clone());
        }
        let help = match program {
            Program::Xtask => None,
            Program::Understudy => self.asked("understudy", sub)?,
            Program::Loadtest => self.asked("understudy-loadtest", sub)?,
        };
        self.known.insert(key, help.clone());
        Ok(help)
    }

    fn asked(&self, program: &str, sub: &str) -> Result<Option<String>> {
        let mut command = Command::new(self.folder.join(program));
        let (known, help) = run::attempted(command.args([sub, "--help"]), LIMIT)?;
        Ok(known.then_some(help))
    }
}

/// What this program itself would say about a command. What is only incomplete is no problem in prose.
fn problem_of_chore(sub: &str, rest: &[String]) -> Option<String> {
    let name = "cargo xtask".to_owned();
    let error = Cli::try_parse_from(std::iter::once(&name).chain(rest)).err()?;
    let what = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            Some(format!("there is no command {}", what(ContextKind::InvalidSubcommand)))
        }
        ErrorKind::UnknownArgument => Some(format!("{sub} has no option {}", what(ContextKind::InvalidArg))),
        _ => None,
    }
}

/// The commands in a document: lines of shell blocks, and code in prose. Each is split into words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let mut lines: Vec<String> = Vec::new();
    let mut block: Option<bool> = None;
    let mut continued = false;
    for line in text.lines() {
        if let Some(info) = line.trim_start().strip_prefix("```") {
            block = match block {
                None => Some(matches!(info.trim(), "sh" | "shell" | "bash" | "console")),
                Some(_) => None,
            };
            continued = false;
            continue;
        }
        match block {
            None => lines.extend(line.split('`').skip(1).step_by(2).map(str::to_owned)),
            Some(false) => {}
            Some(true) => {
                let piece = line.trim().trim_start_matches("$ ");
                let (piece, more) = piece.strip_suffix('\\').map_or((piece, false), |piece| (piece, true));
                match lines.last_mut() {
                    Some(last) if continued => last.push_str(piece),
                    _ => lines.push(piece.to_owned()),
                }
                continued = more;
            }
        }
    }
    lines
        .iter()
        .flat_map(|line| line.split(" #").next().unwrap_or_default().split(['|', ';', '&']))
        .map(|command| command.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
        .filter(|words| !words.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(command: &str) -> Vec<String> {
        command.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn commands_are_found_in_shell_blocks_and_in_prose() {
        let text = "Run `cargo xtask test` now.\n```sh\n$ understudy run a \\\n  --bind b | jq . # why\n```\n```yaml\nunderstudy: x\n```\n";
        assert_eq!(
            commands(text),
            [words("cargo xtask test"), words("understudy run a --bind b"), words("jq .")]
        );
    }

    #[test]
    fn the_program_is_seen_behind_cargo_and_environment() {
        let seen = |command: &str| {
            let words = words(command);
            program_of(&words).map(|(program, rest)| (program, rest.first().cloned().unwrap_or_default()))
        };
        assert_eq!(seen("cargo run --release -- demo"), Some((Program::Understudy, "demo".to_owned())));
        assert_eq!(seen("A=1 target/release/understudy run"), Some((Program::Understudy, "run".to_owned())));
        assert_eq!(
            seen("cargo run --release -p understudy-loadtest -- bench"),
            Some((Program::Loadtest, "bench".to_owned()))
        );
        assert_eq!(seen("cargo xtask test --fast"), Some((Program::Xtask, "test".to_owned())));
        assert_eq!(seen("cargo build"), None);
    }

    #[test]
    fn unknown_commands_and_options_are_told() {
        let mut helps = Helps { folder: PathBuf::new(), known: BTreeMap::new() };
        assert_eq!(helps.problem(Program::Xtask, &words("test --fast")).unwrap(), None);
        assert_eq!(
            helps.problem(Program::Xtask, &words("test --slow")).unwrap().as_deref(),
            Some("test has no option --slow")
        );
        assert_eq!(
            helps.problem(Program::Xtask, &words("tset")).unwrap().as_deref(),
            Some("there is no command tset")
        );
        assert_eq!(helps.problem(Program::Xtask, &words("cluster up --control-plane")).unwrap(), None);
        assert_eq!(
            helps.problem(Program::Xtask, &words("cluster kubectl get pods --for=x -o wide")).unwrap(),
            None
        );
        assert_eq!(
            helps.problem(Program::Xtask, &words("cluster upp")).unwrap().as_deref(),
            Some("there is no command upp")
        );
    }
}
