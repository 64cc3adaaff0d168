//! The failover task over a TCPRoute: `active` listens on the wrong port, and connections land on `passive`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::harness::http::Target;
use crate::harness::task::{Listens, deploy_apps, let_active_listen, require_all_by};
use crate::harness::wait::wait_for;
use crate::harness::{Lab, gateway};

const SOON: Duration = Duration::from_secs(60);
const TIMES: usize = 10;
/// The Gateway, its route and the policy.
const NAME: &str = "over-tcp";
const PORT: u16 = 9000;

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    let outcome = walk(lab);
    let_active_listen(lab, Listens::Right)?;
    for kind in ["backendtrafficpolicy", "tcproute", "gateway"] {
        lab.kubectl.run(&["delete", kind, NAME, "--ignore-not-found", "--wait"])?;
    }
    outcome
}

fn walk(lab: &Lab) -> Result<String> {
    lab.kubectl.apply_file(&lab.task("backends.yaml"))?;
    let safe = fail_over(lab, "")?;
    require_all_by("passive", &safe)?;
    let mut bare = fail_over(lab, "retry: {numRetries: 0}")?;
    let first = bare.remove(0);
    if let Ok(pod) = first {
        bail!("without any retry the first connection got to {pod}");
    }
    require_all_by("passive", &bare)?;
    Ok(format!("{TIMES} connections: 0 failed, 1 without any retry"))
}

/// Takes `active` away, and says where each connection after that lands.
fn fail_over(lab: &Lab, retry: &str) -> Result<Vec<Result<String, String>>> {
    deploy_apps(lab)?;
    lab.kubectl.apply(&manifests(retry))?;
    gateway::wait_for_condition(lab, &["gateway", NAME], "Programmed", "True")?;
    let address = SocketAddr::new(gateway::address(lab, NAME)?.ip(), PORT);
    let target = Target { address, host: "anything".to_owned(), path: "/".to_owned() };
    // An ejection of before is over by then.
    wait_for("connections that land on active", SOON, || require_all_by("active", &target.ask_times(TIMES)))?;
    let_active_listen(lab, Listens::Wrong)?;
    Ok(target.ask_times(TIMES))
}

fn manifests(retry: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {NAME}, namespace: default}}
spec:
  gatewayClassName: eg
  listeners:
  - {{name: tcp, protocol: TCP, port: {PORT}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: TCPRoute
metadata: {{name: {NAME}, namespace: default}}
spec:
  parentRefs: [{{name: {NAME}}}]
  rules:
  - backendRefs:
    - {{group: gateway.envoyproxy.io, kind: Backend, name: active}}
    - {{group: gateway.envoyproxy.io, kind: Backend, name: passive}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {{name: {NAME}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: TCPRoute, name: {NAME}}}]
  healthCheck:
    passive: {{consecutive5XxErrors: 1, baseEjectionTime: 10s, interval: 2s, maxEjectionPercent: 100}}
  {retry}
"
    )
}
