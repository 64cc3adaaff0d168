//! The fuzz target `translate_yaml`; `cargo xtask fuzz translate_yaml` builds it with coverage and runs it.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| understudy_controller_fuzz::translate_yaml(data));
