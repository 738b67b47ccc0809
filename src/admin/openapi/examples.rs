//! Example documents that work as they are, one after the other.

use serde_json::{Value, json};

pub(super) fn webhook() -> Value {
    json!({
        "name": "ops",
        "url": "https://ops.example.com/hook",
        "headers": {"X-Env": "prod"},
        "auth_type": "hmac",
        "auth_config": {"secret": "s3cret", "header": "X-Signature"},
    })
}

pub(super) fn rule() -> Value {
    json!({
        "name": "big purchase",
        "app_id": "shop",
        "event_category": "commerce",
        "event_type": "purchase_complete",
        "conditions": [{"path": "$.purchase_complete.total_cents", "operator": "gte", "value": 10000}],
        "expression": "event.purchase_complete.currency == 'EUR'",
        "actions": {"webhooks": ["ops"], "publish_subjects": ["alerts.{app_id}.purchase"]},
        "priority": 10,
    })
}

pub(super) fn anomaly() -> Value {
    json!({
        "name": "login storm",
        "event_category": "user",
        "event_type": "login",
        "detection_type": "rate",
        "config": {"max_per_minute": 30, "group_by": "$.device_id"},
        "cooldown_seconds": 600,
    })
}

pub(super) fn erasure() -> Value {
    json!({"device_id": "phone-1", "app_id": "shop", "after_sequence": 0})
}

pub(super) fn set() -> Value {
    json!({"webhooks": [webhook()], "rules": [rule()], "anomalies": [anomaly()]})
}
