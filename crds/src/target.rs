//! What a policy is attached to.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Checker;
use crate::schema;

/// A target by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTarget {
    /// `gateway.networking.k8s.io`.
    #[schemars(extend("enum" = [GROUP]))]
    pub group: String,
    /// `Gateway` or a kind of route.
    #[schemars(extend("enum" = KINDS))]
    pub kind: String,
    /// The target's name, in the policy's namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// A listener of a Gateway, or a named rule of a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub section_name: Option<String>,
}

/// Targets by their labels.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyTargetSelector {
    /// `gateway.networking.k8s.io`, also where left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [GROUP]))]
    pub group: Option<String>,
    /// `Gateway` or a kind of route.
    #[schemars(extend("enum" = KINDS))]
    pub kind: String,
    /// Labels with their values that the target must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Conditions on the target's labels.
    #[schemars(length(max = 64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<LabelRequirement>>,
    /// Where targets are looked for; default: the policy's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<SelectorNamespaces>,
}

/// Labels that an object must have: all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetLabels {
    /// Labels with their values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Conditions on labels.
    #[schemars(length(max = 64))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub match_expressions: Option<Vec<LabelRequirement>>,
}

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 : !has(self.values) || size(self.values) == 0", "In and NotIn need values, Exists and DoesNotExist take none"),
])))]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    #[schemars(extend("enum" = ["In", "NotIn", "Exists", "DoesNotExist"]))]
    pub operator: String,
    /// Values for `In` and `NotIn`.
    #[schemars(length(max = 256))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
}

/// Where a selector looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(extend("x-kubernetes-validations" = schema::rules(&[
    ("self.from == 'Selector' ? has(self.selector) : !has(self.selector)", "selector belongs to from: Selector, which needs it"),
])))]
#[schemars(extend("required" = ["from"]))]
pub struct SelectorNamespaces {
    /// Which namespaces.
    pub from: NamespacesFrom,
    /// Labels of namespaces, for [`NamespacesFrom::Selector`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<TargetLabels>,
}

/// Which namespaces a selector looks into.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NamespacesFrom {
    /// The policy's own.
    #[default]
    Same,
    /// Every one.
    All,
    /// Those with certain labels.
    Selector,
}

const GROUP: &str = "gateway.networking.k8s.io";
const KINDS: [&str; 7] =
    ["Gateway", "ListenerSet", "HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"];

pub(crate) fn validate_target(group: &str, kind: &str, check: &mut Checker<'_>) {
    if group != GROUP {
        check.problem("group", format!("{group:?} has no targets for this policy"), format!("Use {GROUP}."));
    }
    if !KINDS.contains(&kind) {
        check.problem(
            "kind",
            format!("a {kind} cannot be targeted"),
            "Target a Gateway or a route; a Backend or Service takes the policy of the route that uses it.",
        );
    }
}

impl PolicyTargetSelector {
    /// The labels that a target must have.
    #[must_use]
    pub fn labels(&self) -> TargetLabels {
        TargetLabels {
            match_labels: self.match_labels.clone(),
            match_expressions: self.match_expressions.clone(),
        }
    }

    pub(crate) fn validate(&self, check: &mut Checker<'_>) {
        validate_target(self.group.as_deref().unwrap_or(GROUP), &self.kind, check);
        self.labels().validate(check);
        if let Some(namespaces) = &self.namespaces {
            match (namespaces.from, &namespaces.selector) {
                (NamespacesFrom::Selector, None) => check.problem(
                    "namespaces.selector",
                    "from: Selector needs a selector",
                    "Give namespaces.selector, or use from: Same or All.",
                ),
                (NamespacesFrom::Selector, Some(labels)) => {
                    labels.validate(&mut check.at("namespaces.selector"))
                }
                (_, Some(_)) => check.problem(
                    "namespaces.selector",
                    "it acts only with from: Selector",
                    "Set from: Selector, or remove it.",
                ),
                (_, None) => {}
            }
        }
    }
}

impl TargetLabels {
    fn validate(&self, check: &mut Checker<'_>) {
        for (index, requirement) in self.match_expressions.iter().flatten().enumerate() {
            let mut check = check.item("matchExpressions", index);
            let values = requirement.values.as_ref().is_some_and(|values| !values.is_empty());
            match (requirement.operator.as_str(), values) {
                ("In" | "NotIn", true) | ("Exists" | "DoesNotExist", false) => {}
                ("In" | "NotIn", false) => {
                    check.problem("values", "the operator needs values", "Give at least one value.");
                }
                ("Exists" | "DoesNotExist", true) => {
                    check.problem("values", "the operator takes no values", "Remove them.");
                }
                (other, _) => check.problem(
                    "operator",
                    format!("{other:?} is unknown"),
                    "Use In, NotIn, Exists or DoesNotExist.",
                ),
            }
        }
    }

    /// Whether an object with these labels is meant.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let exact = self.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
        exact
            && self.match_expressions.iter().flatten().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value
                    .is_some_and(|value| requirement.values.iter().flatten().any(|known| known == value));
                match requirement.operator.as_str() {
                    "In" => listed,
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_match_as_kubernetes_selectors_do() {
        let labels: BTreeMap<_, _> = [("app".to_owned(), "shop".to_owned())].into();
        for (selector, expected) in [
            ("{}", true),
            ("matchLabels: {app: shop}", true),
            ("matchLabels: {app: blog}", false),
            ("matchExpressions: [{key: app, operator: In, values: [blog, shop]}]", true),
            ("matchExpressions: [{key: app, operator: NotIn, values: [shop]}]", false),
            ("matchExpressions: [{key: tier, operator: NotIn, values: [shop]}]", true),
            ("matchExpressions: [{key: app, operator: Exists}]", true),
            ("matchExpressions: [{key: app, operator: DoesNotExist}]", false),
        ] {
            let selector: TargetLabels = serde_yaml::from_str(selector).unwrap();
            assert_eq!(selector.matches(&labels), expected, "{selector:?}");
        }
    }
}
