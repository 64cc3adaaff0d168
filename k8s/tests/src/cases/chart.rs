//! The Helm chart: without values it gives what `k8s/install.yaml` has, with host ports what that overlay has, and with
//! every value that it documents objects that the API server takes.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::harness::Lab;
use crate::harness::install::NAMESPACE;

/// Values of which each is given somewhere, so that all templates are walked through.
const VALUES: [&[&str]; 4] = [
    &[
        "image.repository=registry.example/understudy,image.tag=v2,image.pullPolicy=Always",
        "imagePullSecrets[0].name=registry,gatewayClass.name=inside,enableBackend=true,logLevel=debug",
        "gatewayClass.parameters.serviceType=NodePort,gatewayClass.parameters.externalTrafficPolicy=Local",
        "gatewayClass.parameters.addresses=nodes",
    ],
    &[
        "proxy.resources.limits.memory=2Gi,proxy.extraArgs={--access-log=off}",
        "controller.resources.limits.memory=1Gi,controller.extraArgs={--deny-targets=10.1.0.0/16}",
        "drainDelay=30s,terminationGracePeriodSeconds=90,priorityClassName=system-node-critical",
        "nodeSelector.edge=yes,tolerations[0].operator=Exists,podAnnotations.team=edge",
    ],
    &["gateways=host,gatewayClass.name=nodes,enableBackend=true,logLevel=warn,drainDelay=20s"],
    &["gateways=host,proxy.extraArgs={--threads=4},controller.extraArgs={--unix-folder=/run/backends}"],
];

/// Values that make no sense, and what is said to them.
const WRONG: [(&str, &str); 4] = [
    ("gateways=both", "gateways"),
    ("gateway=host", "gateway"),
    ("gatewayClass.parameters.serviceType=NodePort", "gatewayClass.name"),
    ("gateways=host,gatewayClass.name=a,gatewayClass.parameters.addresses=nodes", "gateways: host"),
];

/// Walks through the case.
pub(crate) fn run(lab: &Lab) -> Result<String> {
    let install = std::fs::read_to_string(lab.manifests.join("install.yaml"))?;
    let overlay = lab.manifests.join("overlays").join("host-ports");
    let overlay = lab.kubectl.run(&["kustomize", &overlay.to_string_lossy()])?;
    let compared = require_same(lab, &rendered(lab, &["--include-crds"])?, &install)
        .context("the chart without values, and install.yaml")?
        + require_same(lab, &rendered(lab, &["--include-crds", "--set", "gateways=host"])?, &overlay)
            .context("the chart with gateways=host, and the overlay host-ports")?;
    for values in VALUES {
        let set: Vec<&str> = values.iter().flat_map(|values| ["--set", values]).collect();
        helm(lab, "lint", &[&["--strict"], &*set].concat())?;
        let objects = rendered(lab, &set)?;
        let dry = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"];
        lab.kubectl.run_with_input(&dry, &objects).with_context(|| format!("{values:?}"))?;
    }
    for (values, word) in WRONG {
        match rendered(lab, &["--set", values]) {
            Ok(_) => bail!("the chart takes {values}"),
            Err(error) if format!("{error:#}").contains(word) => {}
            Err(error) => bail!("of {values} the chart says nothing about {word}: {error:#}"),
        }
    }
    Ok(format!("{compared} objects compared, {} sets of values", VALUES.len() + WRONG.len()))
}

fn rendered(lab: &Lab, args: &[&str]) -> Result<String> {
    helm(lab, "template", &[&["--namespace", NAMESPACE], args].concat())
}

fn helm(lab: &Lab, verb: &str, args: &[&str]) -> Result<String> {
    let program = std::env::var("UNDERSTUDY_HELM").context("UNDERSTUDY_HELM names no Helm")?;
    let mut helm = Command::new(program);
    let out = helm.arg(verb).arg(lab.manifests.join("chart")).args(args).output().context("starting helm")?;
    if !out.status.success() {
        let said = [out.stdout, out.stderr].concat();
        bail!("helm {verb} {}: {}", args.join(" "), String::from_utf8_lossy(&said).trim());
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Requires that two texts hold the same objects; how many they are.
fn require_same(lab: &Lab, chart: &str, manifests: &str) -> Result<usize> {
    let (chart, mut manifests) = (objects(lab, chart)?, objects(lab, manifests)?);
    // Helm makes the namespace of a release itself, if it is told to.
    manifests.retain(|name, _| !name.starts_with("Namespace "));
    let names = |of: &BTreeMap<String, Value>| of.keys().cloned().collect::<Vec<_>>();
    if names(&chart) != names(&manifests) {
        bail!("one has {:?}, the other {:?}", names(&chart), names(&manifests));
    }
    for (name, object) in &chart {
        if let Some(place) = difference(object, &manifests[name]) {
            bail!("{name} differs at {place}");
        }
    }
    Ok(chart.len())
}

/// Objects by kind and name.
fn objects(lab: &Lab, text: &str) -> Result<BTreeMap<String, Value>> {
    let convert = ["create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-"];
    let json = lab.kubectl.run_with_input(&convert, text)?;
    let mut found = BTreeMap::new();
    for object in serde_json::Deserializer::from_str(&json).into_iter::<Value>() {
        let object = object?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]));
        if found.insert(name.clone(), object).is_some() {
            bail!("there are two of {name}");
        }
    }
    Ok(found)
}

/// Where two values differ first.
fn difference(one: &Value, other: &Value) -> Option<String> {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let names = one.keys().chain(other.keys());
            let null = Value::Null;
            names.into_iter().find_map(|name| {
                let below = difference(one.get(name).unwrap_or(&null), other.get(name).unwrap_or(&null))?;
                Some(format!(".{name}{below}"))
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            let mut pairs = one.iter().zip(other).enumerate();
            pairs.find_map(|(index, (one, other))| Some(format!("[{index}]{}", difference(one, other)?)))
        }
        _ => (one != other).then(|| format!(": {one} and {other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_is_told_with_its_place() {
        let one = json!({ "a": [{ "b": 1 }], "c": true });
        assert_eq!(difference(&one, &one), None);
        let told = |other: Value| difference(&one, &other).unwrap();
        assert_eq!(told(json!({ "a": [{ "b": 2 }], "c": true })), ".a[0].b: 1 and 2");
        assert_eq!(told(json!({ "a": [{ "b": 1 }] })), ".c: true and null");
        assert_eq!(told(json!({ "a": [], "c": true })), ".a: [{\"b\":1}] and []");
    }
}
