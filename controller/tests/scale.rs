//! How much memory and time the controller of a cluster takes: a measurement, made on request.
//!
//! `UNDERSTUDY=PATH cargo test --release -p understudy-controller --test scale -- --ignored --nocapture` runs that binary on
//! an API server in this process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measurement prints, and ends"
)]

mod fake_api;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fake_api::FakeApi;
use tokio::time::{Instant, sleep, timeout};
use understudy_conf::State;
use understudy_conf::store::{ROOT_FILE, Read, Reader};

const ROUTES: usize = 5000;
const SERVICES: usize = 1000;
const NAMESPACES: usize = 50;
const SAMPLES: usize = 200;

const BASE: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: understudy}
spec: {controllerName: understudy.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec:
  gatewayClassName: understudy
  listeners: [{name: http, protocol: HTTP, port: 80, allowedRoutes: {namespaces: {from: All}}}]
";

fn service(number: usize, pods: usize) -> String {
    let namespace = number % NAMESPACES;
    let pods: Vec<_> = (0..pods)
        .map(|pod| {
            format!(
                "{{addresses: [10.{}.{}.{}], nodeName: node-{}, targetRef: {{kind: Pod, name: s{number}-{pod}, \
                 uid: 5f0b6a1e-0000-4000-8000-{number:06}{pod:06}}}, conditions: {{ready: true, serving: true, terminating: false}}}}",
                pod + 1,
                number / 250,
                number % 250 + 1,
                pod % 3
            )
        })
        .collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: s{number}, namespace: n{namespace}}}\n\
         spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: s{number}-1, namespace: n{namespace}, labels: {{kubernetes.io/service-name: s{number}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: 8080}}]\nendpoints: [{}]\n",
        pods.join(", ")
    )
}

fn route(number: usize) -> String {
    let service = number % SERVICES;
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{number}, namespace: n{}}}\n\
         spec: {{parentRefs: [{{name: eg, namespace: default}}], hostnames: [r{number}.example], rules: [{{matches: \
         [{{path: {{type: PathPrefix, value: /api}}}}], filters: [{{type: RequestHeaderModifier, requestHeaderModifier: \
         {{set: [{{name: x-route, value: r{number}}}]}}}}], backendRefs: [{{name: s{service}, port: 80}}]}}]}}\n\
         status: {{parents: [{{controllerName: understudy.dev/gateway-controller, parentRef: {{group: \
         gateway.networking.k8s.io, kind: Gateway, name: eg, namespace: default}}, conditions: [{}, {}]}}]}}\n",
        service % NAMESPACES,
        condition("Accepted", "The route is accepted."),
        condition("ResolvedRefs", "Every reference resolves.")
    )
}

/// A condition as it stands in a status.
fn condition(kind: &str, message: &str) -> String {
    format!(
        "{{type: {kind}, status: \"True\", reason: {kind}, message: {message}, observedGeneration: 1, \
         lastTransitionTime: \"2026-11-23T00:00:00Z\"}}"
    )
}

struct Controller(Child);

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Controller {
    fn start(api: &FakeApi, folder: &Path) -> Self {
        let config = folder.join("kubeconfig");
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{{name: a, cluster: {{server: 'http://{}'}}}}]\n\
             users: [{{name: a, user: {{}}}}]\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n",
            api.address
        );
        fs::write(&config, text).unwrap();
        let binary = std::env::var_os("UNDERSTUDY").expect("UNDERSTUDY names the binary");
        let child = Command::new(binary)
            .args(["controller", "--kubernetes", "--state"])
            .arg(folder.join("state"))
            .env("KUBECONFIG", config)
            .env("RUST_LOG", "warn,understudy_controller=debug")
            .stderr(Stdio::from(fs::File::create(folder.join("log")).unwrap()))
            .spawn()
            .unwrap();
        Self(child)
    }

    /// Resident memory, and processor time so far.
    fn usage(&self) -> (String, Duration) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let lines = status.lines().filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"));
        let memory: Vec<_> =
            lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        (memory.join(", "), Duration::from_millis(ticks * 10))
    }
}

async fn state_with(reader: &mut Reader, fits: impl Fn(&State) -> bool) {
    let root = reader.folder().join(ROOT_FILE);
    let found = timeout(Duration::from_secs(300), async {
        loop {
            if root.exists()
                && let Ok(Read::State(state)) = reader.read()
                && fits(&state)
            {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    });
    found.await.expect("a state in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn memory_and_latency_with_thousands_of_routes() {
    let api = FakeApi::start().await;
    api.apply(BASE);
    (0..SERVICES).for_each(|number| api.apply(&service(number, 2)));
    (0..ROUTES).for_each(|number| api.apply(&route(number)));
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let controller = Controller::start(&api, folder.path());
    let mut reader = Reader::new(folder.path().join("state"));
    state_with(&mut reader, |state| state.routes.len() == ROUTES).await;
    println!("first state after {:?}: {:?}", began.elapsed(), controller.usage());
    for (what, sample) in [("a new route", true), ("a changed slice", false)] {
        let (_, before) = controller.usage();
        let mut times = Vec::new();
        for number in 0..SAMPLES {
            let began = Instant::now();
            if sample {
                api.apply(&route(ROUTES + number));
                let name =
                    format!("httproute/n{}/r{}", (ROUTES + number) % SERVICES % NAMESPACES, ROUTES + number);
                state_with(&mut reader, |state| state.routes.contains_key(name.as_str())).await;
            } else {
                api.apply(&service(number, 3));
                let name = format!("service/n{}/s{number}/80", number % NAMESPACES);
                state_with(&mut reader, |state| state.backends[name.as_str()].endpoints.len() == 3).await;
            }
            times.push(began.elapsed());
            sleep(Duration::from_millis(50)).await;
        }
        times.sort();
        let (memory, after) = controller.usage();
        println!(
            "{what}: p50 {:?}, p99 {:?}, most {:?}; {:?} of a processor each; {memory}",
            times[SAMPLES / 2],
            times[SAMPLES * 99 / 100],
            times[SAMPLES - 1],
            (after - before) / u32::try_from(SAMPLES).unwrap()
        );
    }
    let log = fs::read_to_string(folder.path().join("log")).unwrap();
    let passes: Vec<_> = log.lines().filter(|line| line.contains("a pass over")).collect();
    for line in passes.iter().take(3).chain(passes.iter().rev().take(8)) {
        println!("{line}");
    }
}
