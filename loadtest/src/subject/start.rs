//! How each proxy is started.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use understudy_controller::{Options, Source, check};

use super::stats::{Format, Page};
use super::{Place, Subject, free_address, path_text, peers, serves, tail};
use crate::envoy::config::{self, Extras};
use crate::manifests::{self, Setup};
use crate::program::{Processors, Program, find_understudy};

impl Subject {
    /// Starts a bare Pingora proxy.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn bare(name: &str, place: Place<'_>) -> Result<Self> {
        let address = free_address()?;
        let log = place.folder.join(format!("{}.log", name.replace(' ', "-")));
        let (listen, upstream) = (address.to_string(), place.backends.active.to_string());
        let mut child = Program::new(std::env::current_exe()?, place.processors.proxy)
            .start(&["bare-pingora", "--listen", &listen, "--upstream", &upstream, "--threads", "1"], &log)?;
        serves(address, &mut child, &log).await?;
        Ok(Self {
            name: name.to_owned(),
            address,
            features: "sixty lines with one fixed upstream: no routes, health, retries, log or metrics",
            access_log: None,
            statistics: None,
            child,
            _controller: None,
        })
    }

    /// Starts Understudy as controller and proxy on the failover task's objects, with retries.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn understudy(place: Place<'_>) -> Result<Self> {
        let address = free_address()?;
        let objects = objects(place, address.port());
        Self::understudy_on(place.folder, place.processors, address, &objects).await
    }

    /// Starts Understudy as controller and proxy on these objects, whose listener is at `address`.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn understudy_on(
        folder: &Path,
        processors: Processors,
        address: SocketAddr,
        objects: &str,
    ) -> Result<Self> {
        let binary = find_understudy()?;
        let admin = free_address()?;
        let manifests = folder.join("manifests.yaml");
        std::fs::write(&manifests, objects)?;
        let (state, access_log) = (folder.join("state"), folder.join("understudy-access.log"));
        let (manifests, state) = (path_text(&manifests)?, path_text(&state)?);

        let controller_log = folder.join("controller.log");
        let mut controller = Program::new(&binary, processors.others)
            .start(&["controller", "--manifests", manifests, "--state", state], &controller_log)?;
        let log = folder.join("proxy.log");
        let listen = admin.to_string();
        let arguments = ["proxy", "--state", state, "--threads", "1", "--admin", &listen];
        let arguments = [&arguments[..], &["--access-log", path_text(&access_log)?]].concat();
        let mut child = Program::new(&binary, processors.proxy).start(&arguments, &log)?;
        let served = serves(address, &mut child, &log).await;
        if let Ok(Some(status)) = controller.try_wait() {
            bail!("the controller ended with {status}:\n{}", tail(&controller_log));
        }
        served?;
        Ok(Self {
            name: "Understudy".to_owned(),
            address,
            features: "the failover task's passive health check, `retry: {}`, access log, metrics",
            access_log: Some(access_log),
            statistics: Some(Page { address: admin, path: "/metrics", format: Format::Understudy }),
            child,
            _controller: Some(controller),
        })
    }

    /// Starts Envoy, configured from the same objects.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn envoy(binary: &Path, place: Place<'_>) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let manifests = place.folder.join("failover-task-envoy.yaml");
        std::fs::write(&manifests, objects(place, address.port()))?;
        let access_log = place.folder.join("envoy-access.log");
        let state = check(&[Source::Path(manifests)], &Options::default()).state;
        let extras = Extras { dns: None, access_log: Some(&access_log), admin: Some(admin) };
        let path = place.folder.join("envoy.json");
        std::fs::write(&path, format!("{:#}", config::bootstrap(&state, extras)?))?;
        let log = place.folder.join("envoy.log");
        let arguments =
            ["-c", path_text(&path)?, "--concurrency", "1", "--disable-hot-restart", "-l", "warning"];
        let mut child = Program::new(binary, place.processors.proxy).start(&arguments, &log)?;
        serves(address, &mut child, &log).await?;
        let path = "/stats?filter=http.http.downstream_rq_2xx";
        Ok(Self {
            name: "Envoy".to_owned(),
            address,
            features: "outlier detection, retry policy, access log (its default line) and statistics, rendered from \
                       Understudy's manifests",
            access_log: Some(access_log),
            statistics: Some(Page { address: admin, path, format: Format::Envoy }),
            child,
            _controller: None,
        })
    }

    /// Starts nginx, in one process.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn nginx(binary: &Path, place: Place<'_>) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let access_log = place.folder.join("nginx-access.log");
        let path = place.folder.join("nginx.conf");
        std::fs::write(&path, peers::nginx(&peer(place, address, admin), &access_log))?;
        let log = place.folder.join("nginx.log");
        let prefix = path_text(place.folder)?;
        let mut child = Program::new(binary, place.processors.proxy)
            .start(&["-p", prefix, "-e", path_text(&log)?, "-c", path_text(&path)?], &log)?;
        serves(address, &mut child, &log).await?;
        Ok(Self {
            name: "nginx".to_owned(),
            address,
            features: "`max_fails=1 fail_timeout=10s`, a backup server, `proxy_next_upstream error timeout http_503` with \
                       3 tries, access log (combined and upstream, buffered), stub_status",
            access_log: Some(access_log),
            statistics: Some(Page { address: admin, path: "/status", format: Format::Nginx }),
            child,
            _controller: None,
        })
    }

    /// Starts HAProxy with one thread.
    ///
    /// # Errors
    /// When it does not come to serve.
    pub(crate) async fn haproxy(binary: &Path, place: Place<'_>) -> Result<Self> {
        let (address, admin) = (free_address()?, free_address()?);
        let path = place.folder.join("haproxy.cfg");
        std::fs::write(&path, peers::haproxy(&peer(place, address, admin)))?;
        // It writes lines to its standard output.
        let log = place.folder.join("haproxy-access.log");
        let mut child =
            Program::new(binary, place.processors.proxy).start(&["-db", "-f", path_text(&path)?], &log)?;
        serves(address, &mut child, &log).await?;
        Ok(Self {
            name: "HAProxy".to_owned(),
            address,
            features: "`observe layer7`, an HTTP check every 2 s, a backup server, `retry-on conn-failure 503` with \
                       2 retries and redispatch, access log (httplog to a file), statistics",
            access_log: Some(log),
            statistics: Some(Page { address: admin, path: "/stats;csv", format: Format::Haproxy }),
            child,
            _controller: None,
        })
    }
}

/// The failover task's objects with retries.
fn objects(place: Place<'_>, listener: u16) -> String {
    let setup = Setup::task(manifests::task_passive() + manifests::RETRY);
    manifests::render(&setup, listener, &[place.backends.active], place.backends.passive)
}

fn peer(place: Place<'_>, listen: SocketAddr, admin: SocketAddr) -> peers::Peer {
    peers::Peer { listen, admin, active: place.backends.active, passive: place.backends.passive }
}

/// A program of a Debian package, which may stand where only root's PATH looks.
///
/// # Errors
/// When it is not installed, with the command that does it.
pub(crate) fn find_peer(name: &str) -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not installed; get it with: understudy-loadtest bench --setup"))
}
