//! Installing Understudy from the manifests under `k8s/`, as the README says.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Lab;
use super::wait::wait_for;

/// Where Understudy runs.
pub(crate) const NAMESPACE: &str = "understudy-system";

/// The DaemonSet.
pub(crate) const DAEMON_SET: &str = "daemonset/understudy";

/// The Lease whose holder leads.
pub(crate) const LEASE: &str = "understudy-leader";

/// What is applied, in this order.
const FILES: [&str; 3] = ["gateway-api.yaml", "install.yaml", "quickstart.yaml"];

const SOON: Duration = Duration::from_secs(60);

/// Applies the manifests and waits until the DaemonSet runs.
pub(crate) fn install(lab: &Lab) -> Result<()> {
    apply(lab)?;
    lab.kubectl.rolled_out(NAMESPACE, DAEMON_SET)
}

/// Applies the manifests.
pub(crate) fn apply(lab: &Lab) -> Result<()> {
    for file in FILES {
        let path = lab.manifests.join(file);
        // A kind takes a moment until the API server knows it.
        wait_for(&format!("kubectl apply -f k8s/{file}"), SOON, || lab.kubectl.apply_large(&path))?;
        if file == FILES[0] {
            let args = ["wait", "--for=condition=Established", "--timeout=60s", "crd", "--all"];
            lab.kubectl.run(&args).context("kinds of the Gateway API")?;
        }
    }
    Ok(())
}
