//! See `fuzz/src/cloud_events.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::cloud_events::run(input));
