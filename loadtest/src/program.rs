//! Programs that a measurement starts: pinned to a processor, and killed by their pid when it ends.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

/// A program with the processor that it shall run on.
pub(crate) struct Program {
    path: PathBuf,
    cpu: Option<usize>,
    environment: Vec<(&'static str, &'static str)>,
}

/// The processors of a measurement: the proxy has one for itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Processors {
    /// The proxy's.
    pub(crate) proxy: Option<usize>,
    /// The load's, the backend's and the controller's.
    pub(crate) others: Option<usize>,
}

impl Processors {
    /// Two processors, where there are two and a program to pin with.
    pub(crate) fn detect() -> Self {
        let enough = std::thread::available_parallelism().is_ok_and(|count| count.get() >= 2);
        if enough && on_path("taskset") {
            Self { proxy: Some(0), others: Some(1) }
        } else {
            Self { proxy: None, others: None }
        }
    }
}

impl Program {
    pub(crate) fn new(path: impl Into<PathBuf>, cpu: Option<usize>) -> Self {
        Self { path: path.into(), cpu, environment: Vec::new() }
    }

    /// Sets a variable of its environment.
    pub(crate) fn with_variable(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    /// Starts it with its output going to the end of a file. The child is killed when the value is dropped.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(&self, args: &[impl AsRef<OsStr>], log: &Path) -> Result<Child> {
        let opened = std::fs::File::options().create(true).append(true).open(log);
        let log = opened.with_context(|| format!("creating {}", log.display()))?;
        self.command(args)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.path.display()))
    }

    /// Runs it to its end and gives its stdout.
    ///
    /// # Errors
    /// When it cannot be started, or fails.
    pub(crate) async fn output(&self, args: &[impl AsRef<OsStr>]) -> Result<String> {
        let out =
            self.command(args).output().await.with_context(|| format!("starting {}", self.path.display()))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !out.status.success() {
            bail!(
                "{} ended with {}\n{}{}",
                self.path.display(),
                out.status,
                text(&out.stdout),
                text(&out.stderr)
            );
        }
        Ok(text(&out.stdout))
    }

    fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = match self.cpu {
            // It becomes the program itself, so the pid is the program's.
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.arg("-c").arg(cpu.to_string()).arg(&self.path);
                command
            }
            None => Command::new(&self.path),
        };
        command.args(args).envs(self.environment.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
        command
    }
}

/// Finds Understudy's binary: beside this program, or where the build puts it when this is a test.
///
/// # Errors
/// When it is not there, with the command that builds it.
pub(crate) fn find_understudy() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found =
        own.ancestors().skip(1).take(2).map(|folder| folder.join("understudy")).find(|path| path.is_file());
    found.with_context(|| {
        let profile = if cfg!(debug_assertions) { "" } else { " --release" };
        format!(
            "understudy is missing beside {}; build it with: cargo build{profile} -p understudy",
            own.display()
        )
    })
}

/// Whether a program of this name is on the PATH.
pub(crate) fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
