//! BackendTrafficPolicy: how an endpoint is chosen, and what its annotations say of limits.

use std::collections::BTreeMap;

use understudy_conf::{ConsistentHash, GatewayDuration, HashCookie, HashKey, LoadBalancer, Overflow, Policy};
use understudy_crds::{
    BackendTrafficPolicy, ConsistentHash as HashSpec, ConsistentHashType, LoadBalancer as BalancerSpec,
    LoadBalancerType, NamedField,
};

use crate::cluster::Object;
use crate::diagnostics::{Diagnostic, reasons};

/// What becomes of a request that a pool has no room for: `Fallback` (the default) or `Reject`.
pub(crate) const OVERFLOW: &str = "understudy.dev/overflow";
/// Size of the table unless set.
const TABLE_SIZE: u32 = 65_537;

/// Builds the balancer of settings that `validate()` has checked.
pub(crate) fn build_load_balancer(spec: Option<&BalancerSpec>) -> LoadBalancer {
    let Some(spec) = spec else { return LoadBalancer::default() };
    match (spec.kind, &spec.consistent_hash) {
        (LoadBalancerType::RoundRobin, _) => LoadBalancer::RoundRobin,
        (LoadBalancerType::Random, _) => LoadBalancer::Random,
        (LoadBalancerType::ConsistentHash, Some(hash)) => LoadBalancer::ConsistentHash(build_hash(hash)),
        _ => LoadBalancer::LeastRequest,
    }
}

/// The window of a slow start, if there is one.
pub(crate) fn build_slow_start(spec: Option<&BalancerSpec>) -> Option<GatewayDuration> {
    spec?.slow_start.as_ref()?.window.parse().ok()
}

fn build_hash(spec: &HashSpec) -> ConsistentHash {
    let names = |fields: &[NamedField]| fields.iter().map(|field| field.name.clone()).collect::<Vec<_>>();
    let headers = |fields: &[NamedField]| {
        HashKey::Headers(fields.iter().map(|field| field.name.to_ascii_lowercase()).collect())
    };
    let by = match spec.kind {
        ConsistentHashType::SourceIP => HashKey::SourceIp,
        ConsistentHashType::Header => headers(spec.header.as_slice()),
        ConsistentHashType::Headers => headers(spec.headers.as_deref().unwrap_or_default()),
        ConsistentHashType::QueryParams => {
            HashKey::QueryParams(names(spec.query_params.as_deref().unwrap_or_default()))
        }
        ConsistentHashType::Cookie => match &spec.cookie {
            Some(cookie) => HashKey::Cookie(HashCookie {
                name: cookie.name.clone(),
                ttl: cookie.ttl.as_ref().and_then(|ttl| ttl.parse().ok()),
                attributes: cookie.attributes.clone().unwrap_or_default(),
            }),
            // `validate()` refuses it.
            None => HashKey::SourceIp,
        },
    };
    let table_size = spec.table_size.and_then(|size| u32::try_from(size).ok()).unwrap_or(TABLE_SIZE);
    ConsistentHash { by, table_size }
}

/// Adds what the policy's annotations say.
pub(crate) fn apply_annotations(
    policy: &mut Policy,
    object: &Object<BackendTrafficPolicy>,
    diagnostics: &mut Vec<Diagnostic>,
) {
    let annotations = object.value.metadata.annotations.as_ref();
    match annotations.and_then(|annotations: &BTreeMap<String, String>| annotations.get(OVERFLOW)) {
        None => {}
        Some(text) if text == "Fallback" => policy.circuit_breaker.overflow = Overflow::Fallback,
        Some(text) if text == "Reject" => policy.circuit_breaker.overflow = Overflow::Reject,
        Some(text) => diagnostics.push(reasons::invalid(
            &object.at(&format!("metadata.annotations.{OVERFLOW}")),
            format!("{text:?} is unknown, so requests that overflow go to the fallback"),
            "Use Fallback or Reject.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balancer(spec: &str) -> LoadBalancer {
        build_load_balancer(Some(&serde_yaml::from_str(spec).unwrap()))
    }

    fn hash(spec: &str) -> ConsistentHash {
        match balancer(&format!("{{type: ConsistentHash, consistentHash: {spec}}}")) {
            LoadBalancer::ConsistentHash(hash) => hash,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_type_that_acts_is_translated() {
        assert_eq!(build_load_balancer(None), LoadBalancer::LeastRequest);
        assert_eq!(balancer("{type: RoundRobin}"), LoadBalancer::RoundRobin);
        assert_eq!(balancer("{type: Random}"), LoadBalancer::Random);
        assert_eq!(
            balancer("{type: BackendUtilization, backendUtilization: {}}"),
            LoadBalancer::LeastRequest
        );
    }

    #[test]
    fn every_key_of_a_hash_is_translated() {
        let headers = |names: &[&str]| HashKey::Headers(names.iter().map(|&name| name.to_owned()).collect());
        let ip = hash("{type: SourceIP}");
        assert_eq!((ip.by, ip.table_size), (HashKey::SourceIp, 65_537));
        assert_eq!(hash("{type: Header, header: {name: X-User}}").by, headers(&["x-user"]));
        let two = "{type: Headers, headers: [{name: X-User}, {name: x-shop}], tableSize: 11}";
        assert_eq!((hash(two).by, hash(two).table_size), (headers(&["x-user", "x-shop"]), 11));
        let query = hash("{type: QueryParams, queryParams: [{name: User}]}");
        assert_eq!(query.by, HashKey::QueryParams(vec!["User".to_owned()]));
        let cookie =
            hash("{type: Cookie, cookie: {name: session, ttl: 1h, attributes: {Path: /, Secure: ''}}}");
        let HashKey::Cookie(cookie) = cookie.by else { panic!("{cookie:?}") };
        assert_eq!((cookie.name.as_str(), cookie.ttl), ("session", Some(GatewayDuration::from_secs(3600))));
        assert_eq!(cookie.attributes.len(), 2);
    }

    #[test]
    fn a_slow_start_has_its_window() {
        let spec: BalancerSpec =
            serde_yaml::from_str("{type: RoundRobin, slowStart: {window: 30s}}").unwrap();
        assert_eq!(build_slow_start(Some(&spec)), Some(GatewayDuration::from_secs(30)));
    }
}
