//! A GatewayClass with parameters, as the overlay with node ports has it: its Gateways' Services are of the type that it
//! names, also after that was changed.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::harness::Lab;
use crate::harness::install::NAMESPACE;
use crate::harness::wait::wait_for;

const SOON: Duration = Duration::from_secs(60);
/// The class of the overlay, and its ConfigMap.
const CLASS: &str = "understudy-node-port";
const GATEWAY: &str = "by-node-port";

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    let overlay = lab.manifests.join("overlays").join("node-port");
    let files = ["gatewayclass.yaml", "parameters.yaml"].map(|file| overlay.join(file));
    for file in &files {
        lab.kubectl.apply_file(file)?;
    }
    let outcome = types(lab);
    lab.kubectl.run(&["delete", "gateway", GATEWAY, "--ignore-not-found", "--wait"])?;
    for file in &files {
        lab.kubectl.delete_file(file)?;
    }
    outcome
}

fn types(lab: &Lab) -> Result<String> {
    lab.kubectl.apply(&format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: {GATEWAY}, namespace: default}}
spec: {{gatewayClassName: {CLASS}, listeners: [{{name: http, protocol: HTTP, port: 80}}]}}
"
    ))?;
    require_type(lab, "NodePort")?;
    let change = r#"{"data":{"serviceType":"ClusterIP"}}"#;
    lab.kubectl.run(&["-n", NAMESPACE, "patch", "configmap", CLASS, "--type=merge", "-p", change])?;
    require_type(lab, "ClusterIP")?;
    Ok(String::new())
}

fn require_type(lab: &Lab, expected: &str) -> Result<()> {
    let service = format!("understudy-{GATEWAY}");
    wait_for(&format!("Service {service} to be of type {expected}"), SOON, || {
        let found = lab.kubectl.json(&["service", &service])?;
        if found["spec"]["type"] == expected { Ok(()) } else { bail!("it is {}", found["spec"]["type"]) }
    })
}
