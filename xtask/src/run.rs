//! Running other programs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

/// Runs a program and gives what it printed, on stdout and stderr in one text. Its stdin is empty.
///
/// # Errors
/// With the whole output, when the program cannot be started, fails, or runs longer than `limit`.
pub(crate) fn logged(command: &mut Command, limit: Duration) -> Result<String> {
    let (status, text) = ended(command, limit)?;
    if status.success() { Ok(text) } else { bail!("{text}\n{} ended with {status}", shown(command)) }
}

/// As [`logged`], but a failure of the program is no error: it gives whether it succeeded.
pub(crate) fn attempted(command: &mut Command, limit: Duration) -> Result<(bool, String)> {
    let (status, text) = ended(command, limit)?;
    Ok((status.success(), text))
}

/// Runs a short program and gives its stdout alone.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let out =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", shown(command)))?;
    if !out.status.success() {
        bail!("{}\n{} ended with {}", String::from_utf8_lossy(&out.stderr), shown(command), out.status);
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Whether a program of this name is on the PATH. A path is looked up as it stands.
pub(crate) fn exists(program: &str) -> bool {
    if program.starts_with('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn ended(command: &mut Command, limit: Duration) -> Result<(std::process::ExitStatus, String)> {
    let mut log = unnamed_file()?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("starting {}", shown(command)))?;
    let status = wait(&mut child, limit)?;
    let mut bytes = Vec::new();
    log.seek(SeekFrom::Start(0))?;
    log.read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    match status {
        Some(status) => Ok((status, text)),
        None => bail!("{text}\n{} was stopped after {} s", shown(command), limit.as_secs()),
    }
}

/// Waits for the end of a child; `None` when it had to be killed at the limit.
fn wait(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let start = SystemTime::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed().unwrap_or_default() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        sleep(Duration::from_millis(50));
    }
}

/// A file without a name: a child that outlives its parent cannot block on a full pipe.
fn unnamed_file() -> Result<File> {
    let name = format!("understudy-xtask-{}-{:x}", std::process::id(), unique());
    let path = std::env::temp_dir().join(name);
    let file = File::options().read(true).append(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn unique() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

fn shown(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn output_of_both_streams_is_kept_and_a_failure_shows_it() {
        let text = logged(Command::new("sh").args(["-c", "echo a; echo b >&2"]), SOON).unwrap();
        assert_eq!(text, "a\nb\n");
        let error = logged(Command::new("sh").args(["-c", "echo why; exit 3"]), SOON).unwrap_err();
        assert!(error.to_string().contains("why") && error.to_string().contains('3'), "{error}");
    }

    #[test]
    fn a_program_that_runs_too_long_is_stopped() {
        let error = logged(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(error.to_string().contains("was stopped"), "{error}");
    }
}
