//! The indexed look-up equals a scan over everything, written straight from the specification.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code)]
mod common;
mod scan;

use std::sync::Arc;

use common::*;
use http::HeaderMap;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use scan::{Request, look_up, scan};
use understudy_conf::{HttpMatch, HttpMethod, Listener, PathMatch, QueryMatch, Route, State, StringMatch};
use understudy_router::Router;

fn host_name() -> impl Strategy<Value = &'static str> {
    select(vec!["a.x.y", "b.x.y", "c.a.x.y", "x.y", "*.x.y", "*.a.x.y", "*.y", "y", "z"])
}

fn path_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => vec(select(vec!["a", "b", "ab"]), 0..3).prop_map(|elements| format!("/{}", elements.join("/"))),
        1 => "(/[ab]{0,2}){1,4}/?",
    ]
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        3 => Just(StringMatch::Exact("1".to_owned())),
        2 => select(vec!["1", "2", "1,2", ""]).prop_map(|text| StringMatch::Exact(text.to_owned())),
        3 => select(vec!["1|2", "[12]", "1.*", ".*"]).prop_map(|text| StringMatch::Regex(text.to_owned())),
    ]
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path_match = prop_oneof![
        // Often the same path, so that the order behind it decides.
        3 => Just(PathMatch::Prefix("/".to_owned())),
        2 => path_text().prop_map(PathMatch::Prefix),
        2 => path_text().prop_map(PathMatch::Exact),
        1 => select(vec!["/a.*", "/[ab]", "/a/b", ".*", "/(a|b)/.*", "/"]).prop_map(|p| PathMatch::Regex(p.to_owned())),
    ];
    let method = option::weighted(0.3, select(vec!["GET", "POST"]));
    let pairs = || proptest::collection::btree_map(select(vec!["h", "k"]), string_match(), 0..3);
    (path_match, method, pairs(), pairs()).prop_map(|(path_match, method, headers, query)| {
        let mut built = path(path_match);
        built.method = method.map(|method| HttpMethod(method.to_owned()));
        built.headers = headers
            .into_iter()
            .map(|(name, value)| understudy_conf::HeaderMatch { name: name.to_owned(), value })
            .collect();
        built.query =
            query.into_iter().map(|(name, value)| QueryMatch { name: name.to_owned(), value }).collect();
        built
    })
}

/// Two gateways on two sockets, each with listeners whose hostnames differ.
fn world() -> impl Strategy<Value = State> {
    let listeners = || proptest::collection::btree_set(option::of(host_name()), 1..4);
    let routes = vec(
        (
            0usize..2,
            0usize..4,
            vec(host_name(), 0..3),
            0i64..3,
            vec(vec(http_match(), 1..3), 1..3),
            0usize..8,
        ),
        0..8,
    );
    (listeners(), listeners(), routes).prop_map(|(first, second, routes)| {
        let gateways =
            [("g0", "127.0.0.1:80", first), ("g1", "127.0.0.1:81", second)].map(|(name, socket, hosts)| {
                let of = |(number, hostname): (usize, Option<&str>)| Listener {
                    bind: vec![socket.parse().unwrap()],
                    ..listener(&format!("l{number}"), hostname)
                };
                gateway(name, hosts.into_iter().enumerate().map(of).collect())
            });
        let routes =
            routes.into_iter().enumerate().map(|(number, (at, on, hosts, created, rules, order))| {
                let listeners = &gateways[at].listeners;
                let listener = listeners[on % listeners.len()].name.as_str();
                let rules = rules.into_iter().map(rule).collect();
                // Names whose order is not the order in which they are made.
                let name = format!("httproute/n{order}/r{number}");
                Route { created, ..route_on(&format!("g{at}"), listener, &name, &hosts, rules) }
            });
        let routes = routes.collect();
        state(gateways.to_vec(), routes)
    })
}

fn request() -> impl Strategy<Value = Request> {
    let host = (host_name(), select(vec!["", ":80", ".", ".:80"]), any::<bool>()).prop_map(
        |(name, end, capitals)| {
            let name = name.replace('*', "q") + end;
            if capitals { name.to_uppercase() } else { name }
        },
    );
    let headers = vec((select(vec!["h", "k"]), select(vec!["1", "2", ""])), 0..5).prop_map(|pairs| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, value.parse().unwrap());
        }
        headers
    });
    let query = vec((select(vec!["h", "k", "H"]), select(vec!["=1", "=1", "=1", "=2", "=1=2", ""])), 0..4)
        .prop_map(|pairs| {
            pairs.into_iter().map(|(name, value)| format!("{name}{value}")).collect::<Vec<_>>().join("&")
        });
    let socket = select(vec!["127.0.0.1:80", "127.0.0.1:81"]);
    (socket, host, path_text(), option::of(query), select(vec!["GET", "POST", "PUT"]), headers).prop_map(
        |(socket, host, path, query, method, headers)| Request {
            socket: socket.parse().unwrap(),
            host,
            path,
            query,
            method: method.to_owned(),
            headers,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_look_up_equals_a_scan_over_everything(state in world(), requests in vec(request(), 40)) {
        let (router, degraded) = Router::build(&state);
        prop_assert_eq!(degraded, Vec::<String>::new());
        for request in &requests {
            prop_assert_eq!(look_up(&router, request), scan(&state, request), "{:?}", request);
        }
    }

    #[test]
    fn an_updated_router_equals_one_that_is_built_anew(
        all in world(),
        steps in vec(vec((any::<Index>(), any::<Index>(), 0..4_u8), 1..4), 1..6),
        requests in vec(request(), 20),
    ) {
        let pool: Vec<_> = all.routes.values().cloned().collect();
        prop_assume!(!pool.is_empty());
        let mut state = all;
        let (mut router, _) = Router::build(&state);
        let mut most = router.rules().len();
        for step in steps {
            let before = state.clone();
            for (at, other, kind) in step {
                let mut route = Route::clone(at.get::<Arc<Route>>(&pool));
                match kind {
                    0 => drop(state.routes.remove(&route.name)),
                    1 => drop(state.routes.insert(route.name.clone(), at.get::<Arc<Route>>(&pool).clone())),
                    _ => {
                        let other = Route::clone(other.get::<Arc<Route>>(&pool));
                        if kind == 2 { route.rules = other.rules } else { route.attachments = other.attachments }
                        state.routes.insert(route.name.clone(), route.into());
                    }
                }
            }
            let after = router.update(&before, &state);
            let (fresh, problems) = Router::build(&state);
            prop_assert_eq!(after.problems().cloned().collect::<Vec<_>>(), problems);
            for request in &requests {
                prop_assert_eq!(look_up(&after, request), scan(&state, request), "{:?}", request);
            }
            let mut labels = [&after, &fresh].map(|router| {
                let rules = router.rules().iter().flatten();
                rules.map(|rule| rule.label.clone()).collect::<Vec<_>>()
            });
            labels.iter_mut().for_each(|labels| labels.sort());
            prop_assert_eq!(&labels[0], &labels[1]);
            for (id, rule) in after.rules().iter().enumerate() {
                let Some(rule) = rule else { continue };
                prop_assert_eq!(rule.id, id);
                let same = |state: &State| state.routes.get(&rule.route).cloned();
                let stays = match (same(&before), same(&state)) {
                    (Some(before), Some(after)) => Arc::ptr_eq(&before, &after),
                    _ => false,
                };
                let known = router.rules().get(id).and_then(Option::as_ref);
                prop_assert_eq!(known.is_some_and(|known| Arc::ptr_eq(known, rule)), stays, "{}", &rule.label);
            }
            // Places are used again.
            let alive = after.rules().iter().flatten().count();
            most = most.max(alive);
            prop_assert!(after.rules().len() <= most);
            router = after;
        }
    }

    #[test]
    fn nothing_that_a_client_sends_makes_a_look_up_panic(
        state in world(),
        host in any::<String>(),
        path in any::<String>(),
        query in option::of(any::<String>()),
        method in any::<String>(),
        value in vec(any::<u8>(), 0..8),
    ) {
        let (router, _) = Router::build(&state);
        let mut headers = HeaderMap::new();
        for name in ["h", "k", "h"] {
            if let Ok(value) = http::HeaderValue::from_bytes(&value) {
                headers.append(name, value);
            }
        }
        for path in [path.clone(), format!("/{path}"), format!("/a/{path}"), format!("/a{path}/b")] {
            for host in [host.clone(), format!("{host}.x.y"), format!("{host}:80"), format!("[{host}]"), format!("É{host}")] {
                let socket = "127.0.0.1:80".parse().unwrap();
                let request =
                    Request { socket, host, path: path.clone(), query: query.clone(), method: method.clone(), headers: headers.clone() };
                if let Some((_, Some(prefix))) = look_up(&router, &request) {
                    prop_assert!(path.starts_with(&prefix));
                }
            }
        }
    }
}
