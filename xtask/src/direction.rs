//! The direction of dependencies: a crate may use only what stands below it.

use serde_json::Value;

/// What a member may depend on. The second list is what the member must not know of at all outside its tests,
/// by the start of the crate's name.
struct Rule {
    member: &'static str,
    members: &'static [&'static str],
    banned: &'static [&'static str],
}

const KUBERNETES: &[&str] = &["kube", "k8s-openapi", "gateway-api"];
const PINGORA: &[&str] = &["pingora"];
const BOTH_AND_NETWORK: &[&str] = &["kube", "k8s-openapi", "gateway-api", "pingora", "tokio", "hickory"];

const RULES: &[Rule] = &[
    Rule { member: "understudy-conf", members: &[], banned: BOTH_AND_NETWORK },
    Rule { member: "understudy-crds", members: &["understudy-conf"], banned: PINGORA },
    Rule { member: "understudy-engine", members: &["understudy-conf"], banned: BOTH_AND_NETWORK },
    Rule { member: "understudy-router", members: &["understudy-conf"], banned: BOTH_AND_NETWORK },
    Rule {
        member: "understudy-proxy",
        members: &["understudy-conf", "understudy-engine", "understudy-router"],
        banned: KUBERNETES,
    },
    Rule {
        member: "understudy-controller",
        members: &["understudy-conf", "understudy-crds"],
        banned: PINGORA,
    },
    Rule {
        member: "understudy",
        members: &[
            "understudy-conf",
            "understudy-controller",
            "understudy-crds",
            "understudy-engine",
            "understudy-proxy",
            "understudy-router",
            "understudy-testbed",
        ],
        banned: &[],
    },
    Rule {
        member: "understudy-loadtest",
        members: &[
            "understudy-conf",
            "understudy-controller",
            "understudy-engine",
            "understudy-proxy",
            "understudy-router",
            "understudy-testbed",
        ],
        banned: &[],
    },
    Rule {
        member: "understudy-testbed",
        members: &[],
        banned: &["kube", "k8s-openapi", "gateway-api", "pingora"],
    },
    // A fuzz target uses the crate that it attacks.
    Rule { member: "understudy-conf-fuzz", members: &["understudy-conf"], banned: BOTH_AND_NETWORK },
    Rule {
        member: "understudy-router-fuzz",
        members: &["understudy-conf", "understudy-router"],
        banned: BOTH_AND_NETWORK,
    },
    Rule { member: "understudy-controller-fuzz", members: &["understudy-controller"], banned: PINGORA },
    Rule {
        member: "understudy-proxy-fuzz",
        members: &["understudy-conf", "understudy-proxy"],
        banned: KUBERNETES,
    },
    // It sees the cluster through kubectl and its own sockets, as a user does.
    Rule { member: "understudy-k8s-tests", members: &[], banned: BOTH_AND_NETWORK },
    Rule { member: "xtask", members: &[], banned: BOTH_AND_NETWORK },
];

/// Used by tests of any member.
const FOR_TESTS: &str = "understudy-testbed";

/// The edges that no rule allows, from the output of `cargo metadata --no-deps`.
pub(crate) fn strays(metadata: &Value) -> Vec<String> {
    let mut strays = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(rule) = RULES.iter().find(|rule| rule.member == name) else {
            strays.push(format!("{name}: a member without a rule; add one in xtask/src/direction.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or_default();
            let of_tests = dependency["kind"] == "dev";
            let stray = if dependency["path"].is_string() {
                !(rule.members.contains(&to) || of_tests && to == FOR_TESTS)
            } else {
                !of_tests && rule.banned.iter().any(|banned| to.starts_with(banned))
            };
            if stray {
                strays.push(format!("{name} must not depend on {to}"));
            }
        }
    }
    strays
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: Value) -> Value {
        json!({ "packages": [{ "name": name, "dependencies": dependencies }] })
    }

    #[test]
    fn a_stray_edge_is_named() {
        let edge = json!([{ "name": "understudy-proxy", "path": "/p", "kind": null }]);
        assert_eq!(
            strays(&package("understudy-controller", edge)),
            ["understudy-controller must not depend on understudy-proxy"]
        );
        let edge = json!([{ "name": "pingora-core", "kind": null }]);
        assert_eq!(
            strays(&package("understudy-engine", edge)),
            ["understudy-engine must not depend on pingora-core"]
        );
    }

    #[test]
    fn edges_that_go_down_and_edges_of_tests_are_allowed() {
        let edges = json!([
            { "name": "understudy-conf", "path": "/p", "kind": null },
            { "name": "understudy-testbed", "path": "/p", "kind": "dev" },
            { "name": "tokio", "kind": "dev" },
            { "name": "thiserror", "kind": null },
        ]);
        assert!(strays(&package("understudy-engine", edges)).is_empty());
    }

    #[test]
    fn a_member_without_a_rule_is_named() {
        assert_eq!(strays(&package("newcomer", json!([]))).len(), 1);
    }
}
