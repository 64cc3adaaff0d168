//! What the fuzz target `state_decode` does with its input.
//!
//! Purpose: read what a damaged disk or a wrong writer may have left. Inputs: any bytes. Outputs: none; it panics
//! where a state that was accepted is not the same after it was written and read once more.

#![allow(clippy::unwrap_used, reason = "a fuzz target ends by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use understudy_conf::store::{ROOT_FILE, Read, Reader, Writer, from_text};
use understudy_conf::{Backend, CaBundle, Certificate, Gateway, Guard, Policy, Pool, Route, State};

/// Files are slow, so most inputs are decoded only: one of so many is written.
const WRITTEN: usize = 8;

/// Takes the input for a root, and for a state in one document.
pub fn state_decode(data: &[u8]) {
    let state = std::str::from_utf8(data).ok().and_then(parse);
    if !data.len().is_multiple_of(WRITTEN) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(ROOT_FILE), data).unwrap();
    // There are no other files, so a root that is accepted names none.
    if let Ok(Read::State(state)) = Reader::new(folder.path()).read() {
        assert_eq!(*state, State { version: state.version, ..State::default() });
    }
    if let Some(state) = state.filter(|state| state.validate_references().is_ok()) {
        assert_survives(&state, folder.path());
    }
}

fn assert_survives(state: &State, folder: &Path) {
    let folder = folder.join("state");
    let mut writer = Writer::open(&folder).unwrap();
    let version = writer.publish(state).unwrap().version;
    let mut reader = Reader::new(&folder);
    match reader.read() {
        Ok(Read::State(read)) => assert_eq!(*read, State { version, ..state.clone() }),
        other => panic!("a state that was written cannot be read: {other:?}"),
    }
}

/// A state in one document, as golden files have it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    gateways: Vec<Gateway>,
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    pools: Vec<Pool>,
    #[serde(default)]
    policies: Vec<Policy>,
    #[serde(default)]
    backends: Vec<Backend>,
    #[serde(default)]
    certificates: Vec<Certificate>,
    #[serde(default)]
    ca_bundles: Vec<CaBundle>,
    #[serde(default)]
    guards: Vec<Guard>,
}

/// The state that a document makes, if it can be read.
fn parse(text: &str) -> Option<State> {
    let document: Document = from_text(text).ok()?;
    Some(State {
        version: 0,
        gateways: by_name(document.gateways, |gateway| gateway.name.clone()),
        routes: by_name(document.routes, |route| route.name.clone()),
        pools: by_name(document.pools, |pool| pool.name.clone()),
        policies: by_name(document.policies, |policy| policy.name.clone()),
        backends: by_name(document.backends, |backend| backend.name.clone()),
        certificates: by_name(document.certificates, |certificate| certificate.name.clone()),
        ca_bundles: by_name(document.ca_bundles, |bundle| bundle.name.clone()),
        guards: by_name(document.guards, |guard| guard.name.clone()),
    })
}

fn by_name<N: Ord, T>(objects: Vec<T>, name: impl Fn(&T) -> N) -> BTreeMap<N, Arc<T>> {
    objects.into_iter().map(|object| (name(&object), Arc::new(object))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seeds_are_states_that_survive_being_written_and_read() {
        let mut states = 0;
        for folder in ["seeds", "../../controller/tests/golden"] {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if !path.to_string_lossy().ends_with(".out.yaml") {
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                state_decode(text.as_bytes());
                let Some(state) = parse(&text) else { continue };
                assert_survives(&state, tempfile::tempdir().unwrap().path());
                states += 1;
            }
        }
        // Golden files leave the certificates' content out, so those with certificates are none.
        assert!(states > 20, "{states}");
    }
}
