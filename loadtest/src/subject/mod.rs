//! What is measured: a proxy in front of the cheap backend, ready to be loaded.
//!
//! Inputs: the cheap backends, a folder for logs and configurations, processors. Outputs: processes that serve
//! `www.example.com/test`, each with an access log and a page of statistics that prove what they did.

mod peers;
mod start;
mod stats;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Child;
use tokio::time::{Instant, sleep};

use crate::program::{Processors, Program};
use crate::wrk::HOST;
pub(crate) use start::find_peer;
pub(crate) use stats::sum_of;

/// How long a program may take until it serves.
const START: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);
/// Every log buffers lines for some seconds at most.
const FLUSH: Duration = Duration::from_secs(15);

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

/// Where a subject is started.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) backends: &'a Backends,
    /// For configurations and logs.
    pub(crate) folder: &'a Path,
    pub(crate) processors: Processors,
}

/// A proxy that serves.
pub(crate) struct Subject {
    /// Its name in reports.
    pub(crate) name: String,
    /// Where it serves `www.example.com/test`.
    pub(crate) address: SocketAddr,
    /// What is switched on in it, for the report.
    pub(crate) features: &'static str,
    access_log: Option<PathBuf>,
    statistics: Option<stats::Page>,
    child: Child,
    // Stopped together with the proxy.
    _controller: Option<Child>,
}

/// What a subject's own log and statistics say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Evidence {
    /// Lines of the access log since it was last emptied; `None` without a log.
    pub(crate) lines: Option<u64>,
    /// Requests that the statistics count since the start; `None` without statistics.
    pub(crate) counted: Option<u64>,
    /// Lines that were not written, where the proxy counts them.
    pub(crate) dropped: Option<u64>,
}

impl Subject {
    /// The proxy's process.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn pid(&self) -> Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.name))
    }

    /// Empties the access log, so that logs of many rounds do not fill the disk.
    ///
    /// # Errors
    /// When the file cannot be changed.
    pub(crate) fn empty_log(&self) -> Result<()> {
        if let Some(log) = &self.access_log {
            let file = std::fs::File::options().write(true).open(log);
            file.and_then(|file| file.set_len(0)).with_context(|| format!("emptying {}", log.display()))?;
        }
        Ok(())
    }

    /// Reads log and statistics. Waits until the log has so many lines, but not for ever: some proxies keep the
    /// last ones for seconds.
    ///
    /// # Errors
    /// When one of them cannot be read.
    pub(crate) async fn evidence(&self, lines: u64) -> Result<Evidence> {
        let deadline = Instant::now() + FLUSH;
        let mut seen = self.lines()?;
        while seen.is_some_and(|seen| seen < lines) && Instant::now() < deadline {
            sleep(Duration::from_millis(250)).await;
            seen = self.lines()?;
        }
        let mut evidence = Evidence { lines: seen, counted: None, dropped: None };
        if let Some(page) = &self.statistics {
            (evidence.counted, evidence.dropped) =
                page.read().await.with_context(|| format!("reading the statistics of {}", self.name))?;
        }
        Ok(evidence)
    }

    /// The text of the statistics.
    ///
    /// # Errors
    /// When there are none, or they cannot be read.
    pub(crate) async fn statistics(&self) -> Result<String> {
        self.statistics.as_ref().with_context(|| format!("{} has no statistics", self.name))?.text().await
    }

    fn lines(&self) -> Result<Option<u64>> {
        let Some(log) = &self.access_log else { return Ok(None) };
        let bytes = std::fs::read(log).with_context(|| format!("reading {}", log.display()))?;
        Ok(Some(bytes.iter().filter(|byte| **byte == b'\n').count() as u64))
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
pub(crate) fn tail(log: &Path) -> String {
    let text =
        std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

pub(crate) fn path_text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
