//! See `fuzz/src/yaml.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::yaml::run(input));
