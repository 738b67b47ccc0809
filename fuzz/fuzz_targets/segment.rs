//! See `fuzz/src/segment.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::segment::run(input));
