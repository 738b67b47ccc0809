//! The main job from end to end: events of every kind in JSON and binary, each field read
//! back by an independent reader; rules and anomalies that call webhooks.

use std::time::Duration;

use prost::Message;
use serde_json::{Value, json};

use causality::event::proto::{IngestEventBatchRequest, IngestEventBatchResponse};

use crate::cluster::Backends;
use crate::harness::{Receiver, post_bytes, python};

const PAYLOADS: &str = include_str!("fixtures/payloads.json");

/// 2026-03-04T05:06:07.089Z
const TIMESTAMP_MS: i64 = 1_772_600_767_089;

/// The events of the fixture, each with the row that must come of it.
fn events_and_rows(prefix: &str) -> (Vec<Value>, Vec<Value>) {
    let payloads: Vec<Value> = serde_json::from_str(PAYLOADS).unwrap();
    payloads
        .iter()
        .enumerate()
        .map(|(index, payload)| event_and_row(&format!("{prefix}-{index}"), index, payload))
        .unzip()
}

fn event_and_row(id: &str, index: usize, payload: &Value) -> (Value, Value) {
    let with_device = index.is_multiple_of(2);
    let app = ["shop", "app.two"][index % 2];
    let mut event = json!({
        "id": id, "appId": app, "deviceId": format!("device {index}"), "timestampMs": TIMESTAMP_MS.to_string(),
    });
    let mut row = json!({
        "id": id, "app_id": app, "device_id": format!("device {index}"), "timestamp_ms": TIMESTAMP_MS,
        "event_category": payload["category"], "event_type": payload["type"], "payload_json": payload["payload"],
        "correlation_id": "", "idempotency_key": "", "user_id": "", "session_id": "",
        "year": "2026", "month": "03", "day": "04", "hour": "05",
    });
    if with_device {
        event["correlationId"] = json!(format!("correlation-{index}"));
        event["idempotencyKey"] = json!(format!("key-{id}"));
        row["correlation_id"] = event["correlationId"].clone();
        row["idempotency_key"] = event["idempotencyKey"].clone();
        event["userId"] = json!("user ä");
        event["sessionId"] = json!("session-1");
        row["user_id"] = event["userId"].clone();
        row["session_id"] = event["sessionId"].clone();
        event["deviceContext"] = json!({
            "platform": "PLATFORM_IOS", "osVersion": "17.4", "appVersion": "3.2.1", "buildNumber": "321",
            "deviceModel": "iPhone15,2", "manufacturer": "Apple", "screenWidth": 1179, "screenHeight": 2556,
            "locale": "de_DE", "timezone": "Europe/Berlin", "networkType": "NETWORK_TYPE_CELLULAR_5G",
            "carrier": "Télékom", "isJailbroken": true, "isEmulator": false, "sdkVersion": "9.9",
        });
        for (name, value) in [
            ("platform", json!("PLATFORM_IOS")),
            ("os_version", json!("17.4")),
            ("app_version", json!("3.2.1")),
            ("build_number", json!("321")),
            ("device_model", json!("iPhone15,2")),
            ("manufacturer", json!("Apple")),
            ("screen_width", json!(1179)),
            ("screen_height", json!(2556)),
            ("locale", json!("de_DE")),
            ("timezone", json!("Europe/Berlin")),
            ("network_type", json!("NETWORK_TYPE_CELLULAR_5G")),
            ("carrier", json!("Télékom")),
            ("is_jailbroken", json!(true)),
            ("is_emulator", json!(false)),
            ("sdk_version", json!("9.9")),
        ] {
            row[name] = value;
        }
    } else {
        for name in [
            "platform",
            "os_version",
            "app_version",
            "build_number",
            "device_model",
            "manufacturer",
            "screen_width",
            "screen_height",
            "locale",
            "timezone",
            "network_type",
            "carrier",
            "is_jailbroken",
            "is_emulator",
            "sdk_version",
        ] {
            row[name] = Value::Null;
        }
    }
    for (name, value) in payload["sent"].as_object().unwrap() {
        event[name] = value.clone();
    }
    (event, row)
}

#[test]
fn every_field_of_every_kind_is_read_back() {
    every_field_of_every_kind_is_read_back_over(&Backends::Embedded);
}

#[test]
fn every_field_of_every_kind_is_read_back_on_servers() {
    every_field_of_every_kind_is_read_back_over(&Backends::servers());
}

fn every_field_of_every_kind_is_read_back_over(backends: &Backends) {
    let dir = tempfile::tempdir().unwrap();
    let server = backends.start(dir.path(), &[("BATCH_FLUSH_INTERVAL", "1s")]);

    let (events, mut rows) = events_and_rows("json");
    let (single, batch) = events.split_at(10);
    for event in single {
        let (status, reply) = server.send("/v1/events/ingest", &json!({"event": event})).unwrap();
        assert_eq!((status, &reply["eventId"], &reply["status"]), (200, &event["id"], &json!("accepted")), "{reply}");
    }
    let (status, reply) = server.send("/v1/events/batch", &json!({"events": batch})).unwrap();
    assert_eq!((status, &reply["acceptedCount"]), (200, &json!(batch.len())), "{reply}");

    let (events, binary_rows) = events_and_rows("binary");
    rows.extend(binary_rows);
    let request: IngestEventBatchRequest = serde_json::from_value(json!({"events": events})).unwrap();
    let url = format!("{}/v1/events/batch", server.http);
    let (status, reply) = post_bytes(&url, &request.encode_to_vec(), "application/x-protobuf").unwrap();
    let reply = IngestEventBatchResponse::decode(&*reply).unwrap();
    assert_eq!((status, reply.accepted_count, reply.rejected_count), (200, events.len() as i32, 0), "{reply:?}");

    // The same key again is a duplicate, and no second row.
    let (status, reply) = server.send("/v1/events/ingest", &json!({"event": single[0]})).unwrap();
    assert_eq!((status, &reply["duplicate"]), (200, &json!(true)), "{reply}");

    server.wait_drained();
    let read = python(
        "read_parquet.py",
        &[backends.warehouse(&server).to_str().unwrap(), "compare"],
        &Value::from(rows.clone()).to_string(),
    );
    assert_eq!(read.trim(), rows.len().to_string());
    server.expect_quiet_log(&[]);
}

fn purchase(id: &str, device: &str, cents: i64) -> Value {
    json!({"event": {"id": id, "appId": "shop", "deviceId": device, "correlationId": "c-1",
        "deviceContext": {"platform": "PLATFORM_IOS"},
        "purchaseComplete": {"orderId": "o-1", "totalCents": cents, "currency": "EUR"}}})
}

#[test]
fn rules_and_anomalies_call_webhooks() {
    rules_and_anomalies_call_webhooks_over(&Backends::Embedded);
}

#[test]
fn rules_and_anomalies_call_webhooks_on_servers() {
    rules_and_anomalies_call_webhooks_over(&Backends::servers());
}

fn rules_and_anomalies_call_webhooks_over(backends: &Backends) {
    let dir = tempfile::tempdir().unwrap();
    let server = backends.start(dir.path(), &[]);
    let receiver = Receiver::start();
    let hook = |name: &str, extra: Value| {
        let mut document = json!({"name": name, "url": format!("{}/{name}", receiver.url)});
        document.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        server.admin_create("/webhooks", &document)
    };
    hook("plain", json!({}));
    hook(
        "basic",
        json!({"auth_type": "basic", "auth_config": {"username": "u", "password": "p"}, "headers": {"X-Env": "prod"}}),
    );
    hook("bearer", json!({"method": "PUT", "auth_type": "bearer", "auth_config": {"token": "t0k"}}));
    hook("hmac", json!({"auth_type": "hmac", "auth_config": {"secret": "s3cret", "header": "X-Mine"}}));
    hook(
        "standard",
        json!({"auth_type": "standard", "auth_config": {"secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="}}),
    );
    let rule = server.admin_create("/rules", &json!({
        "name": "big purchase", "app_id": "shop", "event_category": "commerce", "event_type": "purchase_complete",
        "conditions": [{"path": "$.purchase_complete.total_cents", "operator": "gte", "value": 10000}],
        "expression": "event.device_context.platform == 'PLATFORM_IOS'",
        "actions": {"webhooks": ["plain", "basic", "bearer", "hmac", "standard"], "publish_subjects": ["alerts.{app_id}.purchase"]},
    }));
    hook("anomaly", json!({}));
    let anomaly = |name: &str, kind: &str, config: Value| {
        server.admin_create(
            "/anomalies",
            &json!({"name": name, "app_id": "shop", "event_type": "purchase_complete",
            "detection_type": kind, "config": config, "actions": {"webhooks": ["anomaly"]}}),
        );
    };
    anomaly("too big", "threshold", json!({"path": "$.purchase_complete.total_cents", "max": 50000}));
    anomaly("too often", "rate", json!({"max_per_minute": 3, "group_by": "$.device_id"}));
    anomaly("too many", "count", json!({"window_seconds": 3600, "max_count": 4}));

    assert_eq!(server.send("/v1/events/ingest", &purchase("small", "d", 9_999)).unwrap().0, 200);
    assert_eq!(server.send("/v1/events/ingest", &purchase("big", "d", 60_000)).unwrap().0, 200);
    for index in 0..4 {
        assert_eq!(server.send("/v1/events/ingest", &purchase(&format!("more-{index}"), "d", 1)).unwrap().0, 200);
    }

    for path in ["/plain", "/basic", "/bearer", "/hmac", "/standard"] {
        let got = receiver.wait_for(path, 1);
        let one = &got[0];
        let body = one.json();
        assert_eq!(
            (&body["rule_id"], &body["rule_name"], &body["event_id"]),
            (&rule["id"], &json!("big purchase"), &json!("big")),
            "{body}"
        );
        assert_eq!(
            (&body["app_id"], &body["device_id"], &body["correlation_id"]),
            (&json!("shop"), &json!("d"), &json!("c-1"))
        );
        assert_eq!(body["event"]["purchase_complete"]["total_cents"], 60_000);
        assert_eq!(body["event"]["purchase_complete"]["payment_method"], "", "defaults are part of the rule view");
        assert!(body["timestamp_ms"].as_i64().unwrap() > 1_700_000_000_000 && body["triggered_at"].is_string());
        assert_eq!(one.header("content-type"), Some("application/json"));
        assert_eq!(one.header("user-agent"), Some(concat!("causality/", env!("CARGO_PKG_VERSION"))));
        assert!(!one.header("webhook-id").unwrap().is_empty());
    }
    check_auth(&receiver);

    let anomalies = receiver.wait_for("/anomaly", 3);
    for (name, kind) in [("too big", "threshold"), ("too often", "rate"), ("too many", "count")] {
        let found: Vec<_> =
            anomalies.iter().map(|one| one.json()).filter(|body| body["anomaly_config_name"] == name).collect();
        assert_eq!(found.len(), 1, "{name}: {anomalies:?}");
        assert_eq!((&found[0]["detection_type"], &found[0]["event_type"]), (&json!(kind), &json!("purchase_complete")));
        assert!(found[0]["detected_at"].is_string() && found[0]["details"].is_object(), "{}", found[0]);
    }
    server.wait_drained();
    // Cooldown: no anomaly a second time; and the small purchases met no rule.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(receiver.all().len(), 5 + 3);
    assert_eq!(server.admin_get("/anomaly-events")["items"].as_array().unwrap().len(), 3);
    let deliveries = server.admin_get("/deliveries?status=delivered");
    assert_eq!(deliveries["items"].as_array().unwrap().len(), 8, "{deliveries}");
    server.expect_quiet_log(&[]);
}

fn check_auth(receiver: &Receiver) {
    let only = |path: &str| receiver.wait_for(path, 1).remove(0);
    let basic = only("/basic");
    assert_eq!((basic.header("authorization"), basic.header("x-env")), (Some("Basic dTpw"), Some("prod")));
    let bearer = only("/bearer");
    assert_eq!((bearer.header("authorization"), bearer.method.as_str()), (Some("Bearer t0k"), "PUT"));
    let hmac = only("/hmac");
    let body = String::from_utf8(hmac.body.clone()).unwrap();
    python(
        "verify_hmac.py",
        &[],
        &json!({"secret": "s3cret", "body": body, "hmac": hmac.header("x-mine")}).to_string(),
    );
    let standard = only("/standard");
    let body = String::from_utf8(standard.body.clone()).unwrap();
    let case = json!({"secret": "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=", "body": body,
        "id": standard.header("webhook-id"), "timestamp": standard.header("webhook-timestamp"), "standard": standard.header("webhook-signature")});
    python("verify_hmac.py", &[], &case.to_string());
}

#[test]
fn a_change_of_a_rule_takes_effect_at_once() {
    a_change_of_a_rule_takes_effect_at_once_over(&Backends::Embedded);
}

#[test]
fn a_change_of_a_rule_takes_effect_at_once_on_servers() {
    a_change_of_a_rule_takes_effect_at_once_over(&Backends::servers());
}

fn a_change_of_a_rule_takes_effect_at_once_over(backends: &Backends) {
    let dir = tempfile::tempdir().unwrap();
    let server = backends.start(dir.path(), &[]);
    let receiver = Receiver::start();
    server.admin_create("/webhooks", &json!({"name": "ops", "url": format!("{}/ops", receiver.url)}));
    for round in 0..20 {
        let name = format!("rule {round}");
        let rule = server
            .admin_create("/rules", &json!({"name": name, "event_type": "login", "actions": {"webhooks": ["ops"]}}));
        let event = json!({"event": {"id": format!("e{round}"), "appId": "a", "deviceId": "d", "userLogin": {}}});
        assert_eq!(server.send("/v1/events/ingest", &event).unwrap().0, 200);
        let got = receiver.wait_for("/ops", round + 1);
        assert_eq!(
            (&got[round].json()["rule_name"], &got[round].json()["event_id"]),
            (&json!(name), &json!(format!("e{round}")))
        );
        let url = format!("{}/api/admin/rules/{}", server.admin, rule["id"].as_str().unwrap());
        assert_eq!(ureq::delete(&url).call().unwrap().status(), 204);
    }
    server.expect_quiet_log(&[]);
}
