//! Controller and proxy as two processes, killed at any moment while the manifests change.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{
    GATEWAY, HOST, Process, backend, backend_manifest, eventually, policy_manifest, understudy, write,
};
use tempfile::TempDir;
use tokio::time::sleep;
use understudy_testbed::{Backend, Client, Response};

const KILLS: usize = 200;

fn log_to(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

/// A generation stamps its number through a filter of its route, and through a backend of its own.
async fn generation(number: usize, port: u16) -> (Backend, String) {
    let active = backend("active").await;
    active.set_generation(Some(number.to_string()));
    let route = format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: ha-example}}\nspec:\n  parentRefs: \
         [{{name: eg}}]\n  rules:\n  - filters:\n    - {{type: ResponseHeaderModifier, responseHeaderModifier: {{set: \
         [{{name: x-route-generation, value: \"{number}\"}}]}}}}\n    backendRefs:\n    - {{group: \
         gateway.envoyproxy.io, kind: Backend, name: active}}\n---\n"
    );
    let manifests =
        [GATEWAY, &backend_manifest("active", false, &[active.address()]), &route, &policy_manifest("")]
            .concat();
    (active, manifests.replace("GATEWAY_PORT", &port.to_string()))
}

fn assert_unmixed(response: &Response) -> Option<usize> {
    let of = |name| response.header(name).map(|value| value.parse::<usize>().unwrap());
    let (route, backend) = (of("x-route-generation"), of("x-backend-generation"));
    if response.status == 200 {
        assert!(route.is_some() && route == backend, "route {route:?}, backend {backend:?}");
    }
    route
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_kills_of_controller_or_proxy_mix_no_generations_and_leave_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let manifests = folder.path().join("manifests");
    std::fs::create_dir(&manifests).unwrap();
    let (state, log) = (folder.path().join("state"), folder.path().join("log"));
    let (address, admin) = (common::free_address(), common::free_address());
    let start_controller = || {
        let mut command = understudy(&["controller", "--manifests"]);
        command.arg(&manifests).arg("--state").arg(&state).stderr(log_to(&log));
        Process::start(command)
    };
    let start_proxy = || {
        let mut command = understudy(&["proxy", "--access-log", "off", "--threads", "1", "--state"]);
        command.arg(&state).arg("--admin").arg(admin.to_string()).stderr(log_to(&log));
        Process::start(command)
    };
    let mut backends = Vec::new();
    let (first, text) = generation(0, address.port()).await;
    backends.push(first);
    write(&manifests, &text);
    let (mut controller, mut proxy) = (start_controller(), start_proxy());
    eventually("readiness", || common::ready(admin)).await;

    let running = Arc::new(AtomicBool::new(true));
    let client = {
        let running = running.clone();
        tokio::spawn(async move {
            let mut served = 0_usize;
            while running.load(Ordering::Relaxed) {
                // The proxy may be dead at the moment.
                let Ok(mut client) = Client::connect(address).await else {
                    sleep(Duration::from_millis(1)).await;
                    continue;
                };
                while let Ok(response) = client.get(HOST, "/test").await {
                    assert_unmixed(&response);
                    served += 1;
                    if !running.load(Ordering::Relaxed) || !response.keeps_alive() {
                        break;
                    }
                }
            }
            served
        })
    };
    for number in 1..=KILLS {
        let (active, text) = generation(number, address.port()).await;
        backends.push(active);
        write(&manifests, &text);
        // Before, while and after the change is read, written and taken.
        sleep(Duration::from_millis(fastrand::u64(0..120))).await;
        if number % 2 == 0 {
            controller.kill();
            controller = start_controller();
        } else {
            proxy.kill();
            proxy = start_proxy();
        }
        assert!(!client.is_finished(), "the client has found a mixed answer");
    }
    // One more after the last kill: when it is served, both processes are past their start, and stop when told.
    for last in [KILLS, KILLS + 1] {
        if last > KILLS {
            let (active, text) = generation(last, address.port()).await;
            backends.push(active);
            write(&manifests, &text);
        }
        eventually("the last generation", || async {
            let response = understudy_testbed::get(address, HOST, "/test").await;
            response.is_ok_and(|response| assert_unmixed(&response) == Some(last))
        })
        .await;
    }
    running.store(false, Ordering::Relaxed);
    let served = client.await.unwrap();
    assert!(served > KILLS, "{served} answers");
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(!said.contains("panicked"), "{said}");
    assert_nothing_left(&state).await;
    proxy.terminate();
    controller.terminate();
    assert!(proxy.wait().await.success() && controller.wait().await.success());
}

/// What is on disk is the last two versions and nothing else.
async fn assert_nothing_left(state: &Path) {
    let count = |folder: &Path| {
        let mut files = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path())
                } else {
                    files.push(entry.path())
                }
            }
        }
        files
    };
    eventually("the removal of old files", || async { count(state).len() < 40 }).await;
    for file in count(state) {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!name.contains("tmp"), "{name}");
    }
}
