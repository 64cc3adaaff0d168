//! The failover task, step by step.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::harness::http::Target;
use crate::harness::task::{
    Listens, configure, deploy_apps, let_active_listen, remove_configuration, require_all_by,
};
use crate::harness::wait::wait_for;
use crate::harness::{Lab, gateway};

const SOON: Duration = Duration::from_secs(60);
const TIMES: usize = 10;

/// The applications alone: what the cluster itself must give.
pub(crate) fn applications_answer(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    for app in ["active", "passive"] {
        let service = lab.kubectl.json(&["service", app])?;
        let address = service["spec"]["clusterIP"].as_str().context("a Service without an address")?;
        let address = SocketAddr::new(address.parse::<IpAddr>()?, 3000);
        let target = Target { address, host: app.to_owned(), path: "/".to_owned() };
        wait_for(&format!("an answer by {app}"), SOON, || require_all_by(app, &target.ask_times(1)))?;
    }
    Ok(String::new())
}

/// As the task says, but without its failed request.
pub(crate) fn walk(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let target = gateway::target(lab)?;
    require_all_by("active", &target.ask_times(TIMES))?;
    let_active_listen(lab, Listens::Wrong)?;
    require_all_by("passive", &target.ask_times(TIMES)).context("active listens on another port")?;
    require_told(lab)?;
    change_back(lab, &target)?;
    Ok(format!("at {}", target.address))
}

/// With `retry.numRetries: 0` the request that finds the failure is lost, as in the task's text.
pub(crate) fn walk_without_retries(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy-without-retries.yaml")?;
    let target = gateway::target(lab)?;
    require_all_by("active", &target.ask_times(TIMES))?;
    let_active_listen(lab, Listens::Wrong)?;
    let outcomes = target.ask_times(TIMES);
    let (good, failed): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    require_all_by("passive", &good)?;
    if failed.len() != 1 {
        bail!("{} requests failed instead of 1: {failed:?}", failed.len());
    }
    change_back(lab, &target)?;
    remove_configuration(lab)?;
    Ok(format!("{:?}", failed[0]))
}

/// `active` listens on its port again: it serves as soon as its pod answers, and nothing fails on the way.
fn change_back(lab: &Lab, target: &Target) -> Result<()> {
    let_active_listen(lab, Listens::Right)?;
    wait_for("active to serve again", SOON, || {
        let outcome = target.ask_times(1);
        if let Err(failed) = &outcome[0] {
            bail!("a request failed on the way back: {failed}");
        }
        require_all_by("active", &outcome)
    })?;
    require_all_by("active", &target.ask_times(TIMES))
}

/// Events tell of the failover, at the Backend and at the route.
fn require_told(lab: &Lab) -> Result<()> {
    for (kind, name) in [("Backend", "active"), ("HTTPRoute", "ha-example")] {
        wait_for(&format!("an Event at {kind} {name}"), SOON, || {
            let selector = format!("involvedObject.kind={kind},involvedObject.name={name}");
            let events = lab.kubectl.items(&["events", "--field-selector", &selector])?;
            if events.is_empty() { bail!("there is none") } else { Ok(()) }
        })?;
    }
    Ok(())
}
