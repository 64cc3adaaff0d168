//! Three pods behind `active`, one of which listens on the wrong port: it alone is ejected, and nobody notices.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::harness::task::{configure, deploy_apps};
use crate::harness::wait::wait_for;
use crate::harness::{Lab, gateway};

const SOON: Duration = Duration::from_secs(60);
const TIMES: usize = 60;

/// Another Deployment behind the same Service: its pods answer on the wrong port.
fn bad(lab: &Lab) -> Result<String> {
    let text = std::fs::read_to_string(lab.task("active-broken.yaml"))?;
    Ok(text.replacen("name: active", "name: active-bad", 1).replace("version: v1", "version: bad"))
}

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    let outcome = walk(lab);
    lab.kubectl.run(&["delete", "deployment", "active-bad", "--ignore-not-found", "--wait"])?;
    outcome
}

fn walk(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let target = gateway::target(lab)?;
    lab.kubectl.run(&["scale", "deployment/active", "--replicas=2"])?;
    lab.kubectl.rolled_out("default", "deployment/active")?;
    lab.kubectl.apply(&bad(lab)?)?;
    lab.kubectl.rolled_out("default", "deployment/active-bad")?;
    let mut pods = BTreeSet::new();
    for outcome in target.ask_times(TIMES) {
        pods.insert(outcome.map_err(|failed| anyhow!("a request failed: {failed}"))?);
    }
    // P1: two of three endpoints are 93 % of the pool's share, the rest goes to the fallback.
    pods.retain(|pod| !pod.starts_with("passive-"));
    if pods.len() != 2 || pods.iter().any(|pod| pod.starts_with("active-bad-")) {
        bail!("answers came from {pods:?}");
    }
    let address = lab.kubectl.run(&[
        "get",
        "pods",
        "-l",
        "app=active,version=bad",
        "-o",
        "jsonpath={.items[0].status.podIP}",
    ])?;
    wait_for("kubectl describe backend active to name the bad pod", SOON, || {
        let told = lab.kubectl.run(&["describe", "backend", "active"])?;
        if told.contains(&address) { Ok(()) } else { bail!("{told}") }
    })?;
    Ok(String::new())
}
