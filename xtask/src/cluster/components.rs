//! The cluster's components: how each is started.

use std::fs;

use anyhow::Result;

use super::place::{Place, inside};
use super::programs::Programs;

/// The address of the node, and of the API server on it.
const NODE: &str = "10.99.0.1";
const PODS: &str = "10.244.0.0/24";
const SERVICES: &str = "10.96.0.0/16";
/// An address of the range of Services, below those that are given to Services that ask for none.
pub(crate) const USABLE: &str = "10.96.0.200";
/// An address that documents may name and no network has (RFC 5737); no load balancer is here to give it, either.
pub(crate) const UNUSABLE: &str = "203.0.113.9";
/// The node's name.
pub(crate) const NODE_NAME: &str = "testcluster";

/// A program that runs as long as the cluster.
pub(crate) struct Component {
    /// What commands call it.
    pub(crate) name: &'static str,
    command: Vec<String>,
}

impl Component {
    /// Writes the script that becomes the program.
    pub(crate) fn write_script(&self, place: &Place) -> Result<()> {
        let words: Vec<String> = self.command.iter().map(|word| quoted(word)).collect();
        let pid = inside(&format!("pid/{}", self.name));
        let script = format!("#!/bin/sh\necho $$ >{pid}\nexec {}\n", words.join(" \\\n  "));
        Ok(fs::write(place.file(&format!("start/{}", self.name)), script)?)
    }
}

/// The addresses that a Gateway may ask for, and those that it may not, as YAML.
pub(crate) fn addresses() -> String {
    let entry = |address| format!("[{{type: IPAddress, value: {address}}}]");
    format!("usableNetworkAddresses: {}\nunusableNetworkAddresses: {}\n", entry(USABLE), entry(UNUSABLE))
}

/// All components, in the order in which they are started.
pub(crate) fn all(place: &Place, programs: &Programs) -> Vec<Component> {
    let kubernetes = programs.program("kubernetes").to_string_lossy().into_owned();
    let of_kubernetes = |name, program: &str, args: Vec<String>| Component {
        name,
        command: [vec![kubernetes.clone(), program.to_owned()], args].concat(),
    };
    vec![
        of_kubernetes("etcd", "etcd", etcd()),
        of_kubernetes("apiserver", "kube-apiserver", apiserver()),
        Component {
            name: "containerd",
            command: vec!["containerd".to_owned(), "--config".to_owned(), inside("config/containerd.toml")],
        },
        of_kubernetes("controllers", "kube-controller-manager", controllers()),
        of_kubernetes("scheduler", "kube-scheduler", manager("scheduler")),
        of_kubernetes("kubelet", "kubelet", kubelet(place)),
        of_kubernetes("proxy", "kube-proxy", vec![flag("config", inside("config/kube-proxy.yaml"))]),
    ]
}

fn etcd() -> Vec<String> {
    let (clients, peers) = ("http://127.0.0.1:2379", "http://127.0.0.1:2380");
    vec![
        flag("name", "testcluster"),
        flag("data-dir", inside("etcd")),
        flag("listen-client-urls", clients),
        flag("advertise-client-urls", clients),
        flag("listen-peer-urls", peers),
        flag("initial-advertise-peer-urls", peers),
        flag("initial-cluster", format!("testcluster={peers}")),
        // Nothing here outlives the machine.
        "--unsafe-no-fsync".to_owned(),
        flag("log-level", "warn"),
    ]
}

fn apiserver() -> Vec<String> {
    vec![
        flag("etcd-servers", "http://127.0.0.1:2379"),
        flag("bind-address", NODE),
        flag("advertise-address", NODE),
        flag("external-hostname", NODE),
        flag("secure-port", "6443"),
        flag("cert-dir", inside("pki")),
        flag("token-auth-file", inside("config/tokens.csv")),
        flag("authorization-mode", "Node,RBAC"),
        flag("allow-privileged", "true"),
        flag("service-cluster-ip-range", SERVICES),
        flag("service-account-issuer", "https://kubernetes.default.svc"),
        flag("service-account-key-file", inside("pki/accounts.pub")),
        flag("service-account-signing-key-file", inside("pki/accounts.key")),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("audit-policy-file", inside("config/audit-policy.yaml")),
        flag("audit-log-path", inside("log/audit.log")),
        flag("audit-log-maxsize", "100"),
        flag("audit-log-maxbackup", "2"),
    ]
}

fn controllers() -> Vec<String> {
    let own = vec![
        flag("use-service-account-credentials", "true"),
        flag("service-account-private-key-file", inside("pki/accounts.key")),
        flag("root-ca-file", inside("pki/apiserver.crt")),
        flag("cluster-cidr", PODS),
        flag("service-cluster-ip-range", SERVICES),
    ];
    [manager("controllers"), own].concat()
}

/// What the controller-manager and the scheduler have in common.
fn manager(name: &str) -> Vec<String> {
    let config = inside(&format!("kubeconfig/{name}"));
    vec![
        flag("kubeconfig", &config),
        flag("authentication-kubeconfig", &config),
        flag("authorization-kubeconfig", &config),
        flag("authentication-skip-lookup", "true"),
        flag("leader-elect", "false"),
        flag("bind-address", "127.0.0.1"),
        flag("cert-dir", inside(&format!("pki/{name}"))),
        // A busy start must not wait for the client's own limit.
        flag("kube-api-qps", "1000"),
        flag("kube-api-burst", "2000"),
    ]
}

fn kubelet(place: &Place) -> Vec<String> {
    vec![
        flag("config", inside("config/kubelet.yaml")),
        flag("kubeconfig", inside("kubeconfig/node")),
        flag("hostname-override", NODE_NAME),
        flag("node-ip", NODE),
        flag("root-dir", inside("kubelet")),
        flag("cert-dir", inside("pki/kubelet")),
        flag("cgroup-root", format!("/{}", place.group())),
    ]
}

fn flag(name: &str, value: impl AsRef<str>) -> String {
    format!("--{name}={}", value.as_ref())
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_with_quotes_reaches_the_program_as_it_is() {
        let word = "it's $HOME";
        let script = format!("printf %s {}", quoted(word));
        let text = crate::run::output(std::process::Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(text, word);
    }
}
