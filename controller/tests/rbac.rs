//! The rights in `k8s/`: what the controller uses, and nothing more.
#![allow(clippy::unwrap_used, reason = "tests end there")]

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use serde_json::Value;

/// `GROUP/RESOURCE` with the verbs.
type Rights = BTreeMap<String, BTreeSet<String>>;

fn documents(file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(format!("../k8s/{file}")).unwrap();
    text.split("\n---\n").filter_map(|text| serde_yaml::from_str::<Option<Value>>(text).unwrap()).collect()
}

fn object<T: serde::de::DeserializeOwned>(file: &str, kind: &str) -> T {
    let found = documents(file).into_iter().find(|document| document["kind"] == kind);
    serde_json::from_value(found.unwrap()).unwrap()
}

fn rights(rules: &[PolicyRule]) -> Rights {
    let mut rights = Rights::new();
    for rule in rules {
        for group in rule.api_groups.as_ref().unwrap() {
            for resource in rule.resources.as_ref().unwrap() {
                rights.entry(format!("{group}/{resource}")).or_default().extend(rule.verbs.iter().cloned());
            }
        }
    }
    rights
}

fn expected(rows: &[(&[&str], &[&str])]) -> Rights {
    let mut rights = Rights::new();
    for (resources, verbs) in rows {
        for resource in *resources {
            rights.entry((*resource).to_owned()).or_default().extend(verbs.iter().map(ToString::to_string));
        }
    }
    rights
}

const READ: &[&str] = &["get", "list", "watch"];
const FOLLOW: &[&str] = &["list", "watch"];

/// Whoever adds a kind, or a write, adds it here and in the manifest.
#[test]
fn the_controller_may_do_what_it_does_and_nothing_more() {
    let role: ClusterRole = object("base/rbac.yaml", "ClusterRole");
    let gateway = "gateway.networking.k8s.io";
    let envoy = "gateway.envoyproxy.io";
    let of =
        |group: &str, names: &[&str]| names.iter().map(|name| format!("{group}/{name}")).collect::<Vec<_>>();
    let watched = [
        "backendtlspolicies",
        "gatewayclasses",
        "gateways",
        "grpcroutes",
        "httproutes",
        "listenersets",
        "tcproutes",
        "tlsroutes",
        "udproutes",
    ];
    let follow = [
        of("", &["namespaces", "nodes", "services"]),
        of("discovery.k8s.io", &["endpointslices"]),
        of("networking.k8s.io", &["servicecidrs"]),
        of(gateway, &["referencegrants"]),
    ]
    .concat();
    let read = [
        of("", &["configmaps", "secrets"]),
        of(gateway, &watched),
        of(envoy, &["backends", "backendtrafficpolicies"]),
    ]
    .concat();
    let statuses = [
        of(gateway, &watched).into_iter().map(|name| name + "/status").collect(),
        of(envoy, &["backends/status", "backendtrafficpolicies/status"]),
    ]
    .concat();
    let follow: Vec<&str> = follow.iter().map(String::as_str).collect();
    let read: Vec<&str> = read.iter().map(String::as_str).collect();
    let statuses: Vec<&str> = statuses.iter().map(String::as_str).collect();
    let wanted = expected(&[
        (&follow, FOLLOW),
        (&read, READ),
        (&statuses, &["patch"]),
        (&["events.k8s.io/events"], &["create", "patch"]),
        (&["/services", "discovery.k8s.io/endpointslices"], &["create", "delete", "patch"]),
    ]);
    assert_eq!(rights(role.rules.as_deref().unwrap()), wanted);
    let role: Role = object("base/rbac.yaml", "Role");
    let wanted = expected(&[
        (&["coordination.k8s.io/leases"], &["create", "delete", "get", "list", "update", "watch"]),
        (&["/pods"], FOLLOW),
    ]);
    assert_eq!(rights(role.rules.as_deref().unwrap()), wanted);
    assert_eq!(role.metadata.namespace.as_deref(), Some("understudy-system"));
}

#[test]
fn no_right_is_given_by_a_wildcard() {
    for document in documents("install.yaml") {
        let text = document["rules"].to_string();
        assert!(!text.contains('*'), "{}: {text}", document["metadata"]["name"]);
    }
}

#[test]
fn the_token_is_the_controllers_alone_and_neither_container_may_more_than_it_needs() {
    let daemon_set: DaemonSet = object("base/daemonset.yaml", "DaemonSet");
    let pod = daemon_set.spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.automount_service_account_token, Some(false));
    let security = pod.security_context.unwrap();
    assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(65532)));
    assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
    let token = |container: &k8s_openapi::api::core::v1::Container| {
        container.volume_mounts.iter().flatten().any(|mount| mount.name == "api-access")
    };
    for container in &pod.containers {
        assert_eq!(token(container), container.name == "controller", "{}", container.name);
        let security = container.security_context.clone().unwrap();
        assert_eq!(security.read_only_root_filesystem, Some(true));
        assert_eq!(security.allow_privilege_escalation, Some(false));
        let capabilities = security.capabilities.unwrap();
        assert_eq!((capabilities.drop.unwrap(), capabilities.add), (vec!["ALL".to_owned()], None));
        assert!(container.resources.clone().unwrap().limits.unwrap().contains_key("memory"));
    }
    let state = pod.volumes.unwrap().into_iter().find(|volume| volume.name == "state").unwrap();
    assert_eq!(state.empty_dir.unwrap().medium.as_deref(), Some("Memory"));
}

#[test]
fn a_pod_may_take_as_long_to_end_as_its_proxy_needs() {
    let daemon_set: DaemonSet = object("base/daemonset.yaml", "DaemonSet");
    let pod = daemon_set.spec.unwrap().template.spec.unwrap();
    let args = pod.containers[0].args.clone().unwrap();
    let delay = args.iter().find_map(|arg| arg.strip_prefix("--drain-delay=")?.strip_suffix('s'));
    // Then requests under way have 30 s, and clients that are about to ask a little more than one.
    let needed = delay.unwrap().parse::<i64>().unwrap() + 30 + 2;
    assert!(pod.termination_grace_period_seconds.unwrap() > needed);
}
