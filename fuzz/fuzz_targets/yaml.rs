//! Files of `causality apply`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(refusal) = causality::cli::apply::count_documents("fuzzed.yaml", text) {
        assert!(refusal.starts_with("fuzzed.yaml"), "{refusal}");
    }
});
