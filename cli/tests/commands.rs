//! What the commands print, and how they exit.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::io::Write;
use std::process::{Output, Stdio};

use common::{Gateway, backend, task, understudy};

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn check(arguments: &[&str], manifests: &str) -> Output {
    let mut command = understudy(&[&["check", "-"], arguments].concat());
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(manifests.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn good() -> String {
    task(&[([127, 0, 0, 1], 1).into()], ([127, 0, 0, 1], 2).into(), "").replace("GATEWAY_PORT", "8080")
}

#[test]
fn warnings_alone_exit_zero_unless_strict() {
    let output = check(&[], &good());
    assert!(output.status.success(), "{}", text(&output));
    assert!(text(&output).contains("consecutiveLocalOriginFailures"), "{}", text(&output));
    assert!(text(&output).contains("0 errors, 1 warning: 1 route on 1 gateway"), "{}", text(&output));
    assert!(!check(&["--strict"], &good()).status.success());
}

#[test]
fn an_error_exits_non_zero_and_names_object_field_and_remedy() {
    let output = check(&[], &good().replace("fallback: true", "fallbck: true"));
    let said = text(&output);
    assert!(said.contains("fallbck") && said.contains("fallback"), "{said}");
    let missing = check(&[], &good().replace("name: active}\nspec:", "name: other}\nspec:"));
    let said = text(&missing);
    assert!(!missing.status.success(), "{said}");
    for part in ["HTTPRoute default/ha-example", "spec.rules[0].backendRefs[0]", "BackendNotFound", "Backend"]
    {
        assert!(said.contains(part), "{part} is missing in: {said}");
    }
}

#[test]
fn every_example_passes() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../conf/examples");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let output = understudy(&["check", path.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), text(&output));
        count += 1;
    }
    assert!(count >= 5, "{count} examples");
}

#[tokio::test]
async fn pools_are_shown_as_a_table_and_as_json() {
    let (active, passive) = (backend("active").await, backend("passive").await);
    let gateway = Gateway::start(&task(&[active.address()], passive.address(), ""), &[]).await;
    active.kill().await;
    assert_eq!(gateway.pod("/test").await, "passive");
    let admin = gateway.admin.to_string();
    let show = |arguments: &'static [&'static str]| {
        let admin = admin.clone();
        tokio::task::spawn_blocking(move || {
            understudy(&[&["pools", "--admin", &admin], arguments].concat()).output().unwrap()
        })
    };
    let table = text(&show(&[]).await.unwrap());
    for part in [
        "httproute/default/ha-example/rule/0",
        "serving: FALLBACK",
        "connection refused",
        "ejected",
        "healthy",
    ] {
        assert!(table.contains(part), "{part} is missing in:\n{table}");
    }
    assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    let json: serde_json::Value =
        serde_json::from_slice(&show(&["-o", "json"]).await.unwrap().stdout).unwrap();
    assert_eq!(json["pools"][0]["state"], "fallback");
}

#[test]
fn pools_without_a_proxy_say_how_to_get_one() {
    let admin = common::free_address().to_string();
    let output = understudy(&["pools", "--admin", &admin]).output().unwrap();
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&admin) && said.contains("--admin"), "{said}");
}

#[test]
fn the_demo_goes_as_promised() {
    let output = understudy(&["demo", "--once"]).output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches("\"active-").count(), 20, "{said}");
    assert_eq!(said.matches("\"passive-").count(), 10, "{said}");
    assert!(!said.contains("FAILED"), "{said}");
}
