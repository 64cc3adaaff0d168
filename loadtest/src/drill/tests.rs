//! The drill itself on real sockets, with Understudy alone.

use std::path::PathBuf;
use std::process::Command;

use super::*;

/// The binary, built when it is not there.
fn understudy() -> PathBuf {
    if let Ok(found) = find_understudy() {
        return found;
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(["build", "--quiet", "-p", "understudy"]).status().unwrap();
    assert!(status.success(), "understudy does not build");
    find_understudy().unwrap()
}

#[tokio::test]
async fn a_port_that_closes_loses_understudys_clients_nothing() {
    let binaries = Binaries { understudy: understudy(), envoy: PathBuf::new() };
    let cases = cases::select(Length::Short, &["2".to_owned()]).unwrap();
    let rows = run_case(&cases[0], &[Proxy::Understudy], &binaries).await.unwrap();
    assert_eq!(rows.len(), cases[0].plans.len());
    for row in rows {
        let record = row.understudy.as_ref().unwrap().as_ref().unwrap();
        let summary = record.summary();
        assert_eq!((summary.requests, summary.lost), (20, 0), "{}: {record:?}", row.name());
        assert_eq!((summary.primary, summary.fallback), (10, 10), "{}", row.name());
        assert!(summary.failover.is_some());
        assert!(row.envoy.is_none());
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_start_is_said_and_stops_nothing_else() {
    let binaries = Binaries { understudy: "/bin/false".into(), envoy: PathBuf::new() };
    let cases = cases::select(Length::Short, &["1".to_owned()]).unwrap();
    let rows = run_case(&cases[0], &[Proxy::Understudy], &binaries).await.unwrap();
    let why = rows[0].understudy.as_ref().unwrap().as_ref().unwrap_err();
    assert!(why.contains("starting Understudy") && why.contains("ended with"), "{why}");
    assert_eq!(table::complaints(&rows).len(), 1);
}
