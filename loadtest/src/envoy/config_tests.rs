use std::path::Path;

use std::sync::Arc;

use serde_json::Value;
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, GrpcProbe, HttpFilter, HttpProbe, LookupFamily, Payload, RetryBudget,
    TcpKeepalive, TcpProbe, UpstreamProtocol, UrlRewrite,
};
use understudy_controller::{Options, Source, check};

use super::*;
use crate::manifests::{FallbackKind, PrimaryKind, RETRY_PRIORITY, Setup, render, task_passive, timeouts};

fn config(setup: &Setup) -> Value {
    rendered(&state(setup)).unwrap()
}

fn rendered(state: &State) -> Result<Value, RenderError> {
    let dns = Some(SocketAddr::from(([127, 0, 0, 1], 53)));
    bootstrap(state, Extras { dns, ..Extras::default() })
}

/// The configuration of the failover task with another policy.
fn with_policy(change: impl FnOnce(&mut Policy)) -> Result<Value, RenderError> {
    let mut state = state(&Setup::task(task_passive()));
    change(Arc::make_mut(state.policies.values_mut().next().unwrap()));
    rendered(&state)
}

fn cluster(config: &Value) -> &Value {
    &config["static_resources"]["clusters"][0]
}

fn route(config: &Value) -> &Value {
    &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]
        ["virtual_hosts"][0]["routes"][0]["route"]
}

fn state(setup: &Setup) -> State {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.yaml");
    let primaries: Vec<SocketAddr> =
        (0..setup.primaries).map(|index| SocketAddr::from(([127, 0, 0, 1], 3001 + index as u16))).collect();
    let text = render(setup, 8080, &primaries, SocketAddr::from(([127, 0, 0, 1], 3000)));
    std::fs::write(&path, text).unwrap();
    let report = check(&[Source::Path(path)], &Options::default());
    std::sync::Arc::unwrap_or_clone(report.state)
}

fn golden(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/envoy/golden").join(name);
    let text = format!("{value:#}\n");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{}: run with UPDATE_GOLDEN=1 and read the difference", path.display());
}

#[test]
fn the_failover_task_becomes_one_cluster_with_two_priorities() {
    // G1, G2, G3, G4, G5
    let setup = Setup::task(task_passive() + RETRY_PRIORITY + &timeouts("5s", "1500ms"));
    golden("task.json", &config(&setup));
}

#[test]
fn several_primaries_are_endpoints_of_one_locality() {
    let config = config(&Setup { primaries: 3, ..Setup::task("") });
    let cluster = &config["static_resources"]["clusters"][0];
    let localities = cluster["load_assignment"]["endpoints"].as_array().unwrap();
    assert_eq!(localities.len(), 2);
    assert_eq!(localities[0]["lb_endpoints"].as_array().unwrap().len(), 3);
    assert_eq!(localities[1]["priority"], 1);
    assert!(cluster.get("outlier_detection").is_none(), "there is no policy");
}

#[test]
fn what_envoy_gateway_splits_is_split() {
    // G6
    let mixed = config(&Setup { fallback: FallbackKind::Fqdn, ..Setup::task(task_passive()) });
    golden("mixed-kinds.json", &mixed);
    for primary in [PrimaryKind::EmptyService, PrimaryKind::Missing] {
        let config = config(&Setup { primary, ..Setup::task("") });
        let route = &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
            ["route_config"]["virtual_hosts"][0]["routes"][0]["route"];
        let shares = route["weighted_clusters"]["clusters"].as_array().unwrap();
        assert_eq!(shares.len(), 2, "{primary:?}");
        assert_eq!(route["cluster_not_found_response_code"], "INTERNAL_SERVER_ERROR");
        let clusters = config["static_resources"]["clusters"].as_array().unwrap().len();
        // A Service without endpoints has a cluster and answers 503; what does not exist has none: 500.
        assert_eq!(clusters, if primary == PrimaryKind::EmptyService { 2 } else { 1 });
    }
}

#[test]
fn durations_keep_their_milliseconds() {
    assert_eq!(duration(GatewayDuration::from_millis(1500)), "1.500s");
    assert_eq!(duration(GatewayDuration::from_millis(20)), "0.020s");
}

#[test]
fn limits_timeouts_and_keep_alive_are_rendered() {
    let config = with_policy(|policy| {
        let breaker = &mut policy.circuit_breaker;
        (breaker.max_connections, breaker.max_pending_requests, breaker.max_parallel_requests) = (5, 0, 7);
        breaker.max_requests_per_connection = Some(9);
        breaker.max_connections_per_endpoint = Some(3);
        breaker.retry_budget = Some(RetryBudget { numerator: 1, denominator: 5, min_retry_concurrency: 4 });
        policy.timeouts.connection_idle = GatewayDuration::from_secs(7);
        policy.timeouts.stream_idle = GatewayDuration::from_secs(8);
        policy.tcp_keepalive = Some(TcpKeepalive {
            probes: 3,
            idle_time: GatewayDuration::from_millis(1500),
            interval: GatewayDuration::from_secs(1),
        });
        policy.slow_start = Some(GatewayDuration::from_secs(30));
    })
    .unwrap();
    golden("limits.json", cluster(&config));
    assert_eq!(route(&config)["idle_timeout"], "8.000s");
}

#[test]
fn every_active_check_is_rendered_or_refused() {
    let checked = |probe| {
        with_policy(|policy| {
            policy.active = Some(Arc::new(ActiveHealthCheck {
                port: Some(77),
                initial_jitter: GatewayDuration::from_millis(20),
                ..ActiveHealthCheck::new(probe)
            }));
        })
    };
    let http = HttpProbe {
        retriable_statuses: [503].into(),
        expected_response: Some(Payload::Text("ok".to_owned())),
        ..HttpProbe::get("/healthz")
    };
    golden("http-check.json", cluster(&checked(ActiveProbe::Http(http.clone())).unwrap()));
    let payload = |text: &str| Some(Payload::Text(text.to_owned()));
    let tcp = TcpProbe { send: payload("PING"), receive: payload("PONG") };
    let config = checked(ActiveProbe::Tcp(tcp)).unwrap();
    let check = &cluster(&config)["health_checks"][0]["tcp_health_check"];
    assert_eq!(
        (&check["send"]["text"], &check["receive"][0]["text"]),
        (&json!("50494e47"), &json!("504f4e47"))
    );
    let config = checked(ActiveProbe::Grpc(GrpcProbe { service: "shop".to_owned() })).unwrap();
    assert_eq!(cluster(&config)["health_checks"][0]["grpc_health_check"]["service_name"], "shop");
    let with_body = HttpProbe { request_body: payload("x"), ..http };
    assert_eq!(
        checked(ActiveProbe::Http(with_body)).unwrap_err().to_string(),
        "httproute/default/ha-example/rule/0: the body of an active check is not rendered for Envoy; extend \
         loadtest/src/envoy first"
    );
}

#[test]
fn every_load_balancer_is_rendered_with_what_it_hashes() {
    let balanced = |balancer| with_policy(|policy| policy.load_balancer = balancer).unwrap();
    assert_eq!(cluster(&balanced(LoadBalancer::Random))["lb_policy"], "RANDOM");
    assert_eq!(cluster(&balanced(LoadBalancer::RoundRobin))["lb_policy"], "ROUND_ROBIN");
    let hashed = |by| balanced(LoadBalancer::ConsistentHash(ConsistentHash { by, table_size: 65537 }));
    let cookie = HashCookie {
        name: "s".to_owned(),
        ttl: Some(GatewayDuration::from_secs(60)),
        attributes: [("Path".to_owned(), "/".to_owned())].into(),
    };
    for (by, expected) in [
        (HashKey::SourceIp, json!([{"connection_properties": {"source_ip": true}}])),
        (
            HashKey::Headers(vec!["a".to_owned(), "b".to_owned()]),
            json!([{"header": {"header_name": "a"}}, {"header": {"header_name": "b"}}]),
        ),
        (HashKey::QueryParams(vec!["q".to_owned()]), json!([{"query_parameter": {"name": "q"}}])),
        (
            HashKey::Cookie(cookie),
            json!([{"cookie": {"name": "s", "ttl": "60.000s", "attributes": [{"name": "Path", "value": "/"}]}}]),
        ),
    ] {
        let config = hashed(by);
        assert_eq!(route(&config)["hash_policy"], expected);
        assert_eq!(cluster(&config)["maglev_lb_config"]["table_size"], 65537);
    }
    let slow_and_random = with_policy(|policy| {
        policy.load_balancer = LoadBalancer::Random;
        policy.slow_start = Some(GatewayDuration::from_secs(1));
    });
    assert!(slow_and_random.unwrap_err().to_string().contains("slow start"));
}

#[test]
fn families_of_addresses_are_rendered_for_names() {
    let setup = Setup { fallback: FallbackKind::Fqdn, ..Setup::task(task_passive()) };
    for (family, expected) in [
        (LookupFamily::IPv4, "V4_ONLY"),
        (LookupFamily::IPv6, "V6_ONLY"),
        (LookupFamily::IPv6Preferred, "AUTO"),
        (LookupFamily::IPv4AndIPv6, "ALL"),
    ] {
        let mut state = state(&setup);
        Arc::make_mut(state.policies.values_mut().next().unwrap()).dns.lookup_family = family;
        let config = rendered(&state).unwrap();
        assert_eq!(config["static_resources"]["clusters"][1]["dns_lookup_family"], expected);
    }
}

#[test]
fn what_is_not_rendered_is_refused() {
    let refused = |change: fn(&mut State)| {
        let mut state = state(&Setup::task(task_passive()));
        change(&mut state);
        rendered(&state).unwrap_err().to_string()
    };
    for (change, words) in [
        (
            (|state: &mut State| {
                let route = Arc::make_mut(state.routes.values_mut().next().unwrap());
                let rewrite = UrlRewrite { hostname: None, path: None };
                route.rules[0].filters.push(HttpFilter::UrlRewrite(rewrite));
            }) as fn(&mut State),
            "a filter",
        ),
        (
            |state| {
                let route = Arc::make_mut(state.routes.values_mut().next().unwrap());
                let backend_request = Some(GatewayDuration::from_secs(1));
                route.rules[0].timeouts = Some(RuleTimeouts { request: None, backend_request });
            },
            "a timeout of one attempt",
        ),
        (
            |state| {
                let backend = Arc::make_mut(state.backends.values_mut().next().unwrap());
                backend.protocol = UpstreamProtocol::H2c;
            },
            "another protocol than HTTP/1.1",
        ),
        (
            |state| {
                let gateway = Arc::make_mut(state.gateways.values_mut().next().unwrap());
                gateway.listeners[0].protocol = Protocol::Https;
            },
            "another protocol than HTTP",
        ),
    ] {
        let error = refused(change);
        assert!(error.contains(words) && error.contains("is not rendered for Envoy"), "{error}");
    }
}

#[test]
fn a_log_and_statistics_are_added_where_they_are_asked_for() {
    let state = state(&Setup::task(""));
    let (log, admin) = (Path::new("/log"), SocketAddr::from(([127, 0, 0, 1], 9)));
    let extras = Extras { dns: None, access_log: Some(log), admin: Some(admin) };
    let config = bootstrap(&state, extras).unwrap();
    let manager =
        &config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"];
    assert_eq!(manager["access_log"][0]["typed_config"]["path"], "/log");
    assert_eq!(config["admin"]["address"]["socket_address"]["port_value"], 9);
    assert!(config.get("typed_dns_resolver_config").is_none());
}
