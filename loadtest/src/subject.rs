//! What is measured: a proxy in front of the cheap backend, ready to be loaded.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::manifests;
use crate::program::{Processors, Program, sibling};
use crate::wrk::HOST;

/// How long a program may take until it serves.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// The cheap backend, on two addresses.
pub(crate) struct Backends {
    pub(crate) active: SocketAddr,
    pub(crate) passive: SocketAddr,
    _child: Child,
}

impl Backends {
    /// Starts it with its log in a folder.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn start(folder: &Path, processors: Processors) -> Result<Self> {
        let (active, passive) = (free_address()?, free_address()?);
        let log = folder.join("backend.log");
        let listen = [active.to_string(), passive.to_string()];
        let mut child = Program::new(std::env::current_exe()?, processors.others)
            .start(&["backend", "--listen", &listen[0], "--listen", &listen[1]], &log)?;
        serves(active, &mut child, &log).await?;
        Ok(Self { active, passive, _child: child })
    }
}

/// A proxy that serves.
pub(crate) struct Subject {
    /// Its name in reports.
    pub(crate) name: &'static str,
    /// Where it serves `www.example.com/test`.
    pub(crate) address: SocketAddr,
    child: Child,
    // Stopped together with the proxy.
    _controller: Option<Child>,
}

impl Subject {
    /// Starts a bare Pingora proxy.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn bare(
        name: &'static str,
        backends: &Backends,
        folder: &Path,
        processors: Processors,
    ) -> Result<Self> {
        let address = free_address()?;
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        let (listen, upstream) = (address.to_string(), backends.active.to_string());
        let mut child = Program::new(std::env::current_exe()?, processors.proxy)
            .start(&["bare-pingora", "--listen", &listen, "--upstream", &upstream, "--threads", "1"], &log)?;
        serves(address, &mut child, &log).await?;
        Ok(Self { name, address, child, _controller: None })
    }

    /// Starts Understudy as controller and proxy on the failover task's objects.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn understudy(
        backends: &Backends,
        folder: &Path,
        processors: Processors,
    ) -> Result<Self> {
        let binary = sibling("understudy")?;
        let (address, admin) = (free_address()?, free_address()?);
        let manifests = folder.join("failover-task.yaml");
        std::fs::write(
            &manifests,
            manifests::failover_task(address.port(), backends.active, backends.passive),
        )?;
        let state = folder.join("state");
        let (manifests, state) = (path_text(&manifests)?, path_text(&state)?);

        let log = folder.join("controller.log");
        let mut controller = Program::new(&binary, processors.others)
            .start(&["controller", "--manifests", manifests, "--state", state], &log)?;
        let log = folder.join("proxy.log");
        let admin = admin.to_string();
        let mut child = Program::new(&binary, processors.proxy).start(
            &["proxy", "--state", state, "--threads", "1", "--admin", &admin, "--access-log", "off"],
            &log,
        )?;
        let served = serves(address, &mut child, &log).await;
        if let Ok(Some(status)) = controller.try_wait() {
            bail!("the controller ended with {status}:\n{}", tail(&folder.join("controller.log")));
        }
        served?;
        Ok(Self { name: "understudy", address, child, _controller: Some(controller) })
    }

    /// The proxy's process.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }
}

/// Waits until a GET of the test path is answered with 200.
async fn serves(address: SocketAddr, child: &mut Child, log: &Path) -> Result<()> {
    let deadline = Instant::now() + START;
    let mut last = String::new();
    while Instant::now() < deadline {
        match understudy_testbed::get(address, HOST, "/test").await {
            Ok(response) if response.status == 200 => return Ok(()),
            Ok(response) => last = format!("status {}", response.status),
            Err(error) => last = error.to_string(),
        }
        if let Some(status) = child.try_wait()? {
            bail!("ended with {status} before it served:\n{}", tail(log));
        }
        sleep(POLL).await;
    }
    bail!("{address} does not serve after {} s ({last}):\n{}", START.as_secs(), tail(log))
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

fn path_text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A port that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
