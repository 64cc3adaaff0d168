//! Two controllers with one Lease: one writes; when it stops without a word the other does.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::harness::install::{DAEMON_SET, LEASE, NAMESPACE};
use crate::harness::task::{configure, deploy_apps};
use crate::harness::wait::{since, wait_for};
use crate::harness::{Lab, audit, components};

const SECOND: &str = "understudy-second";
const SOON: Duration = Duration::from_secs(90);
/// The other writes at the latest this long after the writer had stopped.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let first = holder(lab)?;
    lab.kubectl.apply(&second(lab)?.to_string())?;
    let outcome = take_over(lab, &first);
    lab.kubectl.run(&["-n", NAMESPACE, "delete", "pod", SECOND, "--ignore-not-found", "--wait"])?;
    lab.kubectl.rolled_out(NAMESPACE, DAEMON_SET)?;
    outcome
}

fn take_over(lab: &Lab, first: &str) -> Result<String> {
    let name = format!("pod/{SECOND}");
    lab.kubectl.run(&["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=90s", &name])?;
    let before = audit::writes()?.len();
    touch_route(lab, "one")?;
    let writers = writers_since(before, 1)?;
    if writers.len() != 1 {
        bail!("{writers:?} wrote while {first} held the Lease");
    }
    // Stopped as it stands: it cannot release the Lease, and nothing starts it again meanwhile.
    let pod = pod_of(lab, first)?;
    if components::signal_pod(&pod, "controller", "STOP")? == 0 {
        bail!("no controller of {pod} was found");
    }
    let stopped = SystemTime::now();
    let outcome = written_by_other(lab, first, stopped);
    components::signal_pod(&pod, "controller", "KILL")?;
    outcome
}

fn written_by_other(lab: &Lab, first: &str, stopped: SystemTime) -> Result<String> {
    touch_route(lab, "two")?;
    wait_for("the Lease to change hands", SOON, || match holder(lab)? {
        now if now == first => bail!("{first} still holds it"),
        now => Ok(now),
    })?;
    wait_for("a write of the other", SOON, || written(lab))?;
    let took = since(stopped);
    if took > lab.allowed(TAKEN_OVER) {
        bail!("the other wrote {:.1} s after {first} had stopped", took.as_secs_f64());
    }
    Ok(format!("taken over in {:.1} s", took.as_secs_f64()))
}

fn holder(lab: &Lab) -> Result<String> {
    let lease = lab.kubectl.json(&["-n", NAMESPACE, "lease", LEASE])?;
    Ok(lease["spec"]["holderIdentity"].as_str().context("nobody holds the Lease")?.to_owned())
}

/// A pod like the DaemonSet's, on no node's behalf: the name of its node is its own.
fn second(lab: &Lab) -> Result<Value> {
    let set = lab.kubectl.json(&["-n", NAMESPACE, DAEMON_SET])?;
    let mut spec = set["spec"]["template"]["spec"].clone();
    for container in spec["containers"].as_array_mut().context("containers")? {
        for variable in container["env"].as_array_mut().into_iter().flatten() {
            if variable["name"] == "NODE_NAME" {
                *variable = json!({ "name": "NODE_NAME", "value": "second" });
            }
        }
    }
    let metadata = json!({ "name": SECOND, "namespace": NAMESPACE });
    Ok(json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec }))
}

/// A change that makes somebody write the route's status.
fn touch_route(lab: &Lab, path: &str) -> Result<()> {
    let patch = json!([{
        "op": "replace",
        "path": "/spec/rules/0/matches/0/path/value",
        "value": format!("/test/{path}"),
    }]);
    lab.kubectl.run(&["patch", "httproute", "ha-example", "--type=json", "-p", &patch.to_string()]).map(drop)
}

/// Whether the route's status speaks of its newest generation.
fn written(lab: &Lab) -> Result<()> {
    let route = lab.kubectl.json(&["httproute", "ha-example"])?;
    let seen = &route["status"]["parents"][0]["conditions"][0]["observedGeneration"];
    if *seen == route["metadata"]["generation"] {
        Ok(())
    } else {
        bail!("its status is of generation {seen}")
    }
}

/// Which pods wrote statuses of routes since then, once there are so many writes.
fn writers_since(before: usize, at_least: usize) -> Result<Vec<String>> {
    wait_for("writes of the route's status", SOON, || {
        let writes = audit::writes()?;
        let mut pods: Vec<String> =
            audit::status_writes(&writes[before..], "httproutes").map(|write| write.pod.clone()).collect();
        if pods.len() < at_least {
            bail!("{} writes", pods.len());
        }
        pods.sort();
        pods.dedup();
        Ok(pods)
    })
}

/// The pod whose name the Lease's holder contains.
fn pod_of(lab: &Lab, holder: &str) -> Result<String> {
    let pods = lab.kubectl.items(&["-n", NAMESPACE, "pods"])?;
    let mut names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
    let name = names.find(|name| holder.contains(name)).context("the holder is no pod")?;
    Ok(name.to_owned())
}
