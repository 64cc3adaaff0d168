//! A look-up allocates nothing.

// Counting what is allocated needs an allocator of one's own, and that is unsafe by its nature.
#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code)]
mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::*;
use http::HeaderMap;
use understudy_router::{RequestParts, Router};

struct Counting;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_look_up_allocates_nothing() {
    let p = |path: &str| with_query(with_header(prefix(path), "x", "1,2"), "q", "1");
    let many = (0..500).map(|number| {
        let host = format!("h{number}.example.com");
        let rules =
            vec![rule(vec![p("/a/b"), exact("/c")]), rule(vec![regex("/r/[0-9]+")]), rule(vec![prefix("/")])];
        route(&format!("httproute/default/r{number}"), &[&host, "*.example.com"], rules)
    });
    let (router, _) = Router::build(&simple(many.collect()));
    let mut headers = HeaderMap::new();
    headers.append("x", "1".parse().unwrap());
    headers.append("x", "2".parse().unwrap());
    let socket = SOCKET.parse().unwrap();
    let look_up = |host: &str, path: &str| {
        let parts = RequestParts { host, path, query: Some("a=b&q=1"), method: "GET", headers: &headers };
        router.socket(&socket).and_then(|table| table.lookup(&parts)).map(|found| found.rule.rule_index)
    };
    // The first uses of an expression make its scratch space, which is kept.
    assert_eq!(look_up("h7.example.com", "/r/12"), Some(1));
    assert_eq!(look_up("other.example.com", "/x/y/z"), Some(2));
    let before = COUNT.with(Cell::get);
    for _ in 0..100 {
        assert_eq!(look_up("h7.example.com", "/a/b/c"), Some(0));
        assert_eq!(look_up("H8.Example.COM.:8080", "/c"), Some(0));
        assert_eq!(look_up("h7.example.com", "/r/12"), Some(1));
        assert_eq!(look_up("other.example.com", "/x/y/z"), Some(2));
        assert_eq!(look_up("example.com", "/"), None);
    }
    assert_eq!(COUNT.with(Cell::get) - before, 0);
}
