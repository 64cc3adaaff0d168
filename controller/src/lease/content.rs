//! What a sidecar's Lease says, as annotations.
//!
//! Bounded: an object's annotations may have 256 KiB together. What does not fit is left out, which can only make a
//! Gateway look as if it were not served yet.

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;

use super::ServingSidecar;
use crate::cluster::Key;

/// The label by which Leases of sidecars are found.
pub(super) const LABEL: &str = "understudy.dev/sidecar";
/// The node.
const NODE: &str = "understudy.dev/node";
/// `{"NAMESPACE/NAME": GENERATION}` of the Gateways that are served.
const GATEWAYS: &str = "understudy.dev/gateways";
/// The same of ListenerSets.
const SETS: &str = "understudy.dev/listenersets";
/// Sentences about what could not act.
const DEGRADED: &str = "understudy.dev/degraded";
/// What the proxy says of its pools.
const POOLS: &str = "understudy.dev/pools";

const MAX_GATEWAYS: usize = 128 * 1024;
const MAX_POOLS: usize = 64 * 1024;
const MAX_DEGRADED: usize = 20;
const MAX_SENTENCE: usize = 300;

/// The annotations of a sidecar's Lease.
pub(super) fn to_annotations(sidecar: &ServingSidecar) -> BTreeMap<String, String> {
    let mut room = MAX_GATEWAYS;
    let gateways = named(&sidecar.gateways, &mut room);
    let sets = named(&sidecar.sets, &mut room);
    let degraded: Vec<_> = sidecar
        .degraded
        .iter()
        .take(MAX_DEGRADED)
        .map(|text| text.chars().take(MAX_SENTENCE).collect::<String>())
        .collect();
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_default();
    let mut annotations: BTreeMap<String, String> = [
        (NODE.to_owned(), sidecar.node.clone()),
        (GATEWAYS.to_owned(), json(serde_json::to_string(&gateways))),
    ]
    .into();
    if !sets.is_empty() {
        annotations.insert(SETS.to_owned(), json(serde_json::to_string(&sets)));
    }
    if !degraded.is_empty() {
        annotations.insert(DEGRADED.to_owned(), json(serde_json::to_string(&degraded)));
    }
    if let Some(pools) = sidecar.pools.as_ref().filter(|pools| pools.len() <= MAX_POOLS) {
        annotations.insert(POOLS.to_owned(), pools.clone());
    }
    annotations
}

/// Generations by name, as many as there is room for.
fn named(generations: &BTreeMap<Key, i64>, room: &mut usize) -> BTreeMap<String, i64> {
    let mut named = BTreeMap::new();
    for (key, generation) in generations {
        let name = key.to_string();
        let Some(left) = room.checked_sub(name.len() + 24) else {
            log::warn!("more is served than a Lease can name; the rest seems not to be served");
            break;
        };
        *room = left;
        named.insert(name, *generation);
    }
    named
}

/// What a Lease says of its sidecar; `None` if it is no sidecar's. What cannot be read counts as not served.
pub(super) fn from_lease(lease: &Lease) -> Option<ServingSidecar> {
    let annotations = lease.metadata.annotations.as_ref()?;
    let read = |name: &str| annotations.get(name).map(String::as_str);
    let generations = |name: &str| {
        let named: BTreeMap<String, i64> =
            read(name).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        let keyed = named.into_iter().filter_map(|(name, generation)| {
            let (namespace, name) = name.split_once('/')?;
            Some((Key::new(namespace, name), generation))
        });
        keyed.collect::<BTreeMap<_, _>>()
    };
    Some(ServingSidecar {
        node: read(NODE)?.to_owned(),
        gateways: generations(GATEWAYS),
        sets: generations(SETS),
        degraded: read(DEGRADED).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
        pools: read(POOLS).map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(sidecar: &ServingSidecar) -> ServingSidecar {
        let mut lease = Lease::default();
        lease.metadata.annotations = Some(to_annotations(sidecar));
        from_lease(&lease).unwrap()
    }

    #[test]
    fn what_a_sidecar_writes_the_leader_reads() {
        let sidecar = ServingSidecar {
            node: "n1".into(),
            gateways: [(Key::new("default", "eg"), 3), (Key::new("infra", "eg"), 1)].into(),
            sets: [(Key::new("shop", "eg"), 2)].into(),
            degraded: vec!["0.0.0.0:80 is taken".into()],
            pools: Some("{}".into()),
        };
        assert_eq!(round_trip(&sidecar), sidecar);
        assert_eq!(from_lease(&Lease::default()), None);
    }

    #[test]
    fn however_much_there_is_to_say_the_annotations_stay_below_their_limit() {
        let sidecar = ServingSidecar {
            node: "n1".into(),
            gateways: (0..20_000)
                .map(|n| (Key::new("default", &format!("gateway-{n:08}")), i64::MAX))
                .collect(),
            sets: [(Key::new("shop", "eg"), 2)].into(),
            degraded: vec!["x".repeat(10_000); 1000],
            pools: Some("y".repeat(MAX_POOLS + 1)),
        };
        let annotations = to_annotations(&sidecar);
        let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert!(size < 256 * 1024, "{size}");
        let read = round_trip(&sidecar);
        assert!((1000..20_000).contains(&read.gateways.len()), "{}", read.gateways.len());
        assert_eq!((read.degraded.len(), read.pools), (MAX_DEGRADED, None));
    }
}
