//! Every example manifest is read and translated.

mod common;

use understudy_conf::{Action, EndpointAddress, RefTarget};
use understudy_controller::{Options, Reason, Severity, Source, check};

#[test]
fn every_example_is_translated_without_errors() {
    for path in common::files("../conf/examples", ".yaml") {
        let report = common::check_file(&path);
        assert!(!report.has_errors(), "{}", common::lines(&report.diagnostics));
        assert!(!report.state.routes.is_empty(), "{}", path.display());
        assert!(!report.state.pools.is_empty(), "{}", path.display());
    }
}

#[test]
fn the_failover_task_becomes_one_rule_with_a_primary_and_a_fallback() {
    let report = common::check_file("../conf/examples/failover-task.yaml".as_ref());
    let found: Vec<_> = report.diagnostics.iter().map(|d| (d.severity, d.reason)).collect();
    // O14: the one setting of the task that has no effect.
    assert_eq!(found, [(Severity::Warning, Reason::NoEffect)], "{}", common::lines(&report.diagnostics));
    let route = &report.state.routes["httproute/default/ha-example"];
    assert_eq!(route.attachments[0].hostnames[0].as_str(), "www.example.com");
    let Action::Forward(pool) = &route.rules[0].action else { panic!("{route:?}") };
    // G1
    let pool = &report.state.pools[pool];
    let refs: Vec<_> = pool.refs.iter().map(|r| (r.target.clone(), r.priority, r.weight)).collect();
    let backend = |name: &str| RefTarget::Backend(understudy_conf::BackendName::new(name).unwrap());
    assert_eq!(refs, [(backend("backend/default/active"), 0, 1), (backend("backend/default/passive"), 1, 1)]);
    // Without an EndpointSlice the Services' names belong to DNS.
    let active = &report.state.backends["backend/default/active"];
    let hostname = "active.default.svc.cluster.local".to_owned();
    assert_eq!(active.endpoints[0].address, EndpointAddress::Fqdn { hostname, port: 3000 });
    let policy = &report.state.policies[pool.policy.as_ref().unwrap()];
    let passive = policy.passive.as_ref().unwrap();
    assert_eq!(passive.base_ejection_time.to_string(), "10s");
    assert_eq!(passive.max_ejection_percent.get(), 100);
    assert_eq!((passive.consecutive_5xx_errors, passive.consecutive_gateway_errors), (1, 0));
    assert_eq!(policy.retry, None);
    let listener = &report.state.gateways["gateway/default/eg"].listeners[0];
    assert_eq!((listener.port, listener.bind[0].to_string().as_str()), (80, "127.0.0.1:80"));
}

#[test]
fn the_failover_task_for_a_cluster_is_translated_with_each_policy() {
    for policy in ["policy.yaml", "policy-without-retries.yaml", "policy-with-retries.yaml"] {
        let files = ["quickstart.yaml", "examples/failover/backends.yaml", "examples/failover/route.yaml"];
        let paths = files.iter().map(|file| format!("../k8s/{file}"));
        let paths = paths.chain([format!("../k8s/examples/failover/{policy}")]);
        let sources: Vec<Source> = paths.map(|path| Source::Path(path.into())).collect();
        let report = check(&sources, &Options::default());
        assert!(!report.has_errors(), "{}", common::lines(&report.diagnostics));
        let route = &report.state.routes["httproute/default/ha-example"];
        let Action::Forward(pool) = &route.rules[0].action else { panic!("{route:?}") };
        let pool = &report.state.pools[pool];
        assert_eq!(pool.refs.iter().map(|r| r.priority).collect::<Vec<_>>(), [0, 1]);
        let policy_of_pool = &report.state.policies[pool.policy.as_ref().unwrap()];
        assert_eq!(policy_of_pool.retry.is_some(), policy != "policy.yaml");
    }
}

#[test]
fn the_tcp_route_for_a_cluster_has_a_primary_and_a_fallback_on_a_listener_of_its_own() {
    let paths = ["../k8s/quickstart.yaml", "../k8s/examples/tcp/postgres.yaml"];
    let report = check(&paths.map(|path| Source::Path(path.into())), &Options::default());
    assert_eq!(report.diagnostics, [], "{}", common::lines(&report.diagnostics));
    let route = &report.state.routes["tcproute/default/postgres"];
    let listeners: Vec<_> = route.attachments.iter().map(|attachment| attachment.listener.as_str()).collect();
    assert_eq!(listeners, ["postgres"]);
    let Action::Forward(pool) = &route.rules[0].action else { panic!("{route:?}") };
    let pool = &report.state.pools[pool];
    assert_eq!(pool.refs.iter().map(|reference| reference.priority).collect::<Vec<_>>(), [0, 1]);
    assert!(report.state.policies[pool.policy.as_ref().unwrap()].passive.is_some());
}
