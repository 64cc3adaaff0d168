//! A thousand routes at one Gateway: counted right soon after the last, in few writes of its status.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};

use crate::harness::wait::{since, wait_for};
use crate::harness::{Lab, audit, gateway};

const ROUTES: usize = 1000;
/// The namespace of the routes, and their Gateway.
const NAMESPACE: &str = "thousand-routes";
/// How late the count may be right after the last route was made.
const LATE: Duration = Duration::from_secs(2);
const WRITES: usize = 100;
const SOON: Duration = Duration::from_secs(60);

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    lab.kubectl.apply(&gateway::with_namespace(NAMESPACE))?;
    let outcome = count_routes(lab);
    gateway::remove_with_namespace(lab, NAMESPACE)?;
    outcome
}

fn count_routes(lab: &Lab) -> Result<String> {
    wait_for("the Gateway's status", SOON, || require_attached(lab, 0))?;
    let before = audit::status_writes(&audit::writes()?, "gateways").count();
    let routes: Vec<String> = (0..ROUTES).map(route).collect();
    let created = SystemTime::now();
    lab.kubectl.apply(&routes.join("---\n"))?;
    let last = SystemTime::now();
    wait_for("a right count of routes", SOON, || require_attached(lab, ROUTES))?;
    let late = since(last);
    let writes = audit::status_writes(&audit::writes()?, "gateways").count() - before;
    let told = format!(
        "{ROUTES} routes made in {:.1} s, counted {:.1} s later, {writes} writes",
        (since(created) - late).as_secs_f64(),
        late.as_secs_f64()
    );
    let allowed = lab.allowed(LATE);
    if late > allowed || writes >= WRITES {
        bail!("{told}; at most {} s and less than {WRITES} writes are allowed", allowed.as_secs());
    }
    Ok(told)
}

fn require_attached(lab: &Lab, wanted: usize) -> Result<()> {
    let gateway = lab.kubectl.json(&["gateway", NAMESPACE])?;
    let attached = &gateway["status"]["listeners"][0]["attachedRoutes"];
    if *attached == wanted { Ok(()) } else { bail!("attachedRoutes is {attached}") }
}

fn route(number: usize) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: r{number}, namespace: {NAMESPACE}}}
spec:
  parentRefs: [{{name: {NAMESPACE}, namespace: default}}]
  hostnames: [r{number}.example.com]
  rules:
  - filters: [{{type: RequestRedirect, requestRedirect: {{path: {{type: ReplaceFullPath, replaceFullPath: /}}}}}}]
"
    )
}
