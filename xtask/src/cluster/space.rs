//! The namespaces of a cluster: network, mounts and processes of its own. All in it ends with its process 1.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::place::{Place, inside};
use crate::run;

/// A question to a cluster takes no longer.
const LIMIT: Duration = Duration::from_secs(120);

/// The namespaces of a running cluster.
pub(crate) struct Space {
    /// Process 1 of the cluster, by its number outside.
    pid: u32,
    /// The program with kubectl in it.
    kubernetes: PathBuf,
}

impl Space {
    /// The cluster that runs at this place, if one does.
    pub(crate) fn running(place: &Place) -> Option<Self> {
        let line = fs::read_to_string(place.file("space")).ok()?;
        let (pid, kubernetes) = line.trim().split_once(' ')?;
        let network = fs::read_to_string(place.file("network")).ok()?;
        // A number may belong to another process by now; a network namespace has one number for ever.
        let now = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
        (now.to_string_lossy() == network.trim())
            .then(|| Some(Self { pid: pid.parse().ok()?, kubernetes: PathBuf::from(kubernetes) }))?
    }

    /// Makes the namespaces.
    pub(crate) fn make(place: &Place, pause: &Path, kubernetes: &Path) -> Result<Self> {
        let log = fs::File::create(place.file("log/init.log"))?;
        let mut unshare = Command::new("setsid")
            .args(["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh"])
            .arg(place.sources.join("init.sh"))
            .args([&place.run, pause])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting unshare")?;
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let network = place.file("network");
        for _ in 0..200 {
            if let Some(status) = unshare.try_wait()? {
                bail!(
                    "the namespaces ended with {status}: {}",
                    fs::read_to_string(place.file("log/init.log"))?
                );
            }
            let child = fs::read_to_string(&children).unwrap_or_default();
            if let (true, Some(pid)) = (network.exists(), child.split_whitespace().next()) {
                fs::write(place.file("space"), format!("{pid} {}\n", kubernetes.display()))?;
                break;
            }
            sleep(Duration::from_millis(50));
        }
        Self::running(place)
            .with_context(|| format!("the namespaces did not start; see {}", place.run.display()))
    }

    /// A command inside, in the same folder and environment, with kubectl's configuration.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--mount", "--pid", "--target"]).arg(self.pid.to_string());
        if let Ok(folder) = std::env::current_dir() {
            command.arg("--").args(["env", "-C"]).arg(folder);
        } else {
            command.args(["--", "env"]);
        }
        command.arg(program);
        command.env("KUBECONFIG", inside("kubeconfig/admin")).env("UNDERSTUDY_KUBECTL", &self.kubernetes);
        command.env("UNDERSTUDY_HELM", self.kubernetes.with_file_name("helm"));
        command
    }

    /// kubectl, as the cluster's administrator.
    pub(crate) fn kubectl(&self) -> Command {
        let mut command = self.command(&self.kubernetes);
        command.arg("kubectl");
        command
    }

    /// containerd's own client.
    pub(crate) fn ctr(&self) -> Command {
        let mut command = self.command("ctr");
        command.args(["--address", &inside("containerd/containerd.sock"), "--namespace", "k8s.io"]);
        command
    }

    /// Starts, stops or asks for a component.
    pub(crate) fn component(&self, verb: &str, name: &str) -> Result<bool> {
        let mut command = self.command("sh");
        let (done, text) = run::attempted(command.arg(inside("component.sh")).args([verb, name]), LIMIT)?;
        if !done && verb != "running" {
            bail!("{}", text.trim());
        }
        Ok(done)
    }

    /// Asks until it is so.
    pub(crate) fn wait_until(&self, what: &str, mut so: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        for _ in 0..600 {
            if so(self)? {
                return Ok(());
            }
            sleep(Duration::from_millis(100));
        }
        bail!("waited in vain until {what}")
    }

    /// Whether a command inside succeeds.
    pub(crate) fn succeeds(&self, mut command: Command) -> Result<bool> {
        Ok(run::attempted(&mut command, LIMIT)?.0)
    }

    /// Ends everything inside.
    pub(crate) fn end(self) -> Result<()> {
        run::logged(Command::new("kill").args(["-9", &self.pid.to_string()]), LIMIT)?;
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        for _ in 0..200 {
            if !process.exists() {
                return Ok(());
            }
            sleep(Duration::from_millis(50));
        }
        bail!("process {} does not end", self.pid)
    }
}

/// Becomes a command; returns only where that fails.
pub(crate) fn become_command(mut command: Command) -> anyhow::Error {
    let error = command.exec();
    anyhow::Error::new(error).context(format!("starting {}", command.get_program().to_string_lossy()))
}
