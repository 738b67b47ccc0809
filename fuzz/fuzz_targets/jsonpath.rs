//! Paths of conditions: parsed, checked, and evaluated within their budget. After a line break, what is compared with.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

mod event;

const OPERATORS: &[&str] =
    &["eq", "ne", "gt", "gte", "lt", "lte", "contains", "regex", "in", "exists", "not_exists"];

fuzz_target!(|input: (u8, &str)| {
    let (operator, text) = input;
    let (path, value) = text.split_once('\n').unwrap_or((text, "1"));
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let operator = OPERATORS[usize::from(operator) % OPERATORS.len()];
    event::try_rule(json!({"name": "fuzzed", "conditions": [{"path": path, "operator": operator, "value": value}]}));
});
