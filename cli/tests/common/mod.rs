//! The real binary, as a user starts it.
#![allow(dead_code, missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use understudy_conf::Reports;
use understudy_testbed::{Backend, Client};

pub const HOST: &str = "www.example.com";
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The binary with these arguments.
pub fn understudy(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_understudy"));
    command.args(arguments).stdin(Stdio::null());
    // What a test expects it asserts; the log is for those who look for a cause.
    if std::env::var_os("RUST_LOG").is_none() {
        command.env("RUST_LOG", "error,pingora_core=off");
    }
    command
}

/// A process that is gone when this is dropped.
pub struct Process(Child);

impl Process {
    pub fn start(mut command: Command) -> Self {
        Self(command.spawn().unwrap())
    }

    /// As `kill -9` does it.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn terminate(&mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    }

    pub async fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "the process does not end");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A loopback address that nobody listens on.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A folder with manifests, and `understudy run` on it.
pub struct Gateway {
    pub folder: TempDir,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub process: Process,
}

impl Gateway {
    /// Starts the gateway on manifests in which `PORT` stands for its own port.
    pub async fn start(manifests: &str, arguments: &[&str]) -> Self {
        let (address, admin) = (free_address(), free_address());
        let folder = TempDir::new().unwrap();
        let gateway = manifests.replace("GATEWAY_PORT", &address.port().to_string());
        write(folder.path(), &gateway);
        let admin_text = admin.to_string();
        let path = folder.path().to_str().unwrap().to_owned();
        let mut all = vec!["run", path.as_str(), "--admin", admin_text.as_str(), "--access-log", "off"];
        all.extend_from_slice(arguments);
        let process = Process::start(understudy(&all));
        let gateway = Self { folder, address, admin, process };
        gateway.wait_until_ready().await;
        gateway
    }

    pub async fn wait_until_ready(&self) {
        eventually("readiness", || async {
            ready(self.admin).await && Client::connect(self.address).await.is_ok()
        })
        .await;
    }

    pub fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests.yaml")
    }

    /// The pod that answers a request on a connection of its own, or the status.
    pub async fn pod(&self, path: &str) -> String {
        pod(self.address, path).await
    }

    pub async fn pods(&self, path: &str, count: usize) -> Vec<String> {
        let mut pods = Vec::new();
        for _ in 0..count {
            pods.push(self.pod(path).await);
        }
        pods
    }

    pub async fn reports(&self) -> Reports {
        let response = understudy_testbed::get(self.admin, "admin", "/pools").await.unwrap();
        serde_json::from_slice(&response.body).unwrap()
    }

    /// Requests that an endpoint got from this gateway.
    pub async fn requests_to(&self, address: SocketAddr) -> u64 {
        let address = address.to_string();
        let reports = self.reports().await;
        let endpoints = reports.pools.into_iter().flat_map(|pool| pool.endpoints);
        endpoints.filter(|endpoint| endpoint.address == address).map(|endpoint| endpoint.requests).sum()
    }
}

/// Replaces the manifests as an editor does: the new file is renamed into place.
pub fn write(folder: &Path, manifests: &str) {
    let temporary = folder.join(".manifests.tmp");
    std::fs::write(&temporary, manifests).unwrap();
    std::fs::rename(temporary, folder.join("manifests.yaml")).unwrap();
}

pub async fn ready(admin: SocketAddr) -> bool {
    matches!(understudy_testbed::get(admin, "admin", "/ready").await, Ok(response) if response.status == 200)
}

pub async fn pod(address: SocketAddr, path: &str) -> String {
    match understudy_testbed::get(address, HOST, path).await {
        Ok(response) => match response.pod() {
            Some(pod) if response.status == 200 => pod,
            _ => response.status.to_string(),
        },
        Err(error) => format!("failed: {error}"),
    }
}

pub fn all(pod: &str, count: usize) -> Vec<String> {
    vec![pod.to_owned(); count]
}

pub async fn backend(name: &str) -> Backend {
    Backend::start(name).await.unwrap()
}

/// Waits until a condition holds.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut condition: impl FnMut() -> F) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not happen");
        sleep(Duration::from_millis(10)).await;
    }
}

/// A GatewayClass and the Gateway `eg`, on the test's own port.
pub const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: understudy}
spec: {controllerName: understudy.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec:
  gatewayClassName: understudy
  listeners: [{name: http, protocol: HTTP, port: GATEWAY_PORT}]
---
";

/// A Backend with ip endpoints.
pub fn backend_manifest(name: &str, fallback: bool, addresses: &[SocketAddr]) -> String {
    let endpoints: String = addresses
        .iter()
        .map(|address| format!("  - ip: {{address: {}, port: {}}}\n", address.ip(), address.port()))
        .collect();
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\nspec:\n  \
         fallback: {fallback}\n  endpoints:\n{endpoints}---\n"
    )
}

/// The task's route, with these references.
pub fn route_manifest(refs: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: ha-example}}\nspec:\n  \
         hostnames: [{HOST}]\n  parentRefs: [{{name: eg}}]\n  rules:\n  - backendRefs:\n{refs}    matches:\n    \
         - path: {{type: PathPrefix, value: /test}}\n---\n"
    )
}

pub const BACKEND_REFS: &str = "    - {group: gateway.envoyproxy.io, kind: Backend, name: active}
    - {group: gateway.envoyproxy.io, kind: Backend, name: passive}
";

/// The task's policy, with more fields of its spec behind it.
pub fn policy_manifest(more: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: BackendTrafficPolicy\nmetadata: {{name: passive-health-check}}\n\
         spec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: ha-example}}]\n  \
         healthCheck:\n    passive:\n      baseEjectionTime: 10s\n      interval: 2s\n      maxEjectionPercent: 100\n      \
         consecutive5XxErrors: 1\n      consecutiveGatewayErrors: 0\n      consecutiveLocalOriginFailures: 1\n      \
         splitExternalLocalOriginErrors: false\n{more}---\n"
    )
}

/// The task's objects with backends on loopback.
pub fn task(active: &[SocketAddr], passive: SocketAddr, more: &str) -> String {
    [
        GATEWAY.to_owned(),
        backend_manifest("active", false, active),
        backend_manifest("passive", true, &[passive]),
        route_manifest(BACKEND_REFS),
        policy_manifest(more),
    ]
    .concat()
}
