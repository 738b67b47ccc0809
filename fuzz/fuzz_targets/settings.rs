//! See `fuzz/src/settings.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::settings::run(input));
