//! Expressions: parsed, checked, and evaluated within their budget.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;

mod event;

fuzz_target!(|source: &str| event::try_rule(json!({"name": "fuzzed", "expression": source})));
