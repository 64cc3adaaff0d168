//! Routes that carry no HTTP: which rule the connections of a listener belong to.
#![allow(missing_docs, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;

use understudy_conf::{
    Action, Attachment, Gateway, GatewayName, Hostname, Listener, ListenerName, Protocol, Route, RouteKind,
    RouteName, Rule, State,
};
use understudy_router::{Router, StreamTable};

const GATEWAY: &str = "gateway/default/eg";

fn address(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

fn listener(name: &str, protocol: Protocol, port: u16) -> Listener {
    Listener {
        name: ListenerName::new(name).unwrap(),
        port,
        bind: vec![address(port)],
        protocol,
        hostname: None,
        tls: None,
    }
}

fn of_kind(kind: RouteKind, name: &str, listener: &str, hostnames: &[&str], created: i64) -> Route {
    let rule = Rule {
        name: None,
        matches: vec![],
        filters: vec![],
        timeouts: None,
        retry: None,
        action: Action::Respond(500),
    };
    Route {
        name: RouteName::new(name).unwrap(),
        kind,
        created,
        attachments: vec![Attachment {
            gateway: GatewayName::new(GATEWAY).unwrap(),
            listener: ListenerName::new(listener).unwrap(),
            hostnames: hostnames.iter().map(|name| Hostname::new(name).unwrap()).collect(),
        }],
        rules: vec![rule],
    }
}

/// One gateway with a listener of each protocol.
fn world(routes: Vec<Route>) -> State {
    let name = GatewayName::new(GATEWAY).unwrap();
    let listeners = vec![
        listener("http", Protocol::Http, 80),
        listener("tls", Protocol::Tls, 443),
        listener("tcp", Protocol::Tcp, 53),
        listener("udp", Protocol::Udp, 53),
    ];
    State {
        gateways: [(name.clone(), Arc::new(Gateway { name, listeners }))].into(),
        routes: routes.into_iter().map(|route| (route.name.clone(), Arc::new(route))).collect(),
        ..State::default()
    }
}

fn label(table: Option<&Arc<StreamTable>>, name: Option<&str>) -> String {
    let rule = table.and_then(|table| table.find(name));
    rule.map_or_else(|| "none".to_owned(), |rule| rule.route.to_string())
}

fn of_tls(router: &Router, name: Option<&str>) -> String {
    let (gateway, listener) = (GatewayName::new(GATEWAY).unwrap(), ListenerName::new("tls").unwrap());
    label(router.tls(&gateway, &listener), name)
}

#[test]
fn the_most_specific_server_name_wins_then_the_oldest_route() {
    let (router, problems) = Router::build(&world(vec![
        of_kind(RouteKind::Tls, "t/any", "tls", &[], 1),
        of_kind(RouteKind::Tls, "t/wild", "tls", &["*.example.com"], 2),
        of_kind(RouteKind::Tls, "t/young", "tls", &["www.example.com"], 4),
        of_kind(RouteKind::Tls, "t/old", "tls", &["www.example.com", "shop.test"], 3),
        of_kind(RouteKind::Tls, "t/ageless", "tls", &["shop.test"], 0),
        of_kind(RouteKind::Tls, "t/deep", "tls", &["*.a.example.com"], 9),
    ]));
    assert!(problems.is_empty(), "{problems:?}");
    for (name, expected) in [
        (Some("www.example.com"), "t/old"),
        (Some("WWW.example.com."), "t/old"),
        (Some("shop.test"), "t/old"),
        (Some("api.example.com"), "t/wild"),
        (Some("b.a.example.com"), "t/deep"),
        (Some("example.com"), "t/any"),
        (None, "t/any"),
    ] {
        assert_eq!(of_tls(&router, name), expected, "{name:?}");
    }
}

#[test]
fn tcp_and_udp_on_one_port_are_two_listeners() {
    let (router, problems) = Router::build(&world(vec![
        of_kind(RouteKind::Tcp, "t/tcp", "tcp", &[], 1),
        of_kind(RouteKind::Udp, "t/udp", "udp", &[], 1),
    ]));
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(label(router.tcp(&address(53)), None), "t/tcp");
    assert_eq!(label(router.udp(&address(53)), None), "t/udp");
    assert_eq!(label(router.tcp(&address(80)), None), "none");
    assert!(router.socket(&address(53)).is_none(), "no request comes from there");
}

#[test]
fn a_route_on_a_listener_of_another_kind_gets_nothing_and_that_is_said() {
    let (router, problems) = Router::build(&world(vec![
        of_kind(RouteKind::Tcp, "t/tcp", "udp", &[], 1),
        of_kind(RouteKind::Udp, "t/udp", "http", &[], 1),
        of_kind(RouteKind::Http, "t/http", "tcp", &[], 1),
        of_kind(RouteKind::Tls, "t/tls", "gone", &[], 1),
        // What TLS was taken off is a connection of TCP.
        of_kind(RouteKind::Tcp, "t/ended", "tls", &[], 1),
    ]));
    assert_eq!(problems.len(), 4, "{problems:?}");
    for name in ["t/tcp", "t/udp", "t/http", "t/tls"] {
        assert!(
            problems.iter().any(|problem| problem.starts_with(&format!("{name} is attached to"))),
            "{name}"
        );
    }
    assert_eq!(label(router.udp(&address(53)), None), "none");
    assert_eq!(of_tls(&router, Some("any.test")), "t/ended");
}

#[test]
fn of_two_listeners_on_one_socket_the_first_has_it_and_that_is_said() {
    let mut state = world(vec![
        of_kind(RouteKind::Tcp, "t/one", "tcp", &[], 1),
        of_kind(RouteKind::Tcp, "t/two", "second", &[], 1),
    ]);
    let gateway = Arc::make_mut(state.gateways.values_mut().next().unwrap());
    gateway.listeners.push(listener("second", Protocol::Tcp, 53));
    let (router, problems) = Router::build(&state);
    assert_eq!(label(router.tcp(&address(53)), None), "t/one");
    assert!(problems.len() == 1 && problems[0].contains("another listener has the socket"), "{problems:?}");
}

#[test]
fn a_router_that_follows_changes_equals_one_that_is_built_anew() {
    let steps = [
        vec![of_kind(RouteKind::Tcp, "t/b", "tcp", &[], 2)],
        vec![
            of_kind(RouteKind::Tcp, "t/b", "tcp", &[], 2),
            of_kind(RouteKind::Tls, "t/c", "tls", &["a.test"], 1),
        ],
        // Older than the one before.
        vec![of_kind(RouteKind::Tcp, "t/b", "tcp", &[], 2), of_kind(RouteKind::Tcp, "t/z", "tcp", &[], 1)],
        vec![of_kind(RouteKind::Udp, "t/b", "udp", &[], 2), of_kind(RouteKind::Http, "t/z", "http", &[], 1)],
        vec![],
    ];
    let (mut router, mut before) = (Router::default(), State::default());
    for routes in steps {
        let after = world(routes);
        router = router.update(&before, &after);
        let (anew, problems) = Router::build(&after);
        assert!(problems.is_empty(), "{problems:?}");
        for table in [Router::tcp, Router::udp] {
            let of = |router| label(table(router, &address(53)), None);
            assert_eq!(of(&router), of(&anew));
        }
        assert_eq!(of_tls(&router, Some("a.test")), of_tls(&anew, Some("a.test")));
        // Every rule that can be found is one of the router's own.
        let found = router.tcp(&address(53)).and_then(|table| table.find(None));
        if let Some(rule) = found {
            assert!(Arc::ptr_eq(router.rules()[rule.id].as_ref().unwrap(), rule));
        }
        before = after;
    }
}
