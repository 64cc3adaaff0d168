//! The soak test as a user starts it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the soak test with these arguments to its own end.
fn soak(arguments: &[&str]) -> Output {
    let binary = Path::new(env!("CARGO_BIN_EXE_understudy-loadtest"));
    if !binary.with_file_name("understudy").is_file() {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        assert!(build.args(["build", "--quiet", "-p", "understudy"]).status().unwrap().success());
    }
    Command::new(binary).arg("soak").args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn three_failovers_under_load_mix_up_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("soak.md");
    let output = soak(&[
        "--seconds",
        "6",
        "--rate",
        "200",
        "--failovers",
        "3",
        "--any-rate",
        "--out",
        out.to_str().unwrap(),
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let page = std::fs::read_to_string(out).unwrap();
    for line in [
        "| requests | 1200 due, 1200 answered or failed, 0 never sent |",
        "byte by byte | 0 |",
        "| failed | none |",
        "| primary broken (refuses, 503, resets, in turn) | 3 times |",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[test]
fn a_soak_without_end_is_refused() {
    let output = soak(&["--rate", "1000000000", "--seconds", "1000000000"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("must not be above"));
}
