//! The target guard: what no Backend may point to, whatever its name resolves to.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use common::{Proxy, Setup, all, eventually, millis, passive};
use understudy_conf::store::read_reports;
use understudy_conf::{
    ActiveHealthCheck, ActiveProbe, Backend, BackendName, DeniedTargets, Endpoint, EndpointAddress, Guard,
    GuardName, HttpFilter, HttpProbe, LookupFamily, Pool, PoolName, PoolRef, RefTarget, RequestMirror, State,
    SwitchKind,
};
use understudy_testbed::{Backend as Upstream, DnsAnswer, DnsServer};

const NAME: &str = "active.example";
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Loopback, and not the allowed one.
const FORBIDDEN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

fn guard(deny: Vec<DeniedTargets>) -> Arc<Guard> {
    let name = GuardName::new("guard/cluster").unwrap();
    // Of all that is reserved one address is allowed, which test backends have.
    Arc::new(Guard { name, deny, allow: vec![OWN.into()], unix_folder: None })
}

fn denied(what: &str, network: &str, port: u16) -> DeniedTargets {
    DeniedTargets { what: what.to_owned(), networks: vec![network.parse().unwrap()], ports: vec![port] }
}

fn guarded(mut state: State, deny: Vec<DeniedTargets>) -> State {
    let guard = guard(deny);
    state.guards.insert(guard.name.clone(), guard);
    state
}

fn check(port: Option<u16>) -> Arc<ActiveHealthCheck> {
    let probe = ActiveProbe::Http(HttpProbe::get("/healthz"));
    Arc::new(ActiveHealthCheck { interval: millis(50), port, ..ActiveHealthCheck::new(probe) })
}

fn fqdn(port: u16) -> EndpointAddress {
    EndpointAddress::Fqdn { hostname: NAME.to_owned(), port }
}

#[tokio::test]
async fn without_a_guard_a_name_may_resolve_to_loopback() {
    let active = Upstream::start("active").await.unwrap();
    let dns = DnsServer::start().await.unwrap();
    dns.set(NAME, DnsAnswer::addresses(&[OWN], 1));
    let mut setup = Setup::new(&[], &[]);
    setup.refs[0].1 = vec![fqdn(active.address().port())];
    let proxy = Proxy::start(&setup.state(), Vec::new(), Some(dns.address())).await;
    assert_eq!(proxy.pods(2).await, all("active", 2));
}

#[tokio::test]
async fn a_name_that_is_rebound_to_what_is_no_backend_is_refused_and_the_fallback_serves() {
    let good = Upstream::start_on(SocketAddr::new(OWN, 0), "active").await.unwrap();
    let port = good.address().port();
    // What the rebind wants to reach answers on the same port.
    let victim = Upstream::start_on(SocketAddr::new(FORBIDDEN, port), "victim").await.unwrap();
    let passive_pod = Upstream::start_on(SocketAddr::new(OWN, 0), "passive").await.unwrap();
    let dns = DnsServer::start().await.unwrap();
    dns.set(NAME, DnsAnswer::addresses(&[OWN], 1));
    let mut setup = Setup::new(&[], &[passive_pod.address()]).change_policy(|policy| {
        policy.dns.refresh_rate = millis(100);
        policy.dns.lookup_family = LookupFamily::IPv4AndIPv6;
    });
    setup.refs[0].1 = vec![fqdn(port)];
    let state = guarded(setup.state(), Vec::new());
    let proxy = Proxy::start(&state, Vec::new(), Some(dns.address())).await;
    assert_eq!(proxy.pods(3).await, all("active", 3));

    let rebinds: [IpAddr; 4] = [
        FORBIDDEN,
        [169, 254, 169, 254].into(),
        "::ffff:127.0.0.2".parse().unwrap(),
        "64:ff9b::7f00:2".parse().unwrap(),
    ];
    for bad in rebinds {
        dns.set(NAME, DnsAnswer::addresses(&[bad], 1));
        eventually("the fallback", || async { proxy.pods(1).await == all("passive", 1) }).await;
        let said = proxy
            .wait_for_acknowledgement(|ack| ack.degraded.iter().any(|line| line.contains(&bad.to_string())))
            .await;
        assert!(said.degraded[0].contains(NAME), "{said:?}");
        assert_eq!(proxy.pods(5).await, all("passive", 5));
        // A good address beside it serves alone.
        dns.set(NAME, DnsAnswer::addresses(&[OWN, bad], 1));
        eventually("the good one", || async { proxy.pods(1).await == all("active", 1) }).await;
        assert_eq!(proxy.pods(5).await, all("active", 5));
    }
    assert_eq!(victim.requests(), 0, "nothing ever reached it");
    eventually("the report", || async {
        read_reports(proxy.folder()).unwrap().is_some_and(|reports| {
            reports.refused.iter().any(|refused| refused.backend == "backend/default/0")
                && reports.switches.iter().any(|switch| switch.kind == SwitchKind::Failover)
        })
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_by_address_is_refused_too_and_the_admin_address_and_unix_sockets() {
    let passive_pod = Upstream::start_on(SocketAddr::new(FORBIDDEN, 0), "passive").await.unwrap();
    // The fallback is refused as well, so nobody is left: the answer is 503, and no connection is made.
    let mut setup = Setup::new(&[], &[passive_pod.address()]);
    setup.refs[0].1 = vec![EndpointAddress::Unix { path: "/run/some.sock".into() }];
    let proxy = Proxy::start(&guarded(setup.state(), Vec::new()), Vec::new(), None).await;
    assert_eq!(proxy.pods(3).await, all("503", 3));
    assert_eq!(passive_pod.requests(), 0);
    let said = proxy.wait_for_acknowledgement(|ack| ack.degraded.len() == 2).await.degraded;
    assert!(said[0].contains("unix:/run/some.sock is refused"), "{said:?}");
    assert!(said[1].contains("loopback"), "{said:?}");
}

#[tokio::test]
async fn what_the_cluster_denies_gets_no_request_no_active_check_and_no_mirrored_one() {
    let at = |name| Upstream::start_on(SocketAddr::new(OWN, 0), name);
    let (kubelet, api, active) =
        (at("kubelet").await.unwrap(), at("api").await.unwrap(), at("active").await.unwrap());
    let passive_pod = at("passive").await.unwrap();
    let mut setup = Setup::new(&[kubelet.address()], &[active.address()]).change_policy(|policy| {
        policy.active = Some(check(None));
        policy.passive = Some(passive());
    });
    // A mirror to the API server.
    let mirror = PoolName::new("httproute/default/ha-example/rule/0/mirror/0").unwrap();
    setup.filters =
        vec![HttpFilter::RequestMirror(RequestMirror { pool: mirror.clone(), numerator: 1, denominator: 1 })];
    let mut state = setup.state();
    let name = BackendName::new("backend/default/api").unwrap();
    let endpoints = vec![Endpoint::at(api.address().into())];
    let backend = Backend { name: name.clone(), protocol: Default::default(), tls: None, endpoints };
    state.backends.insert(name.clone(), Arc::new(backend));
    let reference = PoolRef { target: RefTarget::Backend(name), priority: 0, weight: 1, filters: Vec::new() };
    state.pools.insert(mirror.clone(), Arc::new(Pool { name: mirror, policy: None, refs: vec![reference] }));
    let own_text = OWN.to_string();
    let deny = |kubelet_port| {
        vec![
            denied("a kubelet", &own_text, kubelet_port),
            denied("the API server", &own_text, api.address().port()),
        ]
    };
    let mut proxy =
        Proxy::start(&guarded(state.clone(), deny(kubelet.address().port())), Vec::new(), None).await;
    assert_eq!(proxy.pods(20).await, all("active", 20));
    // The check of an allowed endpoint must not be turned to a port that is refused.
    let mut by_check = Setup::new(&[active.address()], &[passive_pod.address()]).change_policy(|policy| {
        policy.active = Some(check(Some(kubelet.address().port())));
    });
    by_check.gateway = setup.gateway;
    proxy.publish(&guarded(by_check.state(), deny(kubelet.address().port()))).await;
    assert_eq!(proxy.pods(20).await, all("503", 20));
    let said = proxy.wait_for_acknowledgement(|ack| ack.degraded.len() == 2).await.degraded;
    assert!(said[0].contains("its active check goes to port"), "{said:?}");
    for victim in [&kubelet, &api] {
        assert_eq!(victim.connections(), 0, "{victim:?}");
    }
    // Once nothing is denied any longer, it all works.
    proxy.publish(&state).await;
    eventually("the former victim", || async { proxy.pods(1).await == all("kubelet", 1) }).await;
}
