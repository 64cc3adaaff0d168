//! The failover task's objects, and the cases in which Envoy Gateway's failover silently breaks, through the whole
//! gateway: manifests in, answers out.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{
    BACKEND_REFS, GATEWAY, Gateway, all, backend, backend_manifest, eventually, policy_manifest,
    route_manifest, task, write,
};
use understudy_testbed::{Behaviour, DnsAnswer, DnsServer};

#[tokio::test]
async fn the_task_with_num_retries_zero_fails_exactly_one_of_ten_as_its_text_says() {
    let (active, passive) = (backend("active").await, backend("passive").await);
    let manifests = task(&[active.address()], passive.address(), "  retry: {numRetries: 0}\n");
    let gateway = Gateway::start(&manifests, &[]).await;
    assert_eq!(gateway.pods("/test", 10).await, all("active", 10));
    active.kill().await;
    let mut expected = all("passive", 10);
    "503".clone_into(&mut expected[0]);
    assert_eq!(gateway.pods("/test", 10).await, expected);
}

#[tokio::test]
async fn the_examples_names_are_resolved_as_the_command_line_says() {
    let passive = understudy_testbed::Backend::start_on(([127, 0, 0, 5], 0).into(), "passive").await.unwrap();
    let port = passive.address().port();
    let active =
        understudy_testbed::Backend::start_on(([127, 0, 0, 4], port).into(), "active").await.unwrap();
    let name = |name: &str| {
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{name: {name}}}\nspec:\n  \
             fallback: {}\n  endpoints: [{{fqdn: {{hostname: {name}.default.svc.cluster.local, port: {port}}}}}]\n---\n",
            name == "passive"
        )
    };
    let manifests = [
        GATEWAY.to_owned(),
        name("active"),
        name("passive"),
        route_manifest(BACKEND_REFS),
        policy_manifest(""),
    ]
    .concat();
    let by_hand = [
        "--resolve",
        "active.default.svc.cluster.local=127.0.0.4",
        "--resolve",
        "passive.default.svc.cluster.local=127.0.0.5",
    ];
    let gateway = Gateway::start(&manifests, &by_hand).await;
    assert_eq!(gateway.pods("/test", 3).await, all("active", 3));
    drop(gateway);

    let dns = DnsServer::start().await.unwrap();
    dns.set("active.default.svc.cluster.local", DnsAnswer::addresses(&["127.0.0.4".parse().unwrap()], 1));
    dns.set("passive.default.svc.cluster.local", DnsAnswer::addresses(&["127.0.0.5".parse().unwrap()], 1));
    let server = dns.address().to_string();
    let gateway = Gateway::start(&manifests, &["--dns", &server]).await;
    assert_eq!(gateway.pods("/test", 3).await, all("active", 3));
    // D3: a name without an address fails over, and comes back with its address.
    dns.set("active.default.svc.cluster.local", DnsAnswer::NxDomain);
    eventually("the failover", || async { gateway.pod("/test").await == "passive" }).await;
    assert_eq!(gateway.pods("/test", 3).await, all("passive", 3));
    dns.set("active.default.svc.cluster.local", DnsAnswer::addresses(&["127.0.0.4".parse().unwrap()], 1));
    eventually("the failback", || async { gateway.pod("/test").await == "active" }).await;
    // D4: a failure of the name server changes nothing.
    dns.set("active.default.svc.cluster.local", DnsAnswer::ServFail);
    assert!(dns.wait_for_queries("active.default.svc.cluster.local", 6, common::PATIENCE).await);
    assert_eq!(gateway.pods("/test", 3).await, all("active", 3));
    assert!(active.requests() > 0);
}

#[tokio::test]
async fn a_primary_that_cannot_be_served_fails_over_from_the_first_request() {
    // G6: in Envoy Gateway each of these turns the failover into a split, silently.
    let passive = backend("passive").await;
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: active}\nspec:\n  ports: [{name: http, port: 3000}]\n---\n";
    let slice = |endpoints: &str| {
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: active-1\n  labels: \
             {{kubernetes.io/service-name: active}}\naddressType: IPv4\nports: [{{name: http, port: 3000}}]\nendpoints: \
             {endpoints}\n---\n"
        )
    };
    let service_ref = "    - {name: active, port: 3000}\n    - {group: gateway.envoyproxy.io, kind: Backend, name: passive}\n";
    let with_filter = BACKEND_REFS.replace(
        "name: passive}",
        "name: passive, filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-fallback, value: \"yes\"}]}}]}",
    );
    let closed = common::free_address();
    let fallback = backend_manifest("passive", true, &[passive.address()]);
    for (what, manifests) in [
        (
            "a Service scaled to zero",
            [service, &slice("[]"), &fallback, &route_manifest(service_ref)].concat(),
        ),
        ("a missing Backend", [fallback.as_str(), &route_manifest(BACKEND_REFS)].concat()),
        ("a missing Service", [fallback.as_str(), &route_manifest(service_ref)].concat()),
        (
            "a filter on a reference",
            [&backend_manifest("active", false, &[closed]), fallback.as_str(), &route_manifest(&with_filter)]
                .concat(),
        ),
    ] {
        let manifests = [GATEWAY, &manifests, &policy_manifest("")].concat();
        let gateway = Gateway::start(&manifests, &[]).await;
        assert_eq!(gateway.pods("/test", 10).await, all("passive", 10), "{what}");
    }
}

#[tokio::test]
async fn a_service_with_a_name_as_fallback_fails_over() {
    let (active, passive) = (backend("active").await, backend("passive").await);
    let manifests = [
        GATEWAY.to_owned(),
        "apiVersion: v1\nkind: Service\nmetadata: {name: active}\nspec:\n  ports: [{name: http, port: 3000}]\n---\n".to_owned(),
        format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: active-1\n  labels: \
             {{kubernetes.io/service-name: active}}\naddressType: IPv4\nports: [{{name: http, port: {}}}]\nendpoints: \
             [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]\n---\n",
            active.address().port()
        ),
        format!(
            "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: Backend\nmetadata: {{name: passive}}\nspec:\n  fallback: \
             true\n  endpoints: [{{fqdn: {{hostname: passive.example.org, port: {}}}}}]\n---\n",
            passive.address().port()
        ),
        route_manifest("    - {name: active, port: 3000}\n    - {group: gateway.envoyproxy.io, kind: Backend, name: passive}\n"),
        policy_manifest(""),
    ]
    .concat();
    let gateway = Gateway::start(&manifests, &["--resolve", "passive.example.org=127.0.0.1"]).await;
    assert_eq!(gateway.pods("/test", 5).await, all("active", 5), "no split");
    active.kill().await;
    assert_eq!(gateway.pods("/test", 5).await, all("passive", 5));
}

#[tokio::test]
async fn of_256_rules_under_one_policy_five_requests_fail_and_not_1280() {
    let (active, passive) = (backend("active").await, backend("passive").await);
    active.set(Behaviour::Status(500));
    // Sixteen rules are what one HTTPRoute may have.
    let routes: String = (0..16)
        .map(|route| {
            let rules: String = (0..16)
                .map(|rule| {
                    format!(
                        "  - matches: [{{path: {{type: PathPrefix, value: /r{route}x{rule}}}}}]\n    backendRefs:\n{BACKEND_REFS}"
                    )
                })
                .collect();
            format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r{route}}}\nspec:\n  \
                 parentRefs: [{{name: eg}}]\n  rules:\n{rules}---\n"
            )
        })
        .collect();
    let policy = policy_manifest("  retry: {numRetries: 0}\n")
        .replace("kind: HTTPRoute, name: ha-example", "kind: Gateway, name: eg")
        .replace("consecutive5XxErrors: 1", "consecutive5XxErrors: 5");
    let manifests = [
        GATEWAY.to_owned(),
        backend_manifest("active", false, &[active.address()]),
        backend_manifest("passive", true, &[passive.address()]),
        routes,
        policy,
    ]
    .concat();
    let gateway = Gateway::start(&manifests, &[]).await;
    let mut answers: BTreeMap<String, usize> = BTreeMap::new();
    for route in 0..16 {
        for rule in 0..16 {
            *answers.entry(gateway.pod(&format!("/r{route}x{rule}")).await).or_default() += 1;
        }
    }
    assert_eq!(answers, BTreeMap::from([("500".to_owned(), 5), ("passive".to_owned(), 251)]));
}

#[tokio::test]
async fn the_request_after_the_deciding_failure_sees_the_verdict_on_every_thread() {
    // O28 and P10, replaced.
    let (active, passive) = (backend("active").await, backend("passive").await);
    let manifests = task(&[active.address()], passive.address(), "  retry: {numRetries: 0}\n");
    let gateway = Gateway::start(&manifests, &["--threads", "4"]).await;
    active.set(Behaviour::Status(500));
    assert_eq!(gateway.pod("/test").await, "500");
    // Each connection goes to the next of the four threads.
    assert_eq!(gateway.pods("/test", 20).await, all("passive", 20));
}

#[tokio::test]
async fn changes_of_the_files_are_followed_and_a_broken_file_changes_nothing() {
    let (active, passive) = (backend("active").await, backend("passive").await);
    let good = task(&[active.address()], passive.address(), "");
    let mut gateway = Gateway::start(&good, &[]).await;
    let good = good.replace("GATEWAY_PORT", &gateway.address.port().to_string());
    assert_eq!(gateway.pod("/test").await, "active");
    write(gateway.folder.path(), &good.replace("value: /test", "value: /moved"));
    eventually("the change", || async { gateway.pod("/moved").await == "active" }).await;
    assert_eq!(gateway.pod("/test").await, "404");
    write(gateway.folder.path(), "kind: [this is: no manifest");
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    assert_eq!(gateway.pod("/moved").await, "active", "what was served goes on");
    write(gateway.folder.path(), &good);
    eventually("the repair", || async { gateway.pod("/test").await == "active" }).await;
    gateway.process.terminate();
    assert!(gateway.process.wait().await.success());
}
