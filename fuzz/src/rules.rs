//! Expressions in CEL and paths of conditions: parsed, checked, and evaluated within their budget.

use causality::reaction::{Matcher, View};
use causality::store::NewRule;
use serde_json::{Value, json};

const OPERATORS: &[&str] = &["eq", "ne", "gt", "gte", "lt", "lte", "contains", "regex", "in", "exists", "not_exists"];

pub fn cel(input: &[u8]) {
    let Ok(source) = std::str::from_utf8(input) else { return };
    try_rule(json!({"name": "fuzzed", "expression": source}));
}

/// A byte for the operator, the path, and after a line break what is compared with.
pub fn jsonpath(input: &[u8]) {
    let Some((operator, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (path, value) = text.split_once('\n').unwrap_or((text, "1"));
    let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    let operator = OPERATORS[usize::from(*operator) % OPERATORS.len()];
    try_rule(json!({"name": "fuzzed", "conditions": [{"path": path, "operator": operator, "value": value}]}));
}

/// Compiles a rule as one that is read from the store, checks it as one that is written, and tries it.
fn try_rule(document: Value) {
    let Ok(rule) = serde_json::from_value::<NewRule>(document) else { return };
    let refusals = causality::reaction::check_rule(&rule);
    for refusal in &refusals {
        assert!(!refusal.detail.is_empty());
    }
    match Matcher::compile(&rule) {
        Ok(matcher) => drop(matcher.matches(&View::from(view()))),
        Err(errors) => assert!(!errors.is_empty() && !refusals.is_empty(), "what cannot be compiled is refused"),
    }
}

/// The event that rules are tried on.
fn view() -> Value {
    json!({
        "id": "0190c0de-0000-7000-8000-000000000001", "app_id": "shop", "device_id": "device-1",
        "timestamp_ms": 1_763_800_000_000i64, "correlation_id": "", "user_id": "u", "session_id": "",
        "device_context": {"platform": "PLATFORM_IOS", "os_version": "18.1", "screen_width": 390, "is_emulator": false},
        "purchase_complete": {"order_id": "o-1", "item_count": 2, "total_cents": 9_007_199_254_740_993i64,
            "currency": "EUR", "items": [{"product_id": "p-1", "quantity": 2, "price_cents": 6_250},
            {"product_id": "é\u{1F600}", "quantity": -1, "price_cents": i64::MIN}], "coupon_codes": ["a", "b", ""]},
        "custom_event": {"event_name": "n", "properties": {"a": 0.5, "b": [1, [2, {"c": null}]], "d": u64::MAX},
            "string_params": {"k": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}},
    })
}
