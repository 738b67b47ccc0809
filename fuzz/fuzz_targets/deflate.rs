//! See `fuzz/src/coding.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::coding::deflate(input));
