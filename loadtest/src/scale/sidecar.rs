//! Controller and proxy as two processes that share a folder, as in a pod. They are killed by their pid at the end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use understudy_conf::State;
use understudy_conf::store::{Read, Reader, read_acknowledgement};

use super::objects::{self, NAMESPACE, Size};
use crate::procfs;
use crate::program::Program;
use crate::subject::{free_address, path_text, tail};

const POLL: Duration = Duration::from_millis(5);
/// Says how long the proxy took for the state that it serves.
const TAKEN: &str = "understudy_state_taken_seconds ";

/// Resident memory of both in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) controller: u64,
    pub(super) proxy: u64,
    /// The most that they had so far.
    pub(super) controller_peak: u64,
    pub(super) proxy_peak: u64,
}

impl Usage {
    pub(super) fn max(self, other: Self) -> Self {
        Self {
            controller: self.controller.max(other.controller),
            proxy: self.proxy.max(other.proxy),
            controller_peak: self.controller_peak.max(other.controller_peak),
            proxy_peak: self.proxy_peak.max(other.proxy_peak),
        }
    }
}

/// CPU time of both since they started.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cpu {
    pub(super) controller: Duration,
    pub(super) proxy: Duration,
}

/// The two processes.
pub(super) struct Sidecar {
    state: PathBuf,
    admin: String,
    controller: Child,
    proxy: Child,
    logs: [PathBuf; 2],
}

impl Sidecar {
    pub(super) async fn start(understudy: &Path, folder: &Path) -> Result<Self> {
        let state = folder.join("state");
        let admin = free_address()?.to_string();
        let logs = ["controller.log", "proxy.log"].map(|name| folder.join(name));
        let program = Program::new(understudy, None);
        let state_text = path_text(&state)?;
        // No Service is made for the Gateway: its listener is on loopback.
        let arguments = ["controller", "--kubernetes", "--state", state_text, "--bind", "127.0.0.1"];
        let arguments =
            [&arguments[..], &["--namespace", NAMESPACE, "--pod", NAMESPACE, "--node", NAMESPACE]];
        let controller = program.start(&arguments.concat(), &logs[0])?;
        let arguments = ["proxy", "--state", state_text, "--admin", &admin, "--access-log", "off"];
        // As the DaemonSet has it.
        let program = program.with_variable("MIMALLOC_PURGE_DELAY", "0");
        let proxy = program.start(&arguments, &logs[1])?;
        Ok(Self { state, admin, controller, proxy, logs })
    }

    fn pids(&self) -> Result<[u32; 2]> {
        let mut pids = [0; 2];
        let both = [("controller", &self.controller), ("proxy", &self.proxy)];
        for ((pid, (name, child)), log) in pids.iter_mut().zip(both).zip(&self.logs) {
            *pid = child.id().with_context(|| format!("the {name} ended:\n{}", tail(log)))?;
        }
        Ok(pids)
    }

    pub(super) fn usage(&self) -> Result<Usage> {
        let [controller, proxy] = self.pids()?;
        Ok(Usage {
            controller: procfs::resident(controller)?,
            proxy: procfs::resident(proxy)?,
            controller_peak: procfs::peak(controller)?,
            proxy_peak: procfs::peak(proxy)?,
        })
    }

    pub(super) fn cpu(&self) -> Result<Cpu> {
        let [controller, proxy] = self.pids()?;
        Ok(Cpu { controller: procfs::cpu_time(controller)?, proxy: procfs::cpu_time(proxy)? })
    }

    /// The newest state on disk.
    pub(super) fn state(&self) -> Result<Arc<State>> {
        match Reader::new(&self.state).read()? {
            Read::State(state) => Ok(state),
            Read::Unchanged => bail!("nothing was read before"),
        }
    }

    /// The version that the proxy serves.
    pub(super) fn version(&self) -> Result<u64> {
        let acknowledgement = read_acknowledgement(&self.state)?;
        acknowledgement.and_then(|found| found.serving).context("the proxy serves nothing yet")
    }

    /// Waits until the proxy serves a state like this, and says when it was so.
    pub(super) async fn until_served(
        &self,
        bound: Duration,
        fits: impl Fn(&State) -> bool,
    ) -> Result<Instant> {
        let deadline = Instant::now() + bound;
        let mut reader = Reader::new(&self.state);
        let mut wanted = None;
        loop {
            // While there is none, or while it is being replaced, there is nothing to say.
            if let Ok(Read::State(state)) = reader.read()
                && wanted.is_none()
                && fits(&state)
            {
                wanted = Some(state.version);
            }
            if let (Some(wanted), Ok(version)) = (wanted, self.version())
                && version >= wanted
            {
                return Ok(Instant::now());
            }
            self.pids()?;
            ensure!(
                Instant::now() < deadline,
                "no such state is served after {bound:?}:\n{}{}",
                tail(&self.logs[0]),
                tail(&self.logs[1])
            );
            sleep(POLL).await;
        }
    }

    /// Waits until the proxy serves a later version.
    pub(super) async fn until_acknowledged(&self, bound: Duration, before: u64) -> Result<()> {
        let deadline = Instant::now() + bound;
        while self.version()? <= before {
            ensure!(Instant::now() < deadline, "version {before} is still served after {bound:?}");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until the proxy serves what a change of a slice made.
    pub(super) async fn until_slice(&self, bound: Duration, change: usize, size: Size) -> Result<()> {
        let (backend, uid) = objects::churned_backend(change, size);
        let has_pod = |state: &State| {
            let endpoints =
                state.backends.get(backend.as_str()).into_iter().flat_map(|backend| &backend.endpoints);
            endpoints.into_iter().any(|endpoint| endpoint.uid.as_deref() == Some(&uid))
        };
        self.until_served(bound, has_pod).await.map(drop)
    }

    /// How long the proxy took for the state that it serves, from finding it.
    pub(super) async fn last_reload(&self) -> Result<Duration> {
        let page = understudy_testbed::get(self.admin.parse()?, "admin", "/metrics").await?.text();
        let line = page.lines().find_map(|line| line.strip_prefix(TAKEN));
        let seconds = line.with_context(|| format!("the proxy's metrics have no {TAKEN}"))?;
        Ok(Duration::from_secs_f64(seconds.trim().parse()?))
    }
}
