//! Where listeners are bound in a cluster: on container ports behind Services, or on the nodes' own ports.
#![allow(clippy::unwrap_used, reason = "tests end there")]

use std::net::IpAddr;

use understudy_conf::{GatewayName, Listener};
use understudy_controller::{GatewayMode, ListenOptions, Options, Report, check_text};

const GATEWAYS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: eg}
spec:
  controllerName: understudy.dev/gateway-controller
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: eg}
spec:
  gatewayClassName: eg
  listeners:
    - {name: http, protocol: HTTP, port: 80}
    - {name: named, protocol: HTTP, port: 80, hostname: www.example.com}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other}
spec:
  gatewayClassName: eg
  listeners:
    - {name: http, protocol: HTTP, port: 80}
"#;

fn service(gateway: &str, manager: &str, target: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: understudy-{gateway}, labels: {{app.kubernetes.io/managed-by: {manager}}}}}
spec: {{type: LoadBalancer, ports: [{{name: tcp-80, port: 80, targetPort: {target}}}]}}
"
    )
}

fn translate(mode: GatewayMode, pod: &[&str], manifests: &[&str]) -> Report {
    let pod: Vec<IpAddr> = pod.iter().map(|address| address.parse().unwrap()).collect();
    let listen = ListenOptions { placement: mode.in_pod(&pod), ..ListenOptions::default() };
    check_text(manifests.concat(), &Options { listen, ..Options::default() })
}

fn listeners<'a>(report: &'a Report, gateway: &str) -> &'a [Listener] {
    let name = GatewayName::new(format!("gateway/default/{gateway}")).unwrap();
    &report.state.gateways[&name].listeners
}

fn sockets(report: &Report, gateway: &str) -> Vec<String> {
    listeners(report, gateway).iter().flat_map(|l| &l.bind).map(ToString::to_string).collect()
}

fn lines(report: &Report) -> String {
    report.diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

#[test]
fn listeners_in_a_pod_have_the_container_ports_that_their_services_lead_to() {
    let manifests =
        [GATEWAYS, &service("eg", "understudy.dev", "12001"), &service("other", "understudy.dev", "12002")];
    let report = translate(GatewayMode::Service, &["10.0.0.7", "fd00::7"], &manifests);
    assert!(report.diagnostics.is_empty(), "{}", lines(&report));
    assert_eq!(sockets(&report, "eg"), ["0.0.0.0:12001", "[::]:12001", "0.0.0.0:12001", "[::]:12001"]);
    assert_eq!(sockets(&report, "other"), ["0.0.0.0:12002", "[::]:12002"]);
    // Redirects and logs are about the port that clients see.
    assert!(listeners(&report, "eg").iter().all(|listener| listener.port == 80));
}

#[test]
fn a_listener_without_a_container_port_waits_for_one() {
    for service in [String::new(), service("eg", "understudy.dev", "80")] {
        let report = translate(GatewayMode::Service, &["10.0.0.7"], &[GATEWAYS, &service]);
        assert!(listeners(&report, "eg").is_empty());
        assert!(!report.has_errors(), "{}", lines(&report));
        assert!(lines(&report).contains("leads port 80 nowhere yet"), "{}", lines(&report));
    }
}

#[test]
fn the_container_ports_of_somebody_elses_service_are_not_used() {
    let report = translate(GatewayMode::Service, &["10.0.0.7"], &[GATEWAYS, &service("eg", "helm", "12001")]);
    assert!(listeners(&report, "eg").is_empty());
    assert!(lines(&report).contains("nobody else's Service is taken over"), "{}", lines(&report));
}

#[test]
fn no_container_port_serves_two_gateways() {
    let manifests =
        [GATEWAYS, &service("eg", "understudy.dev", "12001"), &service("other", "understudy.dev", "12001")];
    let report = translate(GatewayMode::Service, &["10.0.0.7"], &manifests);
    assert_eq!(sockets(&report, "eg").len(), 2);
    assert!(listeners(&report, "other").is_empty());
    assert!(
        lines(&report).contains("0.0.0.0:12001 is not free: Gateway default/eg has"),
        "{}",
        lines(&report)
    );
}

#[test]
fn with_host_ports_listeners_have_their_own_ports_on_the_node() {
    let own = GATEWAYS.replace(
        "metadata: {name: other}\nspec:",
        "metadata: {name: other}\nspec:\n  addresses: [{value: 192.0.2.7}]",
    );
    let report = translate(GatewayMode::Host, &["192.0.2.7"], &[&own]);
    assert_eq!(sockets(&report, "eg"), ["0.0.0.0:80", "0.0.0.0:80"]);
    // All addresses hold every single one, so the older Gateway, or the first by name, has the port.
    assert!(listeners(&report, "other").is_empty());
    assert!(lines(&report).contains("192.0.2.7:80 is not free: Gateway default/eg has 0.0.0.0:80"));
}

#[test]
fn what_a_class_says_of_services_is_checked() {
    let class = |reference: &str| {
        GATEWAYS.replace(
            "gateway-controller\n",
            &format!("gateway-controller\n  parametersRef: {{group: \"\", {reference}}}\n"),
        )
    };
    let config = "---
apiVersion: v1
kind: ConfigMap
metadata: {name: parameters, namespace: understudy-system}
data: {serviceType: NodePort}
";
    let right = class("kind: ConfigMap, name: parameters, namespace: understudy-system");
    let report = translate(GatewayMode::Service, &[], &[&right, config]);
    assert!(!report.has_errors(), "{}", lines(&report));
    for (class, config, words) in [
        (&right, "", "there is no ConfigMap understudy-system/parameters"),
        (&right, &config.replace("NodePort", "nodePort")[..], "Use LoadBalancer, NodePort or ClusterIP."),
        (&right, &config.replace("serviceType", "type"), "Its keys are serviceType"),
        (&class("kind: Secret, name: parameters, namespace: a"), config, "of kind \"/Secret\" are unknown"),
        (&class("kind: ConfigMap, name: parameters"), config, "names no namespace"),
    ] {
        let report = translate(GatewayMode::Service, &[], &[class, config]);
        assert!(report.has_errors() && lines(&report).contains(words), "{}", lines(&report));
        assert!(lines(&report).contains("left alone (InvalidParameters)"), "{}", lines(&report));
    }
}

#[test]
fn an_address_that_a_service_cannot_have_is_an_error() {
    let manifest = GATEWAYS.replacen(
        "spec:\n  gatewayClassName",
        "spec:\n  addresses: [{type: Hostname, value: a.example.com}]\n  gatewayClassName",
        1,
    );
    let report = translate(GatewayMode::Service, &[], &[&manifest]);
    let expected =
        "Gateway default/eg: spec.addresses[0]: \"a.example.com\" of type Hostname cannot be given";
    assert!(lines(&report).contains(expected), "{}", lines(&report));
}
