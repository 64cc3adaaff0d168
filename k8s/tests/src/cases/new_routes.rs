//! How soon a new route answers, with many in place; and a route that is edited under traffic.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::harness::api::{Api, Client, ROUTES};
use crate::harness::http::{Connection, Target};
use crate::harness::load::{Clients, Load};
use crate::harness::task::{configure, deploy_apps};
use crate::harness::wait::{since, wait_for};
use crate::harness::{Lab, gateway};

/// The namespace of the routes, and their Gateway.
const NAMESPACE: &str = "new-routes";

/// How much is measured.
struct Extent {
    in_place: usize,
    samples: usize,
}

const LONG: Extent = Extent { in_place: 3000, samples: 200 };
/// Where there is little time.
const SHORT: Extent = Extent { in_place: 500, samples: 100 };
/// The longest time that is promised at the 99th percentile.
const LATE: Duration = Duration::from_millis(100);

const BETWEEN: Duration = Duration::from_millis(1);
const SOON: Duration = Duration::from_secs(60);
const EDITS: usize = 100;

/// A new route answers soon after the API server's 201, and with nothing but 404 before.
pub(crate) fn new_routes_answer(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    lab.kubectl.apply(&gateway::with_namespace(NAMESPACE))?;
    let outcome = measure(lab);
    gateway::remove_with_namespace(lab, NAMESPACE)?;
    outcome
}

fn measure(lab: &Lab) -> Result<String> {
    let Extent { in_place, samples } = if lab.long { LONG } else { SHORT };
    let late = lab.allowed(LATE);
    let api = Api::start(&lab.kubectl)?;
    let mut client = api.client()?;
    lab.kubectl.apply(&grant())?;
    for number in 0..in_place {
        create(&mut client, &format!("in-place-{number}"))?;
    }
    let address = gateway::address(lab, NAMESPACE)?;
    let target = |name: &str| Target { address, host: format!("{name}.example.com"), path: "/".to_owned() };
    wait_for("the last of the routes in place", SOON, || {
        let answer = target(&format!("in-place-{}", in_place - 1)).ask()?;
        if answer.status == 200 { Ok(()) } else { bail!("status {}", answer.status) }
    })?;
    let mut connection = Connection::open(address)?;
    let mut took = Vec::with_capacity(samples);
    for number in 0..samples {
        let name = format!("new-{number}");
        create(&mut client, &name)?;
        took.push(until_answered(&mut connection, &target(&name))?);
    }
    took.sort();
    let at = |percent: usize| took.get((took.len() * percent).div_ceil(100) - 1).copied().unwrap_or_default();
    let told = format!(
        "{samples} routes beside {in_place}: median {} ms, p99 {} ms, longest {} ms",
        at(50).as_millis(),
        at(99).as_millis(),
        at(100).as_millis()
    );
    if at(99) > late {
        bail!("{told}");
    }
    Ok(told)
}

/// Asks until the route answers. No other status than 404 may come before.
fn until_answered(connection: &mut Connection, target: &Target) -> Result<Duration> {
    let start = SystemTime::now();
    while since(start) < SOON {
        match connection.ask(target, false)?.status {
            200 => return Ok(since(start)),
            404 => sleep(BETWEEN),
            other => bail!("{} answered {other} before 200", target.host),
        }
    }
    bail!("{} never answered", target.host)
}

fn create(client: &mut Client, name: &str) -> Result<()> {
    client.create(&format!("{ROUTES}/{NAMESPACE}/httproutes"), &route(name)).context("creating a route")
}

fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "parentRefs": [{ "name": NAMESPACE, "namespace": "default" }],
            "hostnames": [format!("{name}.example.com")],
            "rules": [{ "backendRefs": [{ "name": "active", "namespace": "default", "port": 3000 }] }],
        },
    })
}

/// Lets the routes of the namespace use the Service of another.
fn grant() -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {{name: new-routes, namespace: default}}
spec:
  from: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {NAMESPACE}}}]
  to: [{{group: \"\", kind: Service}}]
"
    )
}

/// A route that is edited again and again loses no request.
pub(crate) fn edited_under_traffic(lab: &Lab) -> Result<String> {
    deploy_apps(lab)?;
    configure(lab, "policy.yaml")?;
    let target = gateway::target(lab)?;
    let api = Api::start(&lab.kubectl)?;
    let mut client = api.client()?;
    let load = Load::start(&target, Clients { kept: 8, fresh: 8 });
    for edit in 0..EDITS {
        let name = format!("edit-{edit}.example.com");
        let change = json!({ "spec": { "hostnames": ["www.example.com", name] } });
        client.merge(&format!("{ROUTES}/default/httproutes/ha-example"), &change)?;
        // Each edit is served before the next comes.
        let edited = Target { host: name, ..target.clone() };
        wait_for("an edit to be served", SOON, || match edited.ask()?.status {
            200 => Ok(()),
            other => bail!("status {other}"),
        })?;
    }
    let tally = load.finish();
    tally.require_no_failure()?;
    Ok(format!("{EDITS} edits; {tally}"))
}
