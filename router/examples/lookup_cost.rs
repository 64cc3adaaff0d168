//! What a look-up costs, by the number of routes and hosts: `cargo run --release -p understudy-router --example
//! lookup_cost`.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "it prints figures for a developer")]
#![allow(clippy::disallowed_types, reason = "it measures real time")]

#[path = "../tests/common/mod.rs"]
#[allow(dead_code)]
mod common;

use std::hint::black_box;
use std::time::Instant;

use common::{SOCKET, exact, prefix, route, rule, simple};
use http::HeaderMap;
use understudy_router::{RequestParts, Router};

const LOOKUPS: usize = 1_000_000;

fn main() {
    println!("routes  layout             build ms  ns per look-up");
    for count in [1, 100, 5_000] {
        measure(count, "one host each", |n| format!("h{n}.example.com"), |n| format!("/api/v1/r{n}"));
        measure(count, "one host for all", |_| "www.example.com".to_owned(), |n| format!("/api/v1/r{n}"));
    }
}

fn measure(count: usize, layout: &str, host: impl Fn(usize) -> String, path: impl Fn(usize) -> String) {
    let routes = (0..count).map(|number| {
        let rules =
            vec![rule(vec![prefix(&path(number))]), rule(vec![exact(&format!("{}/x", path(number)))])];
        route(&format!("httproute/default/r{number}"), &[&host(number)], rules)
    });
    let state = simple(routes.collect());
    let began = Instant::now();
    let (router, _) = Router::build(&state);
    let built = began.elapsed();
    let requests: Vec<(String, String)> = (0..count.min(1_000))
        .map(|n| (host(n * count / count.min(1_000)), path(n * count / count.min(1_000)) + "/item/1"))
        .collect();
    let headers = HeaderMap::new();
    let socket = SOCKET.parse().unwrap();
    let began = Instant::now();
    let mut found = 0;
    for number in 0..LOOKUPS {
        let (host, path) = &requests[number % requests.len()];
        let parts = RequestParts { host, path, query: None, method: "GET", headers: &headers };
        let table = router.socket(&socket).unwrap();
        found += usize::from(black_box(table.lookup(&parts)).is_some());
    }
    assert_eq!(found, LOOKUPS);
    let nanos = began.elapsed().as_nanos() / LOOKUPS as u128;
    println!("{count:>6}  {layout:<17}  {:>8.1}  {nanos:>14}", built.as_secs_f64() * 1e3);
}
