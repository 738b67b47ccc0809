//! See `fuzz/src/json_lines.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::json_lines::run(input));
