use std::path::Path;

use serde_json::Value;
use understudy_controller::{Options, Source, check};

use super::*;
use crate::manifests::{FallbackKind, PrimaryKind, RETRY_PRIORITY, Setup, render, task_passive, timeouts};

fn config(setup: &Setup) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("case.yaml");
    let primaries: Vec<SocketAddr> =
        (0..setup.primaries).map(|index| SocketAddr::from(([127, 0, 0, 1], 3001 + index as u16))).collect();
    let text = render(setup, 8080, &primaries, SocketAddr::from(([127, 0, 0, 1], 3000)));
    std::fs::write(&path, text).unwrap();
    let report = check(&[Source::Path(path)], &Options::default());
    let dns = Some(SocketAddr::from(([127, 0, 0, 1], 53)));
    bootstrap(&report.state, Extras { dns, ..Extras::default() }).unwrap()
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
