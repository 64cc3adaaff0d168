//! The fuzz target `dns_answer`; `cargo xtask fuzz dns_answer` builds it with coverage and runs it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| understudy_proxy_fuzz::dns_answer(data));
