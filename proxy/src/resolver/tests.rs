//! Against a name server on loopback, in real time.

use tokio::time::{Instant, timeout};
use understudy_conf::{GatewayDuration, LookupFamily};
use understudy_testbed::{DnsAnswer, DnsServer};

use super::*;

const BOUND: Duration = Duration::from_secs(20);
const NAME: &str = "active.example.com";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn dns(family: LookupFamily) -> Dns {
    Dns { refresh_rate: GatewayDuration::from_millis(100), respect_ttl: true, lookup_family: family }
}

fn fast() -> Dns {
    Dns { respect_ttl: false, ..dns(LookupFamily::IPv4) }
}

async fn resolver() -> (DnsServer, Resolver) {
    let server = DnsServer::start().await.unwrap();
    let options = ResolverOptions { overrides: Vec::new(), server: Some(server.address()) };
    let resolver = Resolver::new(options, &Handle::current()).unwrap();
    (server, resolver)
}

fn names(dns: &Dns) -> Vec<(String, Dns)> {
    vec![(NAME.to_owned(), dns.clone())]
}

async fn becomes(resolver: &Resolver, dns: &Dns, expected: &[IpAddr]) {
    let mut changes = resolver.changes();
    timeout(BOUND, async {
        while resolver.resolved(NAME, dns).as_deref() != Some(expected) {
            changes.changed().await.unwrap();
        }
    })
    .await
    .unwrap_or_else(|_| panic!("{:?} did not become {expected:?}", resolver.resolved(NAME, dns)));
}

#[tokio::test]
async fn each_address_is_one_and_changes_are_followed() {
    // D1
    let (server, resolver) = resolver().await;
    server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.2"), ip("127.0.0.1")], 0));
    resolver.watch(names(&fast()));
    assert!(resolver.first_round(BOUND).await);
    assert_eq!(*resolver.resolved(NAME, &fast()).unwrap(), [ip("127.0.0.1"), ip("127.0.0.2")]);
    server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.3")], 0));
    becomes(&resolver, &fast(), &[ip("127.0.0.3")]).await;
}

#[tokio::test]
async fn a_ttl_of_one_second_is_followed_after_one_second() {
    // D2
    let (server, resolver) = resolver().await;
    let slow = Dns { refresh_rate: GatewayDuration::from_secs(3600), ..dns(LookupFamily::IPv4) };
    server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.1")], 1));
    resolver.watch(names(&slow));
    assert!(resolver.first_round(BOUND).await);
    let start = Instant::now();
    server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.2")], 1));
    becomes(&resolver, &slow, &[ip("127.0.0.2")]).await;
    // The query was made a moment before `start`.
    assert!(start.elapsed() > Duration::from_millis(700), "{:?}", start.elapsed());
}

#[tokio::test]
async fn no_such_name_and_no_records_are_successes_without_addresses() {
    // D3
    for nothing in [DnsAnswer::NxDomain, DnsAnswer::Empty] {
        let (server, resolver) = resolver().await;
        server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.1")], 0));
        resolver.watch(names(&fast()));
        becomes(&resolver, &fast(), &[ip("127.0.0.1")]).await;
        server.set(NAME, nothing);
        becomes(&resolver, &fast(), &[]).await;
        assert_eq!((resolver.error(NAME, &fast()), resolver.failures()), (None, 0));
    }
}

#[tokio::test]
async fn failures_keep_the_old_addresses() {
    // D4
    for failure in [DnsAnswer::ServFail, DnsAnswer::Refused, DnsAnswer::Silent] {
        let (server, resolver) = resolver().await;
        server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.1")], 0));
        resolver.watch(names(&fast()));
        becomes(&resolver, &fast(), &[ip("127.0.0.1")]).await;
        server.set(NAME, failure.clone());
        timeout(BOUND, async {
            while resolver.failures() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(*resolver.resolved(NAME, &fast()).unwrap(), [ip("127.0.0.1")], "{failure:?}");
        server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.2")], 0));
        becomes(&resolver, &fast(), &[ip("127.0.0.2")]).await;
        assert_eq!(resolver.error(NAME, &fast()), None);
    }
}

#[tokio::test]
async fn a_start_without_an_answer_knows_that_there_is_no_address() {
    // D5
    for answer in [DnsAnswer::NxDomain, DnsAnswer::ServFail, DnsAnswer::Silent] {
        let (server, resolver) = resolver().await;
        server.set(NAME, answer.clone());
        resolver.watch(names(&fast()));
        assert!(resolver.first_round(BOUND).await, "{answer:?}");
        assert!(resolver.resolved(NAME, &fast()).unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_first_round_is_bounded() {
    let (server, resolver) = resolver().await;
    server.set(NAME, DnsAnswer::Silent);
    resolver.watch(names(&fast()));
    assert!(!resolver.first_round(Duration::from_millis(50)).await);
    assert_eq!(resolver.resolved(NAME, &fast()), None);
}

#[tokio::test]
async fn the_lookup_family_chooses_the_addresses() {
    let (four, six) = (ip("127.0.0.1"), ip("::1"));
    let cases: [(LookupFamily, &[IpAddr], &[IpAddr]); 9] = [
        (LookupFamily::IPv4, &[four, six], &[four]),
        (LookupFamily::IPv6, &[four, six], &[six]),
        (LookupFamily::IPv4Preferred, &[four, six], &[four]),
        (LookupFamily::IPv4Preferred, &[six], &[six]),
        (LookupFamily::IPv6Preferred, &[four, six], &[six]),
        (LookupFamily::IPv6Preferred, &[four], &[four]),
        (LookupFamily::IPv4AndIPv6, &[four, six], &[four, six]),
        (LookupFamily::IPv4AndIPv6, &[six], &[six]),
        (LookupFamily::IPv6, &[four], &[]),
    ];
    for (family, served, expected) in cases {
        let (server, resolver) = resolver().await;
        server.set(NAME, DnsAnswer::addresses(served, 60));
        resolver.watch(names(&dns(family)));
        assert!(resolver.first_round(BOUND).await);
        assert_eq!(*resolver.resolved(NAME, &dns(family)).unwrap(), *expected, "{family:?} of {served:?}");
    }
}

#[tokio::test]
async fn overrides_and_addresses_need_no_server() {
    let overrides = vec![
        ("Active.Example.com.".to_owned(), ip("127.0.0.9")),
        (NAME.to_owned(), ip("127.0.0.8")),
        (NAME.to_owned(), ip("127.0.0.8")),
    ];
    let server = DnsServer::start().await.unwrap();
    let options = ResolverOptions { overrides, server: Some(server.address()) };
    let resolver = Resolver::new(options, &Handle::current()).unwrap();
    resolver.watch(names(&fast()).into_iter().chain([("::1".to_owned(), fast())]));
    assert!(resolver.first_round(Duration::ZERO).await);
    assert_eq!(
        *resolver.resolved("ACTIVE.example.com.", &fast()).unwrap(),
        [ip("127.0.0.8"), ip("127.0.0.9")]
    );
    assert_eq!(*resolver.resolved("::1", &fast()).unwrap(), [ip("::1")]);
    assert_eq!(server.queries(NAME), 0);
}

#[tokio::test]
async fn a_name_that_is_no_longer_wanted_is_no_longer_asked_for() {
    let (server, resolver) = resolver().await;
    server.set(NAME, DnsAnswer::addresses(&[ip("127.0.0.1")], 0));
    resolver.watch(names(&fast()));
    assert!(resolver.first_round(BOUND).await);
    // Watching the same again starts nothing anew.
    resolver.watch(names(&fast()));
    assert_eq!(*resolver.resolved(NAME, &fast()).unwrap(), [ip("127.0.0.1")]);
    resolver.watch([]);
    assert_eq!(resolver.resolved(NAME, &fast()), None);
    // The loop is gone: only the resolver itself holds the inner part.
    timeout(BOUND, async {
        while Arc::strong_count(&resolver.inner) > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_thousand_names_are_asked_for_a_few_at_a_time() {
    let (server, resolver) = resolver().await;
    let hosts: Vec<String> = (0..1000).map(|n| format!("name-{n}.example.com")).collect();
    for host in &hosts {
        server.set(host, DnsAnswer::addresses(&[ip("127.0.0.1")], 60));
    }
    resolver.watch(hosts.iter().map(|host| (host.clone(), dns(LookupFamily::IPv4))));
    assert!(resolver.first_round(BOUND).await);
    for host in &hosts {
        assert_eq!(server.queries(host), 1, "{host}");
    }
    assert_eq!(resolver.failures(), 0);
}
