//! The drill as a user starts it.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// The drill with these arguments, killed when dropped.
fn drill(arguments: &[&str]) -> Command {
    let binary = Path::new(env!("CARGO_BIN_EXE_understudy-loadtest"));
    if !binary.with_file_name("understudy").is_file() {
        let mut build =
            std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        assert!(build.args(["build", "--quiet", "-p", "understudy"]).status().unwrap().success());
    }
    let mut command = Command::new(binary);
    command.arg("drill").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The processes that a process started and that are not gone.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[tokio::test]
async fn one_case_makes_a_table_and_a_page() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    let (out, page) = (path("drill.md"), path("drill.html"));
    let arguments = [
        "--proxy",
        "understudy",
        "--short",
        "2",
        "--out",
        out.to_str().unwrap(),
        "--html",
        page.to_str().unwrap(),
    ];
    let output = timeout(PATIENCE, drill(&arguments).output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        text.contains("| **2** 10 requests, primary's port closes, 10 requests | no retry | 0 of 20 |"),
        "{text}"
    );
    assert!(std::fs::read_to_string(out).unwrap().contains("drill --proxy understudy --short 2`"));
    assert_eq!(std::fs::read_to_string(page).unwrap().matches("<svg").count(), 2);
}

#[tokio::test]
async fn a_drill_that_is_terminated_leaves_no_process_behind() {
    let mut drill = drill(&["--proxy", "understudy", "3"]).stdout(Stdio::null()).spawn().unwrap();
    let pid = drill.id().unwrap();
    let start = Instant::now();
    // Two runs at a time, each with a controller and a proxy.
    while children(pid).len() < 4 {
        assert!(start.elapsed() < PATIENCE, "the drill starts no proxies");
        sleep(Duration::from_millis(10)).await;
    }
    let started = children(pid);
    let status = std::process::Command::new("kill").arg(pid.to_string()).status().unwrap();
    assert!(status.success());
    let status = timeout(PATIENCE, drill.wait()).await.expect("the drill does not end").unwrap();
    assert_eq!(status.code(), Some(1));
    for child in started {
        while std::fs::read(format!("/proc/{child}/cmdline")).is_ok_and(|line| !line.is_empty()) {
            assert!(start.elapsed() < PATIENCE, "process {child} is still there");
            sleep(Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test]
async fn an_unknown_case_is_answered_with_the_known_ones() {
    let output = timeout(PATIENCE, drill(&["--proxy", "understudy", "no-such-case"]).output()).await.unwrap();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(text.contains("no case \"no-such-case\"") && text.contains("mixed-kinds"), "{text}");
}
