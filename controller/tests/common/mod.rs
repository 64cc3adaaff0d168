//! What the tests of translation share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "tests end there")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use understudy_conf::{Backend, Gateway, Guard, Policy, Pool, Route, State};
use understudy_controller::{Diagnostic, Options, Report, Source, check};

/// A state as text.
#[derive(Serialize)]
struct Document<'a> {
    gateways: Vec<&'a Gateway>,
    routes: Vec<&'a Route>,
    pools: Vec<&'a Pool>,
    policies: Vec<&'a Policy>,
    backends: Vec<&'a Backend>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ca_bundles: Vec<&'a str>,
    /// Without their keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    guards: Vec<&'a Guard>,
}

pub(crate) fn state_yaml(state: &State) -> String {
    serde_yaml::to_string(&Document {
        gateways: state.gateways.values().map(AsRef::as_ref).collect(),
        routes: state.routes.values().map(AsRef::as_ref).collect(),
        pools: state.pools.values().map(AsRef::as_ref).collect(),
        policies: state.policies.values().map(AsRef::as_ref).collect(),
        backends: state.backends.values().map(AsRef::as_ref).collect(),
        ca_bundles: state.ca_bundles.keys().map(AsRef::as_ref).collect(),
        certificates: state.certificates.keys().map(AsRef::as_ref).collect(),
        guards: state.guards.values().map(AsRef::as_ref).collect(),
    })
    .unwrap()
}

pub(crate) fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().fold(String::new(), |mut text, diagnostic| {
        let _ = writeln!(text, "{diagnostic}");
        text
    })
}

pub(crate) fn check_file(path: &Path) -> Report {
    let report = check(&[Source::Path(path.to_owned())], &Options::default());
    assert_eq!(report.state.validate_references(), Ok(()), "{}", path.display());
    report
}

/// Checks a manifest's text.
pub(crate) fn check_text(text: &str) -> Report {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    check_file(file.path())
}

/// The files of a folder whose names end so, sorted.
pub(crate) fn files(folder: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    files.sort();
    assert!(!files.is_empty(), "{folder} holds no *{suffix}");
    files
}

/// Compares a text with the file that holds what is expected, or writes it there with `UPDATE_GOLDEN=1`.
pub(crate) fn assert_golden(path: &Path, found: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, found).unwrap();
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == found,
        "{} differs; UPDATE_GOLDEN=1 rewrites it. Found:\n{found}\nexpected:\n{expected}",
        path.display()
    );
}
