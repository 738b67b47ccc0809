//! Erasing a person over the API, in the bus, among the dead letters and in the store.

use prost::Message as _;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::event::proto::EventEnvelope;
use crate::quarantine::{Input, InputFormat};
use crate::store::{AnomalyEvent, Detection, Effects, NewDelivery};

const ERASURES: &str = "/api/admin/erasures";

fn event(app: &str, device: &str, user: &str) -> Vec<u8> {
    let event: EventEnvelope = serde_json::from_value(json!({
        "appId": app, "deviceId": device, "userId": user, "id": "e", "buttonTap": {"buttonId": "b"},
    }))
    .unwrap();
    event.encode_to_vec()
}

fn input(format: InputFormat, app: &str, data: Vec<u8>) -> bus::RefusedInput {
    let input = Input { format: format.name().to_owned(), app: app.to_owned(), data: data.into(), ..Input::default() };
    input.into_refused().unwrap()
}

fn delivery(payload: Value) -> NewDelivery {
    NewDelivery {
        id: Uuid::now_v7(),
        webhook_id: Uuid::now_v7(),
        rule_id: None,
        anomaly_config_id: None,
        event_id: "e".to_owned(),
        payload: serde_json::value::to_raw_value(&payload).unwrap(),
        max_attempts: 5,
    }
}

fn anomaly(device: &str) -> AnomalyEvent {
    AnomalyEvent {
        id: Uuid::now_v7(),
        anomaly_config_id: Uuid::now_v7(),
        anomaly_config_name: "spike".to_owned(),
        detection_type: Detection::Rate,
        app_id: "shop".to_owned(),
        event_category: "commerce".to_owned(),
        event_type: "purchase_complete".to_owned(),
        event_id: "e".to_owned(),
        device_id: device.to_owned(),
        user_id: "ann".to_owned(),
        timestamp_ms: 1,
        details: json!({"value": 3, "max_per_minute": 2, "group": null}),
        detected_at: jiff::Timestamp::now(),
    }
}

/// Events of two devices in the bus, among the dead letters and in the store.
async fn stocked() -> (Admin, Subscription) {
    let admin = Admin::new();
    let subject = "events.shop.interaction.button_tap";
    let messages: Vec<(&str, Vec<u8>)> = ["phone", "tablet", "phone"]
        .iter()
        .map(|device| (subject, event("shop", device, "ann")))
        .chain([("events.shop.x.y", b"{\"deviceId\":\"phone\"}".to_vec())])
        .collect();
    let subscription = admin.dead_letter("events.>", &messages).await;
    let inputs = vec![
        input(InputFormat::JsonEvent, "shop", br#"{"deviceId": "phone", "wrong": 1}"#.to_vec()),
        input(InputFormat::JsonLines, "", b"{\"x\":\n{\"anonymousId\":\"phone\"}\n".to_vec()),
        input(InputFormat::ProtobufEvent, "shop", event("shop", "phone", "")),
        input(InputFormat::JsonEvent, "other", br#"{"deviceId": "phone", "wrong": 1}"#.to_vec()),
        input(InputFormat::JsonEvent, "shop", br#"{"deviceId": "phone2", "note": "phone"}"#.to_vec()),
    ];
    admin.bus.keep_input(inputs, 1 << 20).await.unwrap();
    let of = |device: &str| json!({"app_id": "shop", "device_id": device, "event_id": "e", "event": {"device_id": device, "user_id": "ann"}});
    let effects = Effects {
        consumer: "c".to_owned(),
        deliveries: vec![delivery(of("phone")), delivery(of("tablet")), delivery(json!(anomaly("phone")))],
        anomaly_events: vec![anomaly("phone"), anomaly("tablet")],
        ..Effects::default()
    };
    admin.store.record_effects(effects).await.unwrap();
    (admin, subscription)
}

#[tokio::test]
async fn a_device_is_erased_everywhere() {
    let (admin, _giver_up) = stocked().await;
    let step = admin.post(ERASURES, json!({"device_id": "phone", "app_id": "shop"})).await;
    assert_eq!(step.status, 200, "{}", step.text);
    let expected = json!({
        "scanned_through": 4, "through_sequence": 4, "is_scanned": true, "is_settled": true, "events": 3, "dead_letters": 6,
        "deliveries": 2, "anomaly_records": 1,
    });
    assert_eq!(step.json(), expected);
    let again =
        admin.post(ERASURES, json!({"device_id": "phone", "app_id": "shop", "through_sequence": 4})).await.json();
    assert_eq!([&again["events"], &again["dead_letters"], &again["deliveries"], &again["anomaly_records"]], [0; 4]);
    let letters = admin.bus.dead_letters(None, 100).await.unwrap();
    assert_eq!(letters.len(), 3, "the tablet's, another app's, and what only mentions it");
    assert_eq!((admin.count("/api/admin/deliveries").await, admin.count("/api/admin/anomaly-events").await), (1, 1));

    let records = admin.get("/api/admin/audit?kind=erasure").await;
    assert!(!records.text.contains("phone"), "{}", records.text);
    let record = &records.json()["items"][1];
    let digest = data_encoding::HEXLOWER.encode(ring::digest::digest(&ring::digest::SHA256, b"phone").as_ref());
    let before = json!({
        "id_kind": "device_id", "id_sha256": digest, "app_id": "shop", "after_sequence": 0, "through_sequence": 4,
    });
    assert_eq!((&record["action"], &record["outcome"], &record["before"]), (&json!("erase"), &json!("done"), &before));
    assert_eq!(record["after"], expected);
}

#[tokio::test]
async fn a_user_is_erased_with_all_devices() {
    let (admin, _giver_up) = stocked().await;
    let step = admin.post(ERASURES, json!({"user_id": "ann"})).await.json();
    assert_eq!([&step["events"], &step["dead_letters"], &step["deliveries"], &step["anomaly_records"]], [3, 3, 3, 2]);
    let none = admin.post(ERASURES, json!({"user_id": "phone"})).await.json();
    assert_eq!([&none["events"], &none["dead_letters"], &none["deliveries"], &none["anomaly_records"]], [0; 4]);
}

#[tokio::test]
async fn errors_of_a_request_have_pointers() {
    let (admin, _giver_up) = stocked().await;
    for (request, pointer) in [
        (json!({}), ""),
        (json!({"device_id": "a", "user_id": "b"}), "/user_id"),
        (json!({"device_id": ""}), "/device_id"),
        (json!({"user_id": "x".repeat(257)}), "/user_id"),
        (json!({"user_id": "a\nb"}), "/user_id"),
        (json!({"device_id": 7}), "/device_id"),
        (json!({"device_id": "a", "app_id": "no app"}), "/app_id"),
        (json!({"device_id": "a", "after_sequence": 3, "through_sequence": 2}), "/through_sequence"),
        (json!({"device_id": "a", "through_sequence": 5}), "/through_sequence"),
        (json!({"device_id": "a", "after_sequence": 5}), "/after_sequence"),
        (json!({"device_id": "a", "after_sequence": -1}), "/after_sequence"),
        (json!({"device_id": "a", "device": "b"}), "/device"),
    ] {
        let reply = admin.post(ERASURES, request.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.error().0.as_str()), (422, pointer), "{request}");
    }
    assert_eq!(admin.call(Method::POST, ERASURES, "{").await.status, 400);
    assert_eq!(admin.bus.dead_letters(None, 100).await.unwrap().len(), 9, "nothing was erased");
}
