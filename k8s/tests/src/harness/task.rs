//! The failover task's objects, from `k8s/examples/failover`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use super::wait::wait_for;
use super::{Lab, gateway};

const SOON: Duration = Duration::from_secs(90);

impl Lab {
    /// A manifest of the task.
    pub(crate) fn task(&self, file: &str) -> PathBuf {
        self.manifests.join("examples").join("failover").join(file)
    }
}

/// On which port `active` listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listens {
    /// On the one that its Service names.
    Right,
    /// On another, as the task breaks it.
    Wrong,
}

/// Applies the two applications, one pod each, and waits until they run.
pub(crate) fn deploy_apps(lab: &Lab) -> Result<()> {
    let_active_listen(lab, Listens::Right)?;
    lab.kubectl.rolled_out("default", "deployment/passive")
}

/// Changes the port on which `active` listens, as the task does, and waits until only such pods are left.
pub(crate) fn let_active_listen(lab: &Lab, listens: Listens) -> Result<()> {
    let file = if listens == Listens::Right { "apps.yaml" } else { "active-broken.yaml" };
    lab.kubectl.apply_file(&lab.task(file))?;
    lab.kubectl.rolled_out("default", "deployment/active")?;
    wait_for("the end of active's old pods", SOON, || {
        let pods = pods(lab, "active")?;
        if pods.len() == 1 { Ok(()) } else { bail!("pods: {pods:?}") }
    })
}

/// The names of the pods of an application, ending ones included.
pub(crate) fn pods(lab: &Lab, app: &str) -> Result<Vec<String>> {
    let items = lab.kubectl.items(&["pods", "-l", &format!("app={app}")])?;
    Ok(items.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// Applies the Backends, the route and a policy, and waits until the route works.
pub(crate) fn configure(lab: &Lab, policy: &str) -> Result<()> {
    for file in ["backends.yaml", "route.yaml", policy] {
        lab.kubectl.apply_file(&lab.task(file))?;
    }
    gateway::wait_for_condition(lab, &["httproute", "ha-example"], "Accepted", "True")?;
    gateway::wait_for_condition(lab, &["httproute", "ha-example"], "ResolvedRefs", "True")?;
    gateway::wait_for_condition(lab, &["gateway", "eg"], "Programmed", "True")?;
    let target = gateway::target(lab)?;
    wait_for("a first answer by active", SOON, || match target.ask_times(1).remove(0) {
        Ok(pod) if pod.starts_with("active-") => Ok(()),
        other => bail!("{other:?}"),
    })
}

/// Removes what `configure` applied.
pub(crate) fn remove_configuration(lab: &Lab) -> Result<()> {
    ["policy.yaml", "route.yaml", "backends.yaml"]
        .iter()
        .try_for_each(|file| lab.kubectl.delete_file(&lab.task(file)))
}

/// Requires that all requests were answered by pods of one application.
pub(crate) fn require_all_by(app: &str, outcomes: &[Result<String, String>]) -> Result<()> {
    let prefix = format!("{app}-");
    if outcomes.iter().all(|outcome| outcome.as_ref().is_ok_and(|pod| pod.starts_with(&prefix))) {
        return Ok(());
    }
    bail!("not all by {app}: {outcomes:?}")
}
