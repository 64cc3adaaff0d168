//! What one sidecar says of its Backends: those that fail, in a text that fits an annotation. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use understudy_conf::{EndpointReport, Health, Reports};

use crate::visible::MAX_SUMMARY;
use crate::visible::story::cut;
use crate::visible::subject::Subject;

/// Endpoints, or targets, that are named of one Backend.
const MAX_ENDPOINTS: usize = 8;
/// Bytes of a reason.
const MAX_WHY: usize = 120;

/// The Backends that fail on a node, by `NAMESPACE/NAME`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct NodeSummary {
    pub(crate) backends: BTreeMap<String, BackendSummary>,
    /// How many more fail, for which there was no room.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more: usize,
}

/// What is wrong with a Backend on a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct BackendSummary {
    /// Endpoints that take no traffic.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) out: Vec<OutEndpoint>,
    /// Targets that the guard refuses, each with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<String>,
    /// How many more there are of both.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) more: usize,
    /// It has no endpoint at all.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) empty: bool,
}

/// An endpoint that takes no traffic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct OutEndpoint {
    pub(crate) address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pod: Option<String>,
    pub(crate) state: OutState,
    /// In a few words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
    /// In seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<i64>,
}

/// Why an endpoint takes no traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum OutState {
    /// It was ejected; it may be on trial already.
    Ejected,
    /// Its active check fails, or has not passed yet.
    Unhealthy,
    /// It has joined, and no connection to it succeeded yet.
    Unproven,
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// The addresses of the endpoints that fail.
pub(crate) fn failing(reports: &Reports) -> BTreeSet<&str> {
    let endpoints = reports.pools.iter().flat_map(|pool| &pool.endpoints);
    endpoints
        .filter(|endpoint| state_of(endpoint).is_some())
        .map(|endpoint| endpoint.address.as_str())
        .collect()
}

fn state_of(endpoint: &EndpointReport) -> Option<OutState> {
    match endpoint.health.state {
        Health::Healthy | Health::Ramping => None,
        Health::Unhealthy => Some(OutState::Unhealthy),
        Health::Ejected => Some(OutState::Ejected),
        Health::Probing | Health::Trial if endpoint.health.since_ms.is_none() => Some(OutState::Unproven),
        Health::Probing | Health::Trial => Some(OutState::Ejected),
    }
}

/// The summary of a proxy's reports. `pods` names the pods behind addresses.
pub(crate) fn summarize(reports: &Reports, pods: &BTreeMap<String, String>) -> NodeSummary {
    let mut out: BTreeMap<String, BTreeMap<&str, OutEndpoint>> = BTreeMap::new();
    let mut backends: BTreeMap<String, BackendSummary> = BTreeMap::new();
    for pool in &reports.pools {
        for origin in &pool.without_endpoints {
            if let Some(name) = backend_name(origin) {
                backends.entry(name).or_default().empty = true;
            }
        }
        for endpoint in &pool.endpoints {
            let (Some(state), Some(name)) = (state_of(endpoint), backend_name(&endpoint.backend)) else {
                continue;
            };
            let found = out_endpoint(endpoint, state, pods);
            let known =
                out.entry(name).or_default().entry(&endpoint.address).or_insert_with(|| found.clone());
            // Several pools may see it, each with evidence of its own: the worst counts, and the longest.
            if found.state < known.state {
                *known = found;
            } else if found.state == known.state {
                known.since = known.since.into_iter().chain(found.since).min();
            }
        }
    }
    for (name, endpoints) in out {
        let backend = backends.entry(name).or_default();
        backend.more += endpoints.len().saturating_sub(MAX_ENDPOINTS);
        backend.out = endpoints.into_values().take(MAX_ENDPOINTS).collect();
    }
    for refused in &reports.refused {
        let Some(name) = backend_name(&refused.backend) else { continue };
        let backend = backends.entry(name).or_default();
        if backend.refused.len() < MAX_ENDPOINTS {
            backend.refused.push(cut(&format!("{} is refused: {}", refused.target, refused.why), MAX_WHY));
        } else {
            backend.more += 1;
        }
    }
    NodeSummary { backends, more: 0 }
}

fn backend_name(origin: &str) -> Option<String> {
    match Subject::of_origin(origin)? {
        Subject::Backend(key) => Some(key.to_string()),
        Subject::Service(_) | Subject::Route(_) => None,
    }
}

fn out_endpoint(endpoint: &EndpointReport, state: OutState, pods: &BTreeMap<String, String>) -> OutEndpoint {
    OutEndpoint {
        address: endpoint.address.clone(),
        pod: pods.get(&endpoint.address).cloned(),
        state,
        why: cut(endpoint.last_error.as_deref().unwrap_or_default(), MAX_WHY),
        since: endpoint.health.since_ms.and_then(|since| i64::try_from(since / 1000).ok()),
    }
}

impl NodeSummary {
    /// The text for the annotation, at most [`MAX_SUMMARY`] bytes long. Backends for which there is no room are
    /// counted.
    pub(crate) fn to_text(&self) -> String {
        let all = self.backends.len();
        // The whole nearly always fits. Otherwise as many as do, found by halving.
        let (mut fits, mut too_many) = (0, all + 1);
        let mut best = String::new();
        let mut tried = all;
        while fits + 1 < too_many || best.is_empty() {
            let kept =
                self.backends.iter().take(tried).map(|(name, backend)| (name.clone(), backend.clone()));
            let part = Self { backends: kept.collect(), more: self.more + all - tried };
            // It is made of texts and numbers only, which JSON can say.
            let text = serde_json::to_string(&part).unwrap_or_default();
            if text.len() <= MAX_SUMMARY {
                (fits, best) = (tried, text);
            } else {
                too_many = tried;
            }
            if tried == 0 {
                break;
            }
            tried = fits + (too_many - fits) / 2;
        }
        best
    }

    /// Reads an annotation; `None` if it is none of ours.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // A list would be read as one without names.
        if text.len() > MAX_SUMMARY || !text.starts_with('{') {
            return None;
        }
        serde_json::from_str(text).ok()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use understudy_conf::{EndpointHealth, PoolName, PoolReport, PoolState, RefusedTarget};

    use super::*;

    pub(crate) fn endpoint(backend: &str, address: &str, state: Health) -> EndpointReport {
        EndpointReport {
            backend: backend.to_owned(),
            address: address.to_owned(),
            hostname: None,
            priority: 0,
            health: EndpointHealth {
                state,
                since_ms: (state != Health::Healthy).then_some(1_795_435_263_500),
                remaining_ms: None,
                share: None,
                obeyed: true,
            },
            active: 0,
            requests: 1,
            failures: 1,
            ejections: 1,
            last_error: Some("connection refused".to_owned()),
        }
    }

    pub(crate) fn pool(name: &str, endpoints: Vec<EndpointReport>) -> PoolReport {
        PoolReport {
            pool: PoolName::new(name).unwrap(),
            state: PoolState::Fallback,
            reason: String::new(),
            load: Vec::new(),
            endpoints,
            without_endpoints: Vec::new(),
        }
    }

    const ACTIVE: &str = "backend/default/active";

    #[test]
    fn only_what_fails_is_said_once_however_many_pools_see_it() {
        let mut never_reached = endpoint(ACTIVE, "10.0.0.4:3000", Health::Probing);
        never_reached.health.since_ms = None;
        let mut earlier = endpoint(ACTIVE, "10.0.0.1:3000", Health::Trial);
        earlier.health.since_ms = Some(1_795_435_200_000);
        let mut second =
            pool("b", vec![earlier, endpoint("service/default/web/80", "10.0.0.9:80", Health::Ejected)]);
        second.without_endpoints =
            vec!["backend/default/gone".to_owned(), "there is no Backend x/y".to_owned()];
        let reports = Reports {
            pools: vec![
                pool(
                    "a",
                    vec![
                        endpoint(ACTIVE, "10.0.0.1:3000", Health::Ejected),
                        endpoint(ACTIVE, "10.0.0.2:3000", Health::Healthy),
                        endpoint(ACTIVE, "10.0.0.3:3000", Health::Ramping),
                        never_reached,
                        endpoint("backend/default/passive", "10.0.1.1:3000", Health::Unhealthy),
                    ],
                ),
                second,
            ],
            refused: vec![RefusedTarget {
                backend: "backend/shop/evil".to_owned(),
                target: "127.0.0.1:80 (evil.example)".to_owned(),
                why: "loopback".to_owned(),
            }],
            ..Reports::default()
        };
        assert_eq!(failing(&reports).len(), 4);
        let pods = BTreeMap::from([("10.0.0.1:3000".to_owned(), "active-x".to_owned())]);
        let text = summarize(&reports, &pods).to_text();
        let expected = concat!(
            r#"{"backends":{"default/active":{"out":["#,
            r#"{"address":"10.0.0.1:3000","pod":"active-x","state":"ejected","why":"connection refused","since":1795435200},"#,
            r#"{"address":"10.0.0.4:3000","state":"unproven","why":"connection refused"}]},"#,
            r#""default/gone":{"empty":true},"#,
            r#""default/passive":{"out":[{"address":"10.0.1.1:3000","state":"unhealthy","why":"connection refused","since":1795435263}]},"#,
            r#""shop/evil":{"refused":["127.0.0.1:80 (evil.example) is refused: loopback"]}}}"#,
        );
        assert_eq!(text, expected);
        assert_eq!(NodeSummary::parse(&text), Some(summarize(&reports, &pods)));
    }

    #[test]
    fn a_sound_proxy_says_next_to_nothing() {
        assert_eq!(summarize(&Reports::default(), &BTreeMap::new()).to_text(), r#"{"backends":{}}"#);
    }

    #[test]
    fn what_is_no_summary_is_passed_over() {
        for text in ["", "[]", "{", r#"{"backends":7}"#] {
            assert_eq!(NodeSummary::parse(text), None, "{text}");
        }
        assert_eq!(NodeSummary::parse(&format!("{{}}{}", " ".repeat(MAX_SUMMARY))), None);
        assert_eq!(NodeSummary::parse("{}"), Some(NodeSummary::default()));
    }

    proptest! {
        #[test]
        fn however_much_fails_the_text_has_its_limit_and_says_what_is_left_out(
            backends in 0..400_usize, endpoints in 0..30_usize, why in ".{0,200}",
        ) {
            let pools = (0..backends).map(|backend| {
                let endpoints = (0..endpoints).map(|index| {
                    let mut found = endpoint(
                        &format!("backend/default/b{backend}"), &format!("10.0.{index}.1:80"), Health::Ejected);
                    found.last_error = Some(why.clone());
                    found
                });
                pool(&format!("p{backend}"), endpoints.collect())
            });
            let reports = Reports { pools: pools.collect(), ..Reports::default() };
            let text = summarize(&reports, &BTreeMap::new()).to_text();
            prop_assert!(text.len() <= MAX_SUMMARY);
            let read = NodeSummary::parse(&text).unwrap();
            let failing = if endpoints == 0 { 0 } else { backends };
            prop_assert_eq!(read.backends.len() + read.more, failing);
            // As many as fit: one more is larger than any that is there by less than 4 KiB.
            prop_assert!(read.more == 0 || text.len() > MAX_SUMMARY - 4096);
            for backend in read.backends.values() {
                prop_assert_eq!(backend.out.len() + backend.more, endpoints);
            }
        }
    }
}
