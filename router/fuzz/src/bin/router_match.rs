//! The fuzz target `router_match`; `cargo xtask fuzz router_match` builds it with coverage and runs it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| understudy_router_fuzz::router_match(data));
