//! The API server is stopped under load, and `active` crashes meanwhile: clients see nothing.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::harness::load::{Clients, Load};
use crate::harness::task::{configure, deploy_apps, pods};
use crate::harness::wait::{since, wait_for};
use crate::harness::{Lab, components, gateway};

const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(5 * 60);
const SOON: Duration = Duration::from_secs(60);
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
    during?;
    let tally = load.finish();
    tally.require_no_failure()?;
    if tally.of("active") == 0 || tally.of("passive") == 0 {
        bail!("there was no failover: {tally}");
    }
    Ok(format!("{} s without; {tally}", away.as_secs()))
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
