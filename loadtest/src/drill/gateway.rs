//! The proxies, started as real processes from the same manifests, and stopped by their pid when dropped.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;
use tokio::process::Child;
use tokio::time::{Instant, sleep};
use understudy_controller::{Options, Source, check};

use crate::envoy::config::{self, Extras};
use crate::program::Program;
use crate::wrk::HOST;

/// How long a proxy may take until it serves.
const START: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// A path without a route: the answer shows that the proxy serves, and no backend sees the request.
const NO_ROUTE: &str = "/drill-is-there-anybody";

/// A proxy that takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Proxy {
    Understudy,
    Envoy,
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Understudy => "Understudy",
            Self::Envoy => "Envoy",
        })
    }
}

/// The binaries.
#[derive(Debug, Clone)]
pub(crate) struct Binaries {
    pub(crate) understudy: PathBuf,
    pub(crate) envoy: PathBuf,
}

/// A proxy that serves. Its processes end with it.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    children: Vec<(&'static str, Child)>,
    folder: TempDir,
    /// Keep its ports.
    reserved: Vec<Socket>,
}

impl Gateway {
    /// Starts a proxy; `manifests` gets the port to listen on. Names are resolved by `dns`.
    ///
    /// # Errors
    /// When it does not come to serve, with the end of its log.
    pub(crate) async fn start(
        proxy: Proxy,
        binaries: &Binaries,
        dns: SocketAddr,
        manifests: impl Fn(u16) -> String,
    ) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let (address, socket) = reserve()?;
        let path = folder.path().join("manifests.yaml");
        std::fs::write(&path, manifests(address.port()))?;
        let mut gateway = Self { address, children: Vec::new(), folder, reserved: vec![socket] };
        match proxy {
            Proxy::Understudy => gateway.understudy(&binaries.understudy, &path, dns)?,
            Proxy::Envoy => gateway.envoy(&binaries.envoy, &path, dns)?,
        }
        gateway.wait_until_it_serves().await.with_context(|| format!("starting {proxy}"))?;
        Ok(gateway)
    }

    fn understudy(&mut self, binary: &Path, manifests: &Path, dns: SocketAddr) -> Result<()> {
        let state = self.folder.path().join("state");
        let (manifests, state) = (text(manifests)?, text(&state)?.to_owned());
        self.spawn("controller", binary, &["controller", "--manifests", manifests, "--state", &state])?;
        let (admin, socket) = reserve()?;
        self.reserved.push(socket);
        let (admin, dns) = (admin.to_string(), dns.to_string());
        let arguments = ["proxy", "--state", &state, "--threads", "1", "--admin", &admin, "--dns", &dns];
        self.spawn("proxy", binary, &[&arguments[..], &["--access-log", "off"]].concat())
    }

    fn envoy(&mut self, binary: &Path, manifests: &Path, dns: SocketAddr) -> Result<()> {
        let state = check(&[Source::Path(manifests.to_owned())], &Options::default()).state;
        let config = config::bootstrap(&state, Extras { dns: Some(dns), ..Extras::default() })?;
        let path = self.folder.path().join("envoy.json");
        std::fs::write(&path, format!("{config:#}"))?;
        let arguments = ["-c", text(&path)?, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"];
        self.spawn("envoy", binary, &arguments)
    }

    fn spawn(&mut self, name: &'static str, binary: &Path, arguments: &[&str]) -> Result<()> {
        let child = Program::new(binary, None).start(arguments, &self.log(name))?;
        self.children.push((name, child));
        Ok(())
    }

    async fn wait_until_it_serves(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        let mut last = String::new();
        while Instant::now() < deadline {
            match understudy_testbed::get(self.address, HOST, NO_ROUTE).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.to_string(),
            }
            self.require_alive()?;
            sleep(POLL).await;
        }
        bail!("no answer from {} after {} s: {last}\n{}", self.address, START.as_secs(), self.tails());
    }

    /// Checks that its processes run.
    ///
    /// # Errors
    /// When one ended, with the end of its log.
    pub(crate) fn require_alive(&mut self) -> Result<()> {
        let tails = self.tails();
        for (name, child) in &mut self.children {
            if let Some(status) = child.try_wait()? {
                bail!("the {name} ended with {status}:\n{tails}");
            }
        }
        Ok(())
    }

    /// Ends its processes and waits until they are gone.
    pub(crate) async fn stop(mut self) {
        for (_, child) in &mut self.children {
            // It may have ended already.
            let _ = child.kill().await;
        }
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// The last lines of all logs.
    fn tails(&self) -> String {
        let mut tails = String::new();
        for (name, _) in &self.children {
            let bytes = std::fs::read(self.log(name)).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes);
            let lines: Vec<&str> = text.lines().collect();
            tails.push_str(&lines[lines.len().saturating_sub(10)..].join("\n"));
            tails.push('\n');
        }
        tails
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Reserves a port: bound and not listening, it is given to nobody as a free one, and a proxy may listen on it.
fn reserve() -> Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    let address = socket.local_addr()?.as_socket().context("a port of 127.0.0.1")?;
    Ok((address, socket))
}
