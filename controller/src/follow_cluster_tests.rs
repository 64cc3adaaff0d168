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
