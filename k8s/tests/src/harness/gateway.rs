//! Gateways: where they answer, and what their objects say.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Lab;
use super::http::Target;
use super::wait::wait_for;

const SOON: Duration = Duration::from_secs(60);

/// The address of a Gateway, as the README's `export GATEWAY_HOST=…` reads it.
pub(crate) fn address(lab: &Lab, name: &str) -> Result<SocketAddr> {
    let path = "jsonpath={.status.addresses[0].value}";
    let host = wait_for(&format!("an address of the Gateway {name}"), SOON, || {
        let host = lab.kubectl.run(&["get", "gateway", name, "-o", path])?;
        if host.is_empty() { bail!("it has none") } else { Ok(host) }
    })?;
    let with_port = if host.contains(':') { host } else { format!("{host}:80") };
    with_port.to_socket_addrs()?.next().with_context(|| format!("{with_port} is no address"))
}

/// A Gateway, with a namespace of the same name whose routes it takes.
pub(crate) fn with_namespace(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: {name}}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {name}, namespace: default}}
spec:
  gatewayClassName: eg
  listeners:
  - {{name: http, protocol: HTTP, port: 80, allowedRoutes: {{namespaces: {{from: All}}}}}}
"
    )
}

/// Removes what [`with_namespace`] names, without waiting.
pub(crate) fn remove_with_namespace(lab: &Lab, name: &str) -> Result<()> {
    lab.kubectl.run(&["delete", "namespace", name, "--wait=false"])?;
    lab.kubectl.run(&["delete", "gateway", name, "--wait=false"]).map(drop)
}

/// The task's requests: `curl -H "Host: www.example.com" http://$GATEWAY_HOST/test`.
pub(crate) fn target(lab: &Lab) -> Result<Target> {
    Ok(Target { address: address(lab, "eg")?, host: "www.example.com".to_owned(), path: "/test".to_owned() })
}

/// Waits until a condition of an object has a status; the object is named as for `kubectl get`.
pub(crate) fn wait_for_condition(lab: &Lab, object: &[&str], kind: &str, status: &str) -> Result<()> {
    wait_for(&format!("{} {kind}={status}", object.join(" ")), SOON, || {
        let value = lab.kubectl.json(object)?;
        let found = conditions(&value["status"]).into_iter().find(|found| found["type"] == kind);
        match found {
            Some(condition) if condition["status"] == status => Ok(()),
            Some(condition) => bail!("{condition}"),
            None => bail!("no such condition; its status is {}", value["status"]),
        }
    })
}

/// The conditions in a status, at whatever depth: routes have them by parent, policies by ancestor.
fn conditions(status: &Value) -> Vec<&Value> {
    match status {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| match value.as_array() {
                Some(list) if name == "conditions" => list.iter().collect(),
                _ => conditions(value),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(conditions).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_found_at_the_top_and_below_parents() {
        let status =
            json!({ "conditions": [{ "type": "A" }], "parents": [{ "conditions": [{ "type": "B" }] }] });
        let kinds: Vec<&Value> = conditions(&status).into_iter().map(|found| &found["type"]).collect();
        assert_eq!(kinds, ["A", "B"]);
    }
}
