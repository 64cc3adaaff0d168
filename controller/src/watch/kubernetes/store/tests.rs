//! Events, and what they change.

use super::*;

fn raw(text: &str) -> RawObject {
    serde_json::from_str(text).unwrap()
}

fn route(version: u32, host: &str, status: u32) -> RawObject {
    raw(&format!(
        r#"{{"metadata": {{"name": "r", "namespace": "default", "resourceVersion": "{version}"}},
            "spec": {{"hostnames": ["{host}"]}}, "status": {{"parents": [], "seen": {status}}}}}"#
    ))
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

/// A store of which every kind was listed.
fn listed() -> Store {
    let mut store = Store::new("default");
    for kind in Kind::all() {
        assert!(store.unlisted().any(|unlisted| unlisted == kind));
        assert_eq!(store.take(Event::Listed(kind, BTreeSet::new())), Change::Meaning);
    }
    assert_eq!(store.unlisted().count(), 0);
    store
}

fn status_of(store: &Store) -> Option<crate::watch::NodeValue> {
    let cluster = store.cluster();
    let status = cluster.http_routes[&key("r")].status()?;
    Some(status.child("seen")?.value.clone())
}

#[test]
fn an_object_is_read_again_only_if_it_means_something_else() {
    let mut store = listed();
    let apply = |store: &mut Store, object| store.take(Event::Applied(Kind::HttpRoute, object));
    assert_eq!(apply(&mut store, route(1, "a", 1)), Change::Meaning);
    let first = store.cluster().http_routes[&key("r")].value.clone();
    assert_eq!(apply(&mut store, route(2, "a", 1)), Change::Nothing);
    assert_eq!(store.take(Event::Listed(Kind::HttpRoute, [key("r")].into())), Change::Nothing);
    assert_eq!(apply(&mut store, route(4, "a", 2)), Change::Status);
    assert!(Arc::ptr_eq(&first, &store.cluster().http_routes[&key("r")].value));
    assert_eq!(status_of(&store), Some(NodeValue::Int(2)));
    assert_eq!(apply(&mut store, route(5, "b", 2)), Change::Meaning);
    assert!(!Arc::ptr_eq(&first, &store.cluster().http_routes[&key("r")].value));
    assert_eq!(store.take(Event::Deleted(Kind::HttpRoute, route(6, "b", 2))), Change::Meaning);
    assert_eq!(store.take(Event::Deleted(Kind::HttpRoute, route(7, "b", 2))), Change::Nothing);
    assert!(store.cluster().http_routes.is_empty());
}

#[test]
fn a_kind_that_may_not_be_listed_is_gone_without_unless_it_guards_or_leads_others() {
    let mut store = Store::new("default");
    let dispensable = [
        Kind::ListenerSet,
        Kind::GrpcRoute,
        Kind::TlsRoute,
        Kind::TcpRoute,
        Kind::UdpRoute,
        Kind::ServiceCidr,
    ];
    for kind in Kind::all() {
        let expected = if dispensable.contains(&kind) { Change::Meaning } else { Change::Nothing };
        assert_eq!(store.take(Event::Forbidden(kind)), expected, "{kind}");
        assert_eq!(store.take(Event::Forbidden(kind)), Change::Nothing);
        assert_eq!(store.unlisted().any(|unlisted| unlisted == kind), expected == Change::Nothing, "{kind}");
    }
    // The right comes later.
    assert_eq!(store.take(Event::Listed(Kind::TcpRoute, BTreeSet::new())), Change::Meaning);
    // What was known stays where the right goes.
    store.take(Event::Listed(Kind::HttpRoute, BTreeSet::new()));
    store.take(Event::Applied(Kind::HttpRoute, route(1, "a", 1)));
    assert_eq!(store.take(Event::Forbidden(Kind::HttpRoute)), Change::Nothing);
    assert_eq!(store.cluster().http_routes.len(), 1);
}

#[test]
fn what_a_pass_holds_does_not_change_with_the_next_one() {
    let mut store = listed();
    store.take(Event::Applied(Kind::HttpRoute, route(1, "a", 1)));
    let held = store.cluster();
    store.take(Event::Applied(Kind::HttpRoute, route(2, "a", 2)));
    store.take(Event::Absent(Kind::HttpRoute));
    assert_eq!(held.http_routes.len(), 1);
    assert!(store.cluster().http_routes.is_empty());
    // What did not change is shared.
    assert!(Arc::ptr_eq(&held.services, &store.cluster().services));
}

#[test]
fn an_object_that_breaks_a_rule_keeps_its_last_good_version_with_the_newest_metadata() {
    let mut store = listed();
    let backend = |version: u32, port: &str| {
        raw(&format!(
            r#"{{"metadata": {{"name": "b", "namespace": "default", "resourceVersion": "{version}"}},
                "spec": {{"endpoints": [{{"ip": {{"address": "10.0.0.1", "port": {port}}}}}]}}}}"#
        ))
    };
    for (version, port) in [(1, "1"), (2, "\"many\""), (3, "70000")] {
        assert_eq!(store.take(Event::Applied(Kind::Backend, backend(version, port))), Change::Meaning);
        let cluster = store.cluster();
        let served = &cluster.backends[&key("b")];
        let endpoints = served.value.spec.endpoints.as_ref().unwrap();
        assert_eq!(endpoints[0].ip.as_ref().unwrap().port, 1);
        let metadata = served.tree().child("metadata").unwrap();
        assert_eq!(metadata.text("resourceVersion"), Some(&*version.to_string()));
        let kept = store.diagnostics().iter().any(|said| said.reason == Reason::LastGoodKept);
        assert_eq!(kept, version > 1);
    }
    let mut store = listed();
    store.take(Event::Applied(Kind::Backend, backend(1, "\"many\"")));
    assert_eq!(store.cluster().refused.len(), 1);
    store.take(Event::Applied(Kind::Backend, backend(2, "1")));
    assert!(store.cluster().refused.is_empty() && store.diagnostics().is_empty());
}

#[test]
fn contents_are_asked_for_once_per_version_and_forgotten_with_the_last_reference() {
    let mut store = listed();
    let map = |version: u32| {
        raw(&format!(
            r#"{{"metadata": {{"name": "ca", "namespace": "default", "resourceVersion": "{version}"}}}}"#
        ))
    };
    let backend = |reference: &str| {
        raw(&format!(
            r#"{{"metadata": {{"name": "b", "namespace": "default"}}, "spec": {{"endpoints": [],
                "tls": {{"caCertificateRefs": [{{"group": "", "kind": "ConfigMap", "name": "{reference}"}}]}}}}}}"#
        ))
    };
    let id = ObjectId { kind: Kind::ConfigMap, key: key("ca") };
    assert_eq!(store.take(Event::Applied(Kind::ConfigMap, map(1))), Change::Nothing);
    assert_eq!(store.take_questions(), []);
    store.take(Event::Applied(Kind::Backend, backend("ca")));
    assert_eq!(store.take_questions(), std::slice::from_ref(&id));
    assert_eq!(store.take_questions(), []);
    assert!(store.is_waiting());
    assert_eq!(store.take(Event::Content(id.clone(), Content::Found(map(1)))), Change::Meaning);
    assert!(!store.is_waiting() && store.cluster().config_maps.len() == 1);
    // A newer version is read, and the older one serves until then.
    store.take(Event::Applied(Kind::ConfigMap, map(2)));
    assert_eq!(store.take_questions(), std::slice::from_ref(&id));
    assert!(!store.is_waiting());
    store.take(Event::Applied(Kind::Backend, backend("other")));
    assert_eq!(store.take_questions(), []);
    assert!(store.cluster().config_maps.is_empty());
    assert_eq!(store.take(Event::Content(id.clone(), Content::Found(map(2)))), Change::Nothing);
    store.take(Event::Applied(Kind::Backend, backend("ca")));
    assert_eq!(store.take_questions(), std::slice::from_ref(&id));
    assert_eq!(store.take(Event::Content(id, Content::Refused("no".into()))), Change::Meaning);
    assert!(!store.is_waiting());
}

#[test]
fn contents_that_were_refused_are_asked_for_again_while_they_are_needed_and_nobody_waits_for_them() {
    let mut store = listed();
    let map = || {
        raw(r#"{"metadata": {"name": "understudy-config", "namespace": "default", "resourceVersion": "1"}}"#)
    };
    let id = ObjectId { kind: Kind::ConfigMap, key: key(SWITCH_NAME) };
    store.take(Event::Applied(Kind::ConfigMap, map()));
    assert_eq!(store.take_questions(), std::slice::from_ref(&id));
    assert_eq!(store.refused_contents(), []);
    let refuse =
        |store: &mut Store| store.take(Event::Content(id.clone(), Content::Refused("forbidden".into())));
    assert_eq!(refuse(&mut store), Change::Meaning);
    assert_eq!(store.take_questions(), []);
    for _ in 0..3 {
        assert_eq!(store.refused_contents(), std::slice::from_ref(&id));
        assert!(!store.is_waiting());
        assert_eq!(refuse(&mut store), Change::Nothing);
    }
    store.take(Event::Content(id.clone(), Content::Found(map())));
    assert_eq!(store.refused_contents(), []);
    refuse(&mut store);
    store.take(Event::Deleted(Kind::ConfigMap, map()));
    assert_eq!(store.refused_contents(), []);
}

#[test]
fn slices_follow_their_label_from_service_to_service() {
    let mut store = listed();
    let slice = |service: &str| {
        raw(&format!(
            r#"{{"metadata": {{"name": "s", "namespace": "default", "labels": {{"kubernetes.io/service-name": "{service}"}}}},
                "addressType": "IPv4", "endpoints": []}}"#
        ))
    };
    for service in ["a", "b"] {
        store.take(Event::Applied(Kind::EndpointSlice, slice(service)));
        let cluster = store.cluster();
        let found = ["a", "b"].map(|service| cluster.slices_of(&key(service)).len());
        assert_eq!(found, if service == "a" { [1, 0] } else { [0, 1] });
    }
    store.take(Event::Deleted(Kind::EndpointSlice, slice("b")));
    assert!(store.cluster().slices_of(&key("b")).is_empty());
}

#[test]
fn the_status_of_a_node_means_something() {
    let node = |version: u32, address: &str| {
        raw(&format!(
            r#"{{"metadata": {{"name": "n", "resourceVersion": "{version}"}},
                "status": {{"addresses": [{{"type": "InternalIP", "address": "{address}"}}]}}}}"#
        ))
    };
    let mut store = listed();
    store.take(Event::Applied(Kind::Node, node(1, "10.0.0.1")));
    assert_eq!(store.take(Event::Applied(Kind::Node, node(2, "10.0.0.1"))), Change::Nothing);
    assert_eq!(store.take(Event::Applied(Kind::Node, node(3, "10.0.0.2"))), Change::Meaning);
    let cluster = store.cluster();
    let status = cluster.nodes[&Key::new("", "n")].value.status.clone().unwrap();
    assert_eq!(status.addresses.unwrap()[0].address, "10.0.0.2");
}
