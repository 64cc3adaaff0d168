//! Three pods behind `active`, one of which listens on the wrong port: it alone is ejected, and nobody notices.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::harness::task::{configure, deploy_apps, require_all_by};
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
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let target = gateway::target(lab)?;
    lab.kubectl.run(&["scale", "deployment/active", "--replicas=2"])?;
    lab.kubectl.rolled_out("default", "deployment/active")?;
    lab.kubectl.apply(&bad(lab)?)?;
    lab.kubectl.rolled_out("default", "deployment/active-bad")?;
    let outcomes = target.ask_times(TIMES);
    require_all_by("active", &outcomes).context("two of three pods are good")?;
    let mut pods: Vec<String> = outcomes.into_iter().flatten().collect();
    pods.sort();
    pods.dedup();
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
    lab.kubectl.run(&["delete", "deployment", "active-bad", "--wait"])?;
    Ok(String::new())
}
