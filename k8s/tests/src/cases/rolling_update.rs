//! The DaemonSet is rolled under load: clients that keep their connections and clients that do not see nothing.

use anyhow::{Result, bail};

use crate::harness::install::{DAEMON_SET, NAMESPACE};
use crate::harness::load::{Clients, Load};
use crate::harness::task::{configure, deploy_apps};
use crate::harness::{Lab, gateway};

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let target = gateway::target(lab)?;
    let before = pods(lab)?;
    let load = Load::start(&target, Clients { kept: 50, fresh: 10 });
    lab.kubectl.run(&["-n", NAMESPACE, "rollout", "restart", DAEMON_SET])?;
    lab.kubectl.rolled_out(NAMESPACE, DAEMON_SET)?;
    // The old pod drains after the new one is ready: its end belongs to the update.
    for pod in &before {
        let name = format!("pod/{pod}");
        lab.kubectl.run(&["-n", NAMESPACE, "wait", "--for=delete", "--timeout=180s", &name])?;
    }
    let tally = load.finish();
    if pods(lab)?.iter().any(|pod| before.contains(pod)) {
        bail!("the DaemonSet was not rolled");
    }
    tally.require_no_failure()?;
    Ok(tally.to_string())
}

fn pods(lab: &Lab) -> Result<Vec<String>> {
    let items = lab.kubectl.items(&["-n", NAMESPACE, "pods"])?;
    Ok(items.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}
