//! `active` without any pod, under load: the fallback serves, and nothing fails in either direction.

use std::time::Duration;

use anyhow::Result;

use crate::harness::load::{Clients, Load};
use crate::harness::task::{configure, deploy_apps, require_all_by};
use crate::harness::wait::wait_for;
use crate::harness::{Lab, gateway};

const SOON: Duration = Duration::from_secs(90);

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    // The pod ends at once and takes the requests that it works on with it: without this they are not sent again.
    configure(lab, "policy-with-retries.yaml")?;
    let target = gateway::target(lab)?;
    let load = Load::start(&target, Clients { kept: 4, fresh: 4 });
    lab.kubectl.run(&["scale", "deployment/active", "--replicas=0"])?;
    wait_for("answers by passive", SOON, || require_all_by("passive", &target.ask_times(10)))?;
    lab.kubectl.run(&["scale", "deployment/active", "--replicas=1"])?;
    wait_for("answers by active", SOON, || require_all_by("active", &target.ask_times(10)))?;
    let tally = load.finish();
    tally.require_no_failure()?;
    Ok(tally.to_string())
}
