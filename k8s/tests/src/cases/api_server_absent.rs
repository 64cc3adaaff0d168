//! The API server is stopped under load, and `active` crashes meanwhile: clients see nothing.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::harness::install::{LEASE, NAMESPACE};
use crate::harness::load::{Clients, Load};
use crate::harness::task::{configure, deploy_apps, pods};
use crate::harness::wait::{since, wait_for};
use crate::harness::{Lab, components, gateway};

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(5 * 60);
const SOON: Duration = Duration::from_secs(60);
/// How long pods may still not reach an API server that is back: kube-proxy takes its endpoint away while it ends, and
/// asks ever less often whether it is there again.
const REACHABLE: Duration = Duration::from_secs(5 * 60);
/// How often `active` is killed. The kubelet waits longer each time before it starts it again.
const CRASHES: usize = 3;

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    // A pod that was killed before waits for minutes before it is started again.
    let killed = lab.kubectl.items(&["pods", "-l", "app=active"])?;
    if killed.iter().any(|pod| pod["status"]["containerStatuses"][0]["restartCount"] != 0) {
        lab.kubectl.run(&["rollout", "restart", "deployment/active"])?;
        deploy_apps(lab)?;
    }
    // A killed process takes the requests that it works on with it: without this they are not sent again.
    configure(lab, "policy-with-retries.yaml")?;
    let target = gateway::target(lab)?;
    let active = pods(lab, "active")?.into_iter().next().context("active has no pod")?;
    let load = Load::start(&target, Clients { kept: 8, fresh: 8 });
    components::stop("apiserver")?;
    let stopped = SystemTime::now();
    let during = while_absent(&active, stopped, if lab.long { LONG } else { SHORT });
    // Started again in any case: the next one needs it.
    components::start("apiserver")?;
    wait_for("the API server", SOON, || lab.kubectl.run(&["get", "--raw", "/readyz"]))?;
    let away = since(stopped);
    // What the next case changes would wait for it.
    let lease = renewed(lab)?;
    wait_for("a controller that reaches the API server", REACHABLE, || match renewed(lab)? {
        now if now == lease => bail!("the last renewal of the Lease {LEASE} was at {now}"),
        _ => Ok(()),
    })?;
    during?;
    let tally = load.finish();
    tally.require_no_failure()?;
    if tally.of("active") == 0 || tally.of("passive") == 0 {
        bail!("there was no failover: {tally}");
    }
    Ok(format!("{} s without; {tally}", away.as_secs()))
}

/// When the leader's Lease was renewed last.
fn renewed(lab: &Lab) -> Result<String> {
    let lease = lab.kubectl.json(&["-n", NAMESPACE, "lease", LEASE])?;
    Ok(lease["spec"]["renewTime"].as_str().context("the Lease was never renewed")?.to_owned())
}

fn while_absent(active: &str, stopped: SystemTime, long: Duration) -> Result<()> {
    for _ in 0..CRASHES {
        wait_for("a process of active to kill", SOON, || {
            match components::signal_pod(active, "", "KILL")? {
                0 => bail!("none runs"),
                killed => Ok(killed),
            }
        })?;
    }
    sleep(long.saturating_sub(since(stopped)));
    Ok(())
}
