//! See `fuzz/src/otlp.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::otlp::run(input));
