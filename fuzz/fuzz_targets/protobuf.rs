//! See `fuzz/src/protobuf.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| causality_fuzz::protobuf::run(input));
