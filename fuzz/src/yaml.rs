//! Files of `causality apply`.

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Err(refusal) = causality::cli::apply::count_documents("fuzzed.yaml", text) {
        assert!(refusal.starts_with("fuzzed.yaml"), "{refusal}");
    }
}
