//! What all sidecars say of a Backend, in one condition. Pure.

use std::collections::BTreeMap;

use k8s_openapi::jiff::Timestamp;

use crate::cluster::Key;
use crate::visible::condition::{self, Condition};
use crate::visible::inventory::BackendInfo;
use crate::visible::summary::{BackendSummary, NodeSummary, OutEndpoint, OutState};

/// Endpoints, and nodes of each, that a message names.
const MAX_NAMED: usize = 5;

/// The conditions of a Backend.
pub(crate) fn conditions(
    key: &Key,
    backend: &BackendInfo,
    nodes: &BTreeMap<String, NodeSummary>,
) -> Vec<Condition> {
    vec![health(key, backend, nodes), condition::role(backend)]
}

fn health(key: &Key, backend: &BackendInfo, nodes: &BTreeMap<String, NodeSummary>) -> Condition {
    if !backend.is_used {
        return condition::not_used();
    }
    if nodes.is_empty() {
        return condition::no_reports();
    }
    let name = key.to_string();
    let seen =
        || nodes.iter().filter_map(|(node, summary)| Some((node.as_str(), summary.backends.get(&name)?)));
    let mut out: BTreeMap<(OutState, &str, &str), Seen<'_>> = BTreeMap::new();
    for (node, summary) in seen() {
        for endpoint in &summary.out {
            let seen = out
                .entry((endpoint.state, &endpoint.address, &endpoint.why))
                .or_insert_with(|| Seen::new(endpoint));
            seen.nodes.push(node);
            seen.since = seen.since.into_iter().chain(endpoint.since).min();
        }
    }
    let more = seen().map(|(_, summary)| summary.more).max().unwrap_or(0);
    let sentences: Vec<String> = out.values().map(Seen::sentence).collect();
    let refused = seen().flat_map(|(_, summary)| &summary.refused);
    let mut refused: Vec<String> = refused.cloned().collect();
    refused.sort();
    refused.dedup();
    let first = out.keys().next().map(|(state, ..)| *state);
    match first {
        Some(state) => {
            let message = list(sentences.into_iter().chain(refused).collect(), more);
            match state {
                OutState::Ejected => condition::endpoints_ejected(message),
                OutState::Unhealthy => condition::endpoints_unhealthy(message),
                OutState::Unproven => condition::endpoints_unproven(message),
            }
        }
        None if !refused.is_empty() => condition::endpoints_refused(list(refused, more)),
        None => {
            let empty = nodes_where(nodes, |summary| {
                summary.backends.get(&name).is_some_and(|backend: &BackendSummary| backend.empty)
            });
            let left_out = nodes_where(nodes, |summary| summary.more > 0);
            if !empty.is_empty() {
                condition::no_endpoints(format!("it has no endpoint on {}", on_nodes(&empty)))
            } else if !left_out.is_empty() {
                condition::left_out(&on_nodes(&left_out))
            } else {
                condition::all_healthy(nodes.len())
            }
        }
    }
}

fn nodes_where(nodes: &BTreeMap<String, NodeSummary>, holds: impl Fn(&NodeSummary) -> bool) -> Vec<&str> {
    nodes.iter().filter(|(_, summary)| holds(summary)).map(|(node, _)| node.as_str()).collect()
}

/// An endpoint with those who see it failing.
struct Seen<'a> {
    endpoint: &'a OutEndpoint,
    nodes: Vec<&'a str>,
    since: Option<i64>,
}

impl<'a> Seen<'a> {
    fn new(endpoint: &'a OutEndpoint) -> Self {
        Self { endpoint, nodes: Vec::new(), since: endpoint.since }
    }

    fn sentence(&self) -> String {
        let OutEndpoint { address, pod, state, why, .. } = self.endpoint;
        let pod = pod.as_ref().map(|pod| format!(" (pod {pod})")).unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!("{why}, ") };
        let what = match state {
            OutState::Ejected => "ejected",
            OutState::Unhealthy => "without traffic",
            OutState::Unproven => "not reached yet",
        };
        let since = self.since.and_then(|since| Timestamp::from_second(since).ok());
        let since = since.map(|since| format!(" since {since}")).unwrap_or_default();
        format!("endpoint {address}{pod}: {why}{what}{since} on {}", on_nodes(&self.nodes))
    }
}

/// `node a`, `nodes a, b and 3 more`.
fn on_nodes(nodes: &[&str]) -> String {
    let word = if nodes.len() == 1 { "node" } else { "nodes" };
    let named = nodes.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    match nodes.len().saturating_sub(MAX_NAMED) {
        0 => format!("{word} {named}"),
        more => format!("{word} {named} and {more} more"),
    }
}

fn list(mut sentences: Vec<String>, more: usize) -> String {
    let more = more + sentences.len().saturating_sub(MAX_NAMED);
    sentences.truncate(MAX_NAMED);
    let mut text = sentences.join("; ");
    if more > 0 {
        text.push_str(&format!("; and {more} more"));
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::visible::condition::ROLE;

    fn key() -> Key {
        Key::new("default", "active")
    }

    fn backend(is_used: bool, is_fallback: bool) -> BackendInfo {
        BackendInfo { uid: None, generation: Some(1), is_fallback, is_used }
    }

    fn out(address: &str, state: OutState, why: &str, since: i64) -> OutEndpoint {
        let pod = Some("active-x".to_owned());
        OutEndpoint { address: address.to_owned(), pod, state, why: why.to_owned(), since: Some(since) }
    }

    fn node(backend: BackendSummary) -> NodeSummary {
        NodeSummary { backends: BTreeMap::from([("default/active".to_owned(), backend)]), more: 0 }
    }

    fn nodes(summaries: Vec<NodeSummary>) -> BTreeMap<String, NodeSummary> {
        summaries.into_iter().enumerate().map(|(index, summary)| (format!("n{index}"), summary)).collect()
    }

    fn found(nodes: &BTreeMap<String, NodeSummary>) -> (&'static str, &'static str, String) {
        let condition = conditions(&key(), &backend(true, false), nodes).remove(0);
        (condition.status, condition.reason, condition.message)
    }

    #[test]
    fn a_backend_that_is_well_everywhere_or_nowhere_seen_says_so() {
        let sound = || NodeSummary::default();
        let two = nodes(vec![sound(), sound()]);
        assert_eq!(
            found(&two),
            ("True", "AllHealthy", "no endpoint fails on all 2 nodes that report".to_owned())
        );
        assert_eq!(found(&nodes(vec![])).1, "NoReports");
        let unused = conditions(&key(), &backend(false, true), &two);
        assert_eq!((unused[0].status, unused[0].reason), ("Unknown", "NotUsed"));
        assert_eq!((unused[1].kind, unused[1].reason), (ROLE, "Fallback"));
    }

    #[test]
    fn an_ejected_pod_is_named_with_its_cause_its_time_and_the_nodes_that_see_it() {
        let ejected = |since| {
            node(BackendSummary {
                out: vec![out("10.244.0.7:3000", OutState::Ejected, "connection refused", since)],
                ..BackendSummary::default()
            })
        };
        let one = nodes(vec![NodeSummary::default(), ejected(1_795_435_263)]);
        let expected = "endpoint 10.244.0.7:3000 (pod active-x): connection refused, ejected since \
                        2026-11-23T12:01:03Z on node n1";
        assert_eq!(found(&one), ("False", "EndpointsEjected", expected.to_owned()));
        let seven = nodes((0..7).map(|index| ejected(1_795_435_263 - index)).collect());
        assert!(
            found(&seven).2.ends_with("since 2026-11-23T12:00:57Z on nodes n0, n1, n2, n3, n4 and 2 more")
        );
    }

    #[test]
    fn the_worst_decides_the_reason_and_the_message_has_an_end() {
        let mut mixed: Vec<OutEndpoint> =
            (0..8).map(|index| out(&format!("10.0.0.{index}:1"), OutState::Unproven, "", 1)).collect();
        mixed.push(out("10.0.0.9:1", OutState::Unhealthy, "active check: status 503", 1));
        let summary = BackendSummary { out: mixed, more: 4, ..BackendSummary::default() };
        let (status, reason, message) = found(&nodes(vec![node(summary)]));
        assert_eq!((status, reason), ("False", "EndpointsUnhealthy"));
        assert!(
            message
                .starts_with("endpoint 10.0.0.9:1 (pod active-x): active check: status 503, without traffic")
        );
        assert!(message.ends_with("; and 8 more"), "{message}");
    }

    #[test]
    fn refused_targets_and_missing_endpoints_are_reasons_of_their_own() {
        let refused = BackendSummary {
            refused: vec!["127.0.0.1:80 is refused: loopback".to_owned()],
            empty: true,
            ..BackendSummary::default()
        };
        let expected = ("False", "EndpointsRefused", "127.0.0.1:80 is refused: loopback".to_owned());
        assert_eq!(found(&nodes(vec![node(refused.clone()), node(refused)])), expected);
        let empty = BackendSummary { empty: true, ..BackendSummary::default() };
        let expected = ("False", "NoEndpoints", "it has no endpoint on node n0".to_owned());
        assert_eq!(found(&nodes(vec![node(empty)])), expected);
    }

    #[test]
    fn a_node_that_could_not_say_all_leaves_the_others_unknown() {
        let full = NodeSummary { more: 3, ..NodeSummary::default() };
        let (status, reason, message) = found(&nodes(vec![full]));
        assert_eq!((status, reason), ("Unknown", "TooMuchFails"));
        assert!(message.contains("on node n0"), "{message}");
    }

    proptest! {
        #[test]
        fn a_message_never_exceeds_what_a_condition_may_have(
            per_node in proptest::collection::vec(proptest::collection::vec((0..40_u8, ".{0,120}"), 0..9), 0..30)
        ) {
            let summaries = per_node.into_iter().map(|endpoints| {
                let out = endpoints.into_iter().map(|(index, why)| out(&format!("10.0.0.{index}:1"), OutState::Ejected, &why, 5));
                node(BackendSummary { out: out.collect(), more: 1000, ..BackendSummary::default() })
            });
            let (_, _, message) = found(&nodes(summaries.collect()));
            prop_assert!(message.len() < 8192, "{}", message.len());
        }
    }
}
