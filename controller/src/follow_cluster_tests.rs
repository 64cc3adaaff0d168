#![allow(clippy::unwrap_used, reason = "tests end there")]

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::CONTROLLER_NAME;
use crate::cluster::Key;
use crate::watch::Kind;
use crate::watch::kubernetes::Event;

/// A store of which every kind was listed, with a class of ours.
fn listed() -> Store {
    let mut store = Store::new("understudy-system");
    for kind in Kind::all() {
        store.take(Event::Listed(kind, BTreeSet::new()));
    }
    let class = json!({"metadata": {"name": "ours"}, "spec": {"controllerName": CONTROLLER_NAME}});
    apply(&mut store, Kind::GatewayClass, class);
    store
}

fn apply(store: &mut Store, kind: Kind, object: Value) -> Change {
    store.take(Event::Applied(kind, serde_json::from_value(object).unwrap()))
}

/// A Gateway with one listener.
fn gateway(version: u32, port: u16) -> Value {
    json!({
        "metadata": {"name": "eg", "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"gatewayClassName": "ours", "listeners": [{"name": "http", "protocol": "HTTP", "port": port}]},
    })
}

fn ports(pass: &Pass) -> Vec<u16> {
    let gateway = &pass.graph.gateways[&Key::new("default", "eg")];
    gateway.listeners.iter().map(|listener| listener.port).collect()
}

#[tokio::test]
async fn after_a_state_that_could_not_be_written_statuses_that_change_are_no_reason_to_call_it_written() {
    let folder = tempfile::tempdir().unwrap();
    let (state, away) = (folder.path().join("state"), folder.path().join("away"));
    let mut store = listed();
    apply(&mut store, Kind::Gateway, gateway(1, 8080));
    let options = Options { live: true, ..Options::default() };
    let passer = Passer::new(Publisher::open(&state).unwrap(), options);
    let (passer, first) = passer.run(Change::Meaning, &store).await.unwrap();
    let first = first.unwrap().pass;
    assert_eq!(ports(&first), [8080]);
    // A file where the folder was.
    fs::rename(&state, &away).unwrap();
    fs::write(&state, "").unwrap();
    apply(&mut store, Kind::Gateway, gateway(2, 8081));
    let (passer, none) = passer.run(Change::Meaning, &store).await.unwrap();
    assert!(none.is_none() && passer.failed);
    let (passer, none) = passer.run(Change::Status, &store).await.unwrap();
    assert!(none.is_none(), "a pass tells of the new Gateway with the old version");
    fs::remove_file(&state).unwrap();
    fs::rename(&away, &state).unwrap();
    let (passer, pass) = passer.run(Change::Status, &store).await.unwrap();
    let pass = pass.unwrap().pass;
    assert_eq!((ports(&pass), pass.version), (vec![8081], first.version + 1));
    // From then on, statuses are statuses.
    let (_, again) = passer.run(Change::Status, &store).await.unwrap();
    assert!(Arc::ptr_eq(&again.unwrap().pass.graph, &pass.graph));
}

fn route(name: &str, version: u32, host: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default", "resourceVersion": version.to_string()},
        "spec": {"hostnames": [host]},
    })
}

#[tokio::test(start_paused = true)]
async fn no_state_is_of_half_a_list_and_none_waits_long_for_its_end() {
    let mut store = listed();
    let mut pending = Pending::default();
    let began = Instant::now();
    let millis = Duration::from_millis;
    // Listed again, a host has moved from one route to the other.
    assert_eq!(store.take(Event::Listing(Kind::HttpRoute)), Change::Nothing);
    assert_eq!(pending.due_at(&store, true), None);
    pending.note(apply(&mut store, Kind::HttpRoute, route("a", 1, "none")), began);
    assert_eq!(pending.due_at(&store, true), Some(began + LIST));
    pending.note(apply(&mut store, Kind::HttpRoute, route("b", 2, "moved")), began + millis(500));
    assert_eq!(pending.due_at(&store, true), Some(began + LIST));
    let keys: BTreeSet<_> = ["a", "b"].map(|name| Key::new("default", name)).into();
    pending.note(store.take(Event::Listed(Kind::HttpRoute, keys)), began + millis(700));
    assert_eq!(pending.due_at(&store, true), Some(began + TOGETHER));
    assert_eq!(pending.take(), Change::Meaning);
    // Statuses wait as well: a pass over them would end the waiting.
    store.take(Event::Listing(Kind::HttpRoute));
    let mut object = route("a", 3, "none");
    object["status"] = json!({"parents": [], "seen": 1});
    pending.note(apply(&mut store, Kind::HttpRoute, object), began);
    assert_eq!(pending.due_at(&store, true), Some(began + LIST));
    store.take(Event::Absent(Kind::HttpRoute));
    assert_eq!(pending.due_at(&store, true), Some(began + STATUSES));
    assert_eq!(pending.take(), Change::Status);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_never_ends_is_waited_for_once() {
    let mut store = listed();
    let mut pending = Pending::default();
    let began = Instant::now();
    store.take(Event::Listing(Kind::EndpointSlice));
    pending.note(apply(&mut store, Kind::HttpRoute, route("a", 1, "one")), began);
    pending.due(&store, true).await;
    assert_eq!(began.elapsed(), LIST);
    pending.take();
    store.stop_waiting();
    let again = Instant::now();
    pending.note(apply(&mut store, Kind::HttpRoute, route("a", 2, "two")), again);
    pending.due(&store, true).await;
    assert!(again.elapsed() < Duration::from_millis(50), "{:?}", again.elapsed());
    // Of Secrets and ConfigMaps no list changes what is served.
    store.take(Event::Listing(Kind::Secret));
    assert!(!store.is_listing());
}
