//! The DaemonSet is given another image under load, with Gateways behind Services and on the nodes' own ports: clients
//! that keep their connections and clients that do not see nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::failover_task;
use crate::harness::http::Target;
use crate::harness::install::{self, DAEMON_SET, NAMESPACE};
use crate::harness::load::{Clients, Load, Tally};
use crate::harness::task::{configure, deploy_apps};
use crate::harness::wait::{since, wait_for};
use crate::harness::{Lab, components, gateway};

/// How often the long form rolls the DaemonSet.
const LONG_ROLLS: usize = 5;
const SOON: Duration = Duration::from_secs(60);

/// Walks through the case with Services.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    roll_times(lab, &gateway::target(lab)?)
}

/// Walks through the case with ports of the nodes, and installs the way with Services again.
pub(crate) fn run_with_host_ports(lab: &Lab) -> Result<String> {
    let start = SystemTime::now();
    let overlay = lab.manifests.join("overlays").join("host-ports");
    let before = pods(lab)?;
    lab.kubectl.apply_kustomization(&overlay)?;
    end_soon(lab, &before)?;
    lab.kubectl.rolled_out(NAMESPACE, DAEMON_SET)?;
    let there = since(start);
    let outcome = with_host_ports(lab);
    let back = SystemTime::now();
    let before = pods(lab)?;
    install::apply(lab)?;
    end_soon(lab, &before)?;
    lab.kubectl.rolled_out(NAMESPACE, DAEMON_SET)?;
    // The cases that follow read the address once.
    wait_for("the Gateway's address not to be a node's", SOON, || match on_a_node(lab) {
        Ok(address) => bail!("it is {address}"),
        Err(_) => Ok(()),
    })?;
    let took = format!("{} s to there, {} s back", there.as_secs(), since(back).as_secs());
    Ok(format!("{}; {took}", outcome?))
}

/// Ends pods without the time that clients have to leave: there are none.
fn end_soon(lab: &Lab, pods: &[String]) -> Result<()> {
    let pods = pods.iter().map(|pod| format!("pod/{pod}"));
    let args = ["-n", NAMESPACE, "delete", "--ignore-not-found", "--grace-period=2"].map(str::to_owned);
    let args: Vec<String> = args.into_iter().chain(pods).collect();
    lab.kubectl.run(&args.iter().map(String::as_str).collect::<Vec<_>>()).map(drop)
}

fn with_host_ports(lab: &Lab) -> Result<String> {
    let address = wait_for("the Gateway's address to be a node's", SOON, || on_a_node(lab))?;
    // How failover works does not depend on who opens the port: the short form leaves it at the first answers.
    if lab.long {
        failover_task::walk(lab)?;
    }
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let target = gateway::target(lab)?;
    if target.address.ip() != address || target.address.port() != 80 {
        bail!("the Gateway is at {} and not at port 80 of {address}", target.address);
    }
    Ok(format!("at {}: {}", target.address, roll_times(lab, &target)?))
}

fn roll_times(lab: &Lab, target: &Target) -> Result<String> {
    let rolls = if lab.long { LONG_ROLLS } else { 1 };
    let told = (0..rolls).map(|_| Ok(roll_under_load(lab, target)?.to_string()));
    Ok(told.collect::<Result<Vec<_>>>()?.join("; "))
}

fn roll_under_load(lab: &Lab, target: &Target) -> Result<Tally> {
    let before = pods(lab)?;
    let load = Load::start(target, Clients { kept: 50, fresh: 10 });
    change_image(lab)?;
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
    Ok(tally)
}

/// Gives the DaemonSet its image under another name. Where images cannot be named, its pods are made anew.
fn change_image(lab: &Lab) -> Result<()> {
    if !components::are_ours() {
        return lab.kubectl.run(&["-n", NAMESPACE, "rollout", "restart", DAEMON_SET]).map(drop);
    }
    let set = lab.kubectl.json(&["-n", NAMESPACE, DAEMON_SET])?;
    let image = set["spec"]["template"]["spec"]["containers"][0]["image"].as_str().context("no image")?;
    let next = match image.strip_suffix("-next") {
        Some(first) => first.to_owned(),
        None => format!("{image}-next"),
    };
    components::name_image(image, &next)?;
    let images = ["proxy", "controller"].map(|container| format!("{container}={next}"));
    lab.kubectl.run(&["-n", NAMESPACE, "set", "image", DAEMON_SET, &images[0], &images[1]]).map(drop)
}

fn pods(lab: &Lab) -> Result<Vec<String>> {
    let items = lab.kubectl.items(&["-n", NAMESPACE, "pods"])?;
    Ok(items.iter().filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

/// The Gateway's address, if a node has it.
fn on_a_node(lab: &Lab) -> Result<IpAddr> {
    let nodes = lab.kubectl.items(&["nodes"])?;
    let all = nodes.iter().flat_map(|node| node["status"]["addresses"].as_array().into_iter().flatten());
    let all: BTreeSet<IpAddr> = all.filter_map(|address| address["address"].as_str()?.parse().ok()).collect();
    let address = gateway::address(lab, "eg")?.ip();
    if all.contains(&address) { Ok(address) } else { bail!("it is {address}, the nodes have {all:?}") }
}
