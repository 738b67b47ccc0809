//! See `fuzz/src/rules.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::rules::jsonpath(input));
