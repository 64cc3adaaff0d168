//! Worlds, and what their tables hold.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use understudy_conf::{
    Action, ActiveHealthCheck, ActiveProbe, Attachment, Backend, BackendName, DeniedTargets, Endpoint,
    EndpointAddress, Gateway, GatewayDuration, GatewayName, Guard, GuardName, HeaderValue, Hostname,
    HttpFilter, HttpMatch, HttpProbe, Listener, ListenerName, PathMatch, Percent, Policy, PolicyName, Pool,
    PoolName, PoolRef, Protocol, RefTarget, RequestMirror, Route, RouteKind, Rule, UpstreamProtocol,
};

use super::*;

fn limits(change: impl FnOnce(&mut Timeouts), per_try: Option<Duration>) -> Limits {
    let mut timeouts = Policy::default().timeouts;
    change(&mut timeouts);
    Limits::new(&timeouts, per_try)
}

#[test]
fn without_a_timeout_headers_have_fifteen_seconds() {
    // G7, replaced: none after the headers.
    let unset = limits(|_| {}, None);
    assert_eq!((unset.headers, unset.request), (Some(Duration::from_secs(15)), None));
}

#[test]
fn a_request_timeout_of_zero_is_none_at_all() {
    let none = limits(|timeouts| timeouts.request = Some(GatewayDuration::default()), None);
    assert_eq!((none.headers, none.request), (None, None));
}

#[test]
fn r7_a_limit_of_one_attempt_that_is_not_below_the_requests_does_not_act() {
    let request = |timeouts: &mut Timeouts| timeouts.request = Some(GatewayDuration::from_secs(2));
    let second = Duration::from_secs(1);
    assert_eq!(limits(request, Some(second)).per_try, Some(second));
    assert_eq!(limits(request, Some(second * 2)).per_try, None);
    assert_eq!(limits(|_| {}, Some(second * 99)).per_try, Some(second * 99));
}

#[test]
fn the_defaults_are_envoy_gateways() {
    // G3
    let unset = limits(|_| {}, None);
    assert_eq!(unset.connect, Duration::from_secs(10));
    assert_eq!(unset.connection_idle, Duration::from_secs(3600));
    assert_eq!(unset.stream_idle, Duration::from_secs(300));
    let policy = Policy::default();
    assert_eq!(policy.buffer_limit, 32 * 1024);
    assert_eq!((policy.dns.refresh_rate, policy.dns.respect_ttl), (GatewayDuration::from_secs(30), true));
}

/// One change of a state.
#[derive(Debug, Clone)]
enum Edit {
    Route {
        route: u8,
        host: u8,
        refs: Vec<u8>,
        policy: Option<u8>,
        header: u8,
        mirror: Option<u8>,
    },
    RemoveRoute(u8),
    Backend {
        backend: u8,
        ports: Vec<u16>,
        name: Option<u8>,
    },
    Policy {
        policy: u8,
        threshold: u8,
        checks: bool,
    },
    Guard(Option<u8>),
    /// The gateway gets another port beside its own, or loses it.
    Gateway(Option<u16>),
    /// The same content in new objects, as after a restart of the reader.
    Copy,
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (0..5_u8, 0..4_u8, vec(0..4_u8, 0..3), option::of(0..2_u8), 0..3_u8, option::weighted(0.3, 0..5_u8)).prop_map(
            |(route, host, refs, policy, header, mirror)| Edit::Route { route, host, refs, policy, header, mirror }
        ),
        1 => (0..5_u8).prop_map(Edit::RemoveRoute),
        3 => (0..4_u8, vec(1..5_u16, 0..3), option::of(0..2_u8))
            .prop_map(|(backend, ports, name)| Edit::Backend { backend, ports, name }),
        2 => (0..2_u8, 0..3_u8, any::<bool>())
            .prop_map(|(policy, threshold, checks)| Edit::Policy { policy, threshold, checks }),
        1 => option::of(1..5_u8).prop_map(Edit::Guard),
        1 => option::of(81..83_u16).prop_map(Edit::Gateway),
        1 => Just(Edit::Copy),
    ]
}

fn pool_name(route: u8) -> PoolName {
    PoolName::new(format!("httproute/n/r{route}/rule/0")).unwrap()
}

fn backend_name(backend: u8) -> BackendName {
    BackendName::new(format!("backend/n/b{backend}")).unwrap()
}

fn policy_name(policy: u8) -> PolicyName {
    PolicyName::new(format!("policy/n/p{policy}")).unwrap()
}

fn start() -> State {
    let mut state = State::default();
    apply(&mut state, &Edit::Gateway(None));
    (0..4).for_each(|backend| apply(&mut state, &Edit::Backend { backend, ports: vec![9], name: None }));
    (0..2).for_each(|policy| apply(&mut state, &Edit::Policy { policy, threshold: 0, checks: false }));
    for route in 0..5 {
        let edit = Edit::Route { route, host: 0, refs: vec![0], policy: None, header: 0, mirror: None };
        apply(&mut state, &edit);
    }
    state
}

fn apply(state: &mut State, edit: &Edit) {
    match edit {
        Edit::Route { route, host, refs, policy, header, mirror } => {
            let name = RouteName::new(format!("httproute/n/r{route}")).unwrap();
            let mut filters = Vec::new();
            if *header > 0 {
                // One of the names is none.
                let header = HeaderValue {
                    name: ["x", "a b"][usize::from(header - 1)].to_owned(),
                    value: "1".to_owned(),
                };
                filters.push(HttpFilter::RequestHeaders { set: vec![header], add: vec![], remove: vec![] });
            }
            let mirror = mirror.map(|other| RequestMirror {
                pool: pool_name(other),
                numerator: 100,
                denominator: 100,
            });
            let rule = Rule {
                name: None,
                matches: vec![HttpMatch {
                    path: PathMatch::Prefix("/".to_owned()),
                    method: None,
                    headers: vec![],
                    query: vec![],
                }],
                filters: mirror.map(HttpFilter::RequestMirror).into_iter().collect(),
                timeouts: None,
                retry: None,
                action: Action::Forward(pool_name(*route)),
            };
            let attachment = Attachment {
                gateway: GatewayName::new("gateway/n/g").unwrap(),
                listener: ListenerName::new("http").unwrap(),
                hostnames: (*host > 0)
                    .then(|| Hostname::new(format!("h{host}.example")).unwrap())
                    .into_iter()
                    .collect(),
            };
            let refs = refs.iter().enumerate().map(|(at, backend)| PoolRef {
                target: RefTarget::Backend(backend_name(*backend)),
                priority: u32::try_from(at).unwrap(),
                weight: 1,
                filters: filters.clone(),
            });
            let pool =
                Pool { name: pool_name(*route), policy: policy.map(policy_name), refs: refs.collect() };
            state.pools.insert(pool.name.clone(), Arc::new(pool));
            let route = Route {
                name: name.clone(),
                kind: RouteKind::Http,
                created: 1,
                attachments: vec![attachment],
                rules: vec![rule],
            };
            state.routes.insert(name, Arc::new(route));
        }
        Edit::Gateway(port) => {
            let listener = |port: u16| Listener {
                name: ListenerName::new(if port == 80 { "http" } else { "other" }).unwrap(),
                port,
                bind: vec![([127, 0, 0, 1], port).into()],
                protocol: Protocol::Http,
                hostname: None,
                tls: None,
            };
            let name = GatewayName::new("gateway/n/g").unwrap();
            let listeners = std::iter::once(80).chain(*port).map(listener).collect();
            state.gateways.insert(name.clone(), Arc::new(Gateway { name, listeners }));
        }
        // Its pool stays: a mirror may still need it.
        Edit::RemoveRoute(route) => drop(state.routes.remove(format!("httproute/n/r{route}").as_str())),
        Edit::Backend { backend, ports, name } => {
            let name_endpoint =
                name.map(|name| EndpointAddress::Fqdn { hostname: format!("name{name}"), port: 80 });
            let ports =
                ports.iter().map(|port| EndpointAddress::Ip { address: [10, 0, 0, 1].into(), port: *port });
            let backend = Backend {
                name: backend_name(*backend),
                protocol: UpstreamProtocol::Http1,
                tls: None,
                endpoints: ports.chain(name_endpoint).map(Endpoint::at).collect(),
            };
            state.backends.insert(backend.name.clone(), Arc::new(backend));
        }
        Edit::Policy { policy, threshold, checks } => {
            let mut policy = Policy::unset(policy_name(*policy));
            policy.panic_threshold = Percent::new(i64::from(*threshold)).unwrap();
            policy.dns.respect_ttl = *threshold > 0;
            policy.active =
                checks.then(|| Arc::new(ActiveHealthCheck::new(ActiveProbe::Http(HttpProbe::get("/")))));
            state.policies.insert(policy.name.clone(), Arc::new(policy));
        }
        Edit::Guard(denied) => {
            state.guards.clear();
            if let Some(port) = denied {
                let targets = DeniedTargets {
                    what: "denied".to_owned(),
                    networks: vec!["10.0.0.0/8".parse().unwrap()],
                    ports: vec![u16::from(*port)],
                };
                let name = GuardName::new("guard/g").unwrap();
                let guard =
                    Guard { name: name.clone(), deny: vec![targets], allow: vec![], unix_folder: None };
                state.guards.insert(name, Arc::new(guard));
            }
        }
        Edit::Copy => {
            state.routes.values_mut().for_each(|object| *object = Arc::new(Route::clone(object)));
            state.pools.values_mut().for_each(|object| *object = Arc::new(Pool::clone(object)));
            state.backends.values_mut().for_each(|object| *object = Arc::new(Backend::clone(object)));
        }
    }
}

/// All that is served, in words.
fn describe(world: &World) -> Vec<String> {
    let of_pool = |pool: &PoolTable| {
        format!(
            "{:?} {:?} {:?} {} {} {:?}",
            pool.pool.spec(),
            pool.filters,
            pool.limits,
            pool.checked,
            pool.buffer_limit,
            pool.tcp_keepalive
        )
    };
    let mut lines: Vec<String> = world
        .tables()
        .map(|table| {
            let mirrors = table.mirrors.iter().flat_map(|mirrors| &mirrors.of_rule);
            let mirrors: Vec<String> = mirrors.map(|mirror| of_pool(&mirror.table)).collect();
            let pool = table.pool.as_deref().map(of_pool);
            format!("{} {:?} {pool:?} {mirrors:?}", table.rule.label, table.rule.filters)
        })
        .collect();
    lines.sort();
    lines.push(format!("{:?} {:?} {}", world.degraded, world.refused, world.version));
    lines
}

struct Lab {
    engine: Arc<Engine>,
    metrics: Metrics,
    addresses: Arc<Addresses>,
}

impl Lab {
    fn new() -> Self {
        Self { engine: Engine::new(|| {}), metrics: Metrics::new("1").unwrap(), addresses: Arc::default() }
    }

    /// Builds a world; `answers` are the last bytes of the names' addresses, where they have an answer.
    fn build(
        &mut self,
        state: &Arc<State>,
        before: &World,
        answers: [Option<u8>; 2],
        at: u64,
        waits: bool,
    ) -> World {
        let resolve = |name: &str, _: &understudy_conf::Dns| {
            let answer = answers[usize::from(name == "name1")]?;
            Some(Arc::from([std::net::IpAddr::from([10, 9, 9, answer])]))
        };
        self.addresses = Arc::new(Addresses::collect(&names(state), &self.addresses, resolve, |_| waits));
        let guard = crate::guard::TargetGuard::build(state.guards.values().map(AsRef::as_ref), None);
        let tls = Arc::new(UpstreamTlsTable::build(state, &before.tls));
        let making = Making {
            outside: Outside { addresses: &self.addresses, tls: &tls, guard: &guard },
            engine: &self.engine,
            metrics: &self.metrics,
            now: Instant::from_micros(at * 1_000_000),
            patience: waits.then_some(Duration::from_secs(5)),
        };
        let world = World::build(state, before, &making);
        world.adopt_pools(&self.engine);
        world
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_world_that_follows_changes_equals_one_that_is_built_anew(
        steps in vec((vec(edit(), 1..4), [option::weighted(0.8, 1..3_u8), option::weighted(0.8, 1..3_u8)], any::<bool>()), 1..8),
    ) {
        let (mut lab, mut state) = (Lab::new(), start());
        let mut world = lab.build(&Arc::new(state.clone()), &World::empty(), [None; 2], 0, false);
        let mut now = 0;
        for (edits, answers, waits) in steps {
            let before = state.clone();
            edits.iter().for_each(|edit| apply(&mut state, edit));
            state.version += 1;
            let target = Arc::new(state.clone());
            now += 1;
            let next = lab.build(&target, &world, answers, now, waits);
            for held in next.held.keys() {
                prop_assert!(waits);
                // As before, or not at all.
                let known = world.state.routes.get(held);
                let labels = |world: &World| world.tables().filter(|table| table.rule.route == *held).count();
                prop_assert_eq!(labels(&next), known.map_or(0, |route| route.rules.len()), "{}", held);
            }
            if next.held.is_empty() {
                let mut fresh = Lab { addresses: lab.addresses.clone(), ..Lab::new() };
                let anew = fresh.build(&target, &World::empty(), answers, now, false);
                prop_assert_eq!(describe(&next), describe(&anew), "{:?} {:?}", edits, before);
            }
            world = next;
        }
        // Once nothing is waited for any more, nothing is held.
        let target = Arc::new(state);
        // Checks that begin with the last answer are waited for, too.
        let answered = lab.build(&target, &world, [Some(1), Some(2)], now + 10, true);
        let settled = lab.build(&target, &answered, [Some(1), Some(2)], now + 20, true);
        prop_assert!(settled.held.is_empty());
        let anew = Lab::new().build(&target, &World::empty(), [Some(1), Some(2)], now + 20, false);
        prop_assert_eq!(describe(&settled), describe(&anew));
    }
}

#[test]
fn what_did_not_change_is_taken_over() {
    let (mut lab, mut state) = (Lab::new(), start());
    let first = lab.build(&Arc::new(state.clone()), &World::empty(), [None; 2], 0, false);
    apply(&mut state, &Edit::Backend { backend: 1, ports: vec![1], name: None });
    let edit = Edit::Route { route: 3, host: 1, refs: vec![1], policy: None, header: 1, mirror: None };
    apply(&mut state, &edit);
    let second = lab.build(&Arc::new(state.clone()), &first, [None; 2], 1, true);
    let same = |a: &World, b: &World| {
        let of = |world: &World| world.tables().map(Arc::as_ptr).collect::<std::collections::HashSet<_>>();
        of(a).intersection(&of(b)).count()
    };
    assert_eq!((first.tables().count(), second.tables().count(), same(&first, &second)), (5, 5, 4));
    // A backend concerns those only who refer to it.
    apply(&mut state, &Edit::Backend { backend: 1, ports: vec![2], name: None });
    let third = lab.build(&Arc::new(state), &second, [None; 2], 2, true);
    assert_eq!(same(&second, &third), 4);
}

#[test]
fn a_route_whose_name_has_no_answer_yet_is_held_and_nothing_else() {
    let (mut lab, mut state) = (Lab::new(), start());
    let first = lab.build(&Arc::new(state.clone()), &World::empty(), [None; 2], 0, false);
    apply(&mut state, &Edit::Backend { backend: 2, ports: vec![], name: Some(0) });
    for route in [1, 2] {
        let refs = vec![if route == 1 { 2 } else { 1 }];
        apply(&mut state, &Edit::Route { route, host: 2, refs, policy: None, header: 0, mirror: None });
    }
    let state = Arc::new(state);
    let second = lab.build(&state, &first, [None; 2], 1, true);
    let held: Vec<&str> = second.held.keys().map(RouteName::as_str).collect();
    assert_eq!(held, ["httproute/n/r1"]);
    let origin = |world: &World, route: &str| {
        let table = world.tables().find(|table| table.rule.route.as_str() == route).unwrap();
        table.pool.as_ref().unwrap().pool.spec().refs[0].origin.to_string()
    };
    assert_eq!(origin(&second, "httproute/n/r1"), "backend/n/b0");
    assert_eq!(origin(&second, "httproute/n/r2"), "backend/n/b1");
    let third = lab.build(&state, &second, [Some(1), None], 2, true);
    assert!(third.held.is_empty());
    assert_eq!(origin(&third, "httproute/n/r1"), "backend/n/b2");
}

#[test]
fn a_gateway_that_changes_leaves_a_held_route_as_it_was() {
    let (mut lab, mut state) = (Lab::new(), start());
    let first = lab.build(&Arc::new(state.clone()), &World::empty(), [None; 2], 0, false);
    // Waits for a name, and for a check.
    apply(&mut state, &Edit::Policy { policy: 0, threshold: 0, checks: true });
    apply(&mut state, &Edit::Backend { backend: 2, ports: vec![], name: Some(0) });
    apply(&mut state, &Edit::Backend { backend: 1, ports: vec![7], name: None });
    for (route, backend, policy) in [(1, 2, None), (4, 1, Some(0))] {
        let edit = Edit::Route { route, host: 0, refs: vec![backend], policy, header: 0, mirror: None };
        apply(&mut state, &edit);
    }
    apply(&mut state, &Edit::Gateway(Some(81)));
    let second = lab.build(&Arc::new(state.clone()), &first, [None; 2], 1, true);
    apply(&mut state, &Edit::Gateway(None));
    let third = lab.build(&Arc::new(state), &second, [None; 2], 2, true);
    for world in [&second, &third] {
        let held: Vec<_> = world.held.keys().map(RouteName::as_str).collect();
        assert_eq!(held, ["httproute/n/r1", "httproute/n/r4"]);
        for route in held {
            let pool = |world: &World| {
                let table = world.tables().find(|table| table.rule.route.as_str() == route).unwrap();
                Arc::as_ptr(&table.pool.as_ref().unwrap().pool)
            };
            assert_eq!(pool(world), pool(&first), "{route}");
        }
    }
}

#[test]
fn no_route_is_held_longer_than_patience_however_often_it_changes() {
    let (mut lab, mut state) = (Lab::new(), start());
    let mut world = lab.build(&Arc::new(state.clone()), &World::empty(), [None; 2], 0, false);
    for (at, is_held) in [(1, true), (4, true), (7, false)] {
        apply(&mut state, &Edit::Backend { backend: 2, ports: vec![at], name: Some(0) });
        let edit =
            Edit::Route { route: 1, host: at as u8, refs: vec![2], policy: None, header: 0, mirror: None };
        apply(&mut state, &edit);
        world = lab.build(&Arc::new(state.clone()), &world, [None; 2], at.into(), true);
        assert_eq!(!world.held.is_empty(), is_held, "{at}");
    }
}

#[test]
fn h1_a_route_whose_new_endpoints_are_not_checked_yet_is_held() {
    let (mut lab, mut state) = (Lab::new(), start());
    let first = lab.build(&Arc::new(state.clone()), &World::empty(), [None; 2], 0, false);
    apply(&mut state, &Edit::Policy { policy: 0, threshold: 0, checks: true });
    apply(&mut state, &Edit::Backend { backend: 1, ports: vec![7], name: None });
    let edit = Edit::Route { route: 4, host: 0, refs: vec![1], policy: Some(0), header: 0, mirror: None };
    apply(&mut state, &edit);
    let state = Arc::new(state);
    let second = lab.build(&state, &first, [None; 2], 1, true);
    assert_eq!(second.held.keys().map(RouteName::as_str).collect::<Vec<_>>(), ["httproute/n/r4"]);
    // Its check is under way meanwhile.
    let due = lab.engine.tick(Instant::from_micros(1_000_000)).checks;
    assert_eq!(due.len(), 1);
    for check in due {
        lab.engine.checked(check, understudy_engine::CheckResult::Passed, Instant::from_micros(1_500_000));
    }
    let third = lab.build(&state, &second, [None; 2], 2, true);
    assert!(third.held.is_empty());
}
