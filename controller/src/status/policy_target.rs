//! Ancestors: the Gateways through which a policy acts.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::cluster::Key;
use crate::diagnostics::{Diagnostic, Reason};
use crate::graph::{Graph, Spot};
use crate::watch::GATEWAY_API;

/// A status has place for no more ancestors.
pub(super) const MAX_ANCESTORS: usize = 16;

/// A Gateway, or one of its listeners, that a policy acts through. Ordered, so that the same ones stay if there are
/// too many.
pub(super) type Ancestor = (Key, Option<String>);

pub(super) fn ancestor_ref((gateway, section): &Ancestor) -> Value {
    let mut value = json!({
        "group": GATEWAY_API, "kind": "Gateway", "namespace": &*gateway.namespace, "name": &*gateway.name,
    });
    if let Some(section) = section {
        value["sectionName"] = section.as_str().into();
    }
    value
}

/// The ancestors of what a policy targets: the Gateway itself, that of the ListenerSet, or those that serve the route.
pub(super) fn ancestors_of(graph: &Graph, spot: &Spot) -> Vec<Ancestor> {
    match spot {
        Spot::Gateway(key) if graph.gateways.contains_key(key) => vec![(key.clone(), None)],
        Spot::Listener(key, name) if graph.gateways.contains_key(key) => {
            vec![(key.clone(), Some(name.clone()))]
        }
        Spot::Gateway(_) | Spot::Listener(..) => Vec::new(),
        Spot::Set(set) | Spot::SetListener(set, _) => {
            graph.gateway_of_set(set).map(|gateway| (gateway.clone(), None)).into_iter().collect()
        }
        Spot::Route(route) | Spot::Rule(route, _) => {
            let gateways: BTreeSet<_> = graph.parents(route).iter().map(|parent| &parent.gateway).collect();
            gateways.into_iter().map(|gateway| (gateway.clone(), None)).collect()
        }
    }
}

/// What is said to one ancestor.
#[derive(Default)]
pub(super) struct Said<'a> {
    pub(super) refusals: Vec<&'a Diagnostic>,
    pub(super) overridden: Vec<String>,
    pub(super) merged: Vec<String>,
}

pub(super) type SaidTo<'a> = BTreeMap<Ancestor, Said<'a>>;

/// The reason of a policy's `Accepted` condition.
pub(super) fn refusal_reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Conflicted => "Conflicted",
        Reason::TargetNotFound => "TargetNotFound",
        _ => "Invalid",
    }
}

/// What matters most among warnings names the condition.
pub(super) fn warning_reason(warnings: &[&Diagnostic]) -> &'static str {
    let order = [Reason::FailoverImpossible, Reason::NotActing, Reason::NoEffect];
    let first = order.into_iter().find(|reason| warnings.iter().any(|warning| warning.reason == *reason));
    first.or(warnings.first().map(|warning| warning.reason)).map_or("Warning", Reason::as_str)
}
