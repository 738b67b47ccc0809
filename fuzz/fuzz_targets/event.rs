//! The event that rules are tried on.

use causality::reaction::{Matcher, View};
use causality::store::NewRule;
use serde_json::{Value, json};

pub fn view() -> Value {
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

/// Compiles a rule as one that is read from the store, checks it as one that is written, and tries it.
pub fn try_rule(document: Value) {
    let Ok(rule) = serde_json::from_value::<NewRule>(document) else { return };
    let refusals = causality::reaction::check_rule(&rule);
    for refusal in &refusals {
        assert!(!refusal.detail.is_empty());
    }
    match Matcher::compile(&rule) {
        Ok(matcher) => drop(matcher.judge(&View::from(view()))),
        Err(errors) => assert!(!errors.is_empty() && !refusals.is_empty(), "what cannot be compiled is refused"),
    }
}
