//! The fuzz target `state_decode`; `cargo xtask fuzz state_decode` builds it with coverage and runs it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| understudy_conf_fuzz::state_decode(data));
