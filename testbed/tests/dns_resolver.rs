//! The DNS server satisfies a resolver that knows nothing of it.

#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use understudy_testbed::{DnsAnswer, DnsServer};

fn resolver_for(server: &DnsServer) -> TokioResolver {
    let mut connection = ConnectionConfig::udp();
    connection.port = server.address().port();
    let server = NameServerConfig::new(server.address().ip(), true, vec![connection]);
    let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().timeout = Duration::from_millis(200);
    builder.options_mut().attempts = 1;
    builder.build().unwrap()
}

#[tokio::test]
async fn a_resolver_gets_addresses_and_their_ttl() {
    let server = DnsServer::start().await.unwrap();
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 7));
    server.set("active.example", DnsAnswer::addresses(&[address], 60));
    let answer = resolver_for(&server).lookup_ip("active.example.").await.unwrap();
    assert_eq!(answer.iter().collect::<Vec<_>>(), [address]);
    assert!(answer.as_lookup().answers().iter().all(|record| record.ttl == 60));
}

#[tokio::test]
async fn a_resolver_tells_no_such_name_from_no_records_and_from_failures() {
    let server = DnsServer::start().await.unwrap();
    for (answer, nothing, no_name) in [
        (DnsAnswer::NxDomain, true, true),
        (DnsAnswer::Empty, true, false),
        (DnsAnswer::ServFail, false, false),
        (DnsAnswer::Refused, false, false),
        (DnsAnswer::Silent, false, false),
    ] {
        server.set("a.example", answer.clone());
        let error = resolver_for(&server).lookup_ip("a.example.").await.unwrap_err();
        assert_eq!(error.is_no_records_found(), nothing, "{answer:?}: {error}");
        assert_eq!(error.is_nx_domain(), no_name, "{answer:?}: {error}");
    }
}
