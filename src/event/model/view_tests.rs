//! Compares the rule view with an independent implementation: decode with prost, write proto3 JSON with pbjson, then
//! rename, convert and fill in by the tables.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Map, Value, json};

use crate::event::proto::EventEnvelope;
use crate::event::samples::{any_event, event};
use crate::event::schema::tables::{DEVICE_CONTEXT, Kind, Message, Shape};
use crate::event::{EventRef, Int64, ViewValue};

fn expected_view(event: &EventEnvelope) -> Value {
    // Through text: a float32 converted to a double would show digits that it never had.
    let text = serde_json::to_string(event).expect("write proto3 JSON");
    let sent: Value = serde_json::from_str(&text).expect("read proto3 JSON");
    let kind = Kind::of(event.payload.as_ref().expect("payload"));
    let mut view = Map::new();
    for (name, json_name) in [
        ("id", "id"),
        ("app_id", "appId"),
        ("device_id", "deviceId"),
        ("correlation_id", "correlationId"),
        ("idempotency_key", "idempotencyKey"),
        ("user_id", "userId"),
        ("session_id", "sessionId"),
    ] {
        view.insert(name.into(), sent.get(json_name).cloned().unwrap_or_else(|| json!("")));
    }
    view.insert("timestamp_ms".into(), json!(event.timestamp_ms));
    if let Some(device) = sent.get("deviceContext") {
        view.insert("device_context".into(), normal_message(&DEVICE_CONTEXT, device));
    }
    view.insert(kind.field.into(), normal_message(kind.message, &sent[kind.json_name]));
    Value::Object(view)
}

/// The view that rules match against has the same members and values, types of numbers included.
fn same_views(event: &EventRef<'_>) {
    assert_eq!(event.rule_view(), ViewValue::from(event.view()));
    assert_eq!(event.rule_view().to_json(), event.view());
}

fn normal_message(message: &Message, sent: &Value) -> Value {
    let members = message.fields.iter().filter_map(|field| {
        let value = sent.get(field.json_name).cloned();
        // A field with presence that the sender left out is absent.
        let absent = value.is_none() && matches!(field.shape, Shape::Message(_) | Shape::Payload(_) | Shape::Struct);
        (!absent).then(|| (field.name.to_owned(), normal(&field.shape, value.unwrap_or(Value::Null))))
    });
    Value::Object(members.collect())
}

fn normal(shape: &Shape, value: Value) -> Value {
    match (shape, value) {
        (Shape::String, Value::Null) => json!(""),
        (Shape::Bool, Value::Null) => json!(false),
        (Shape::Int32 | Shape::Int64, Value::Null) => json!(0),
        (Shape::Int64, Value::String(digits)) => json!(digits.parse::<i64>().expect("digits")),
        (Shape::Float | Shape::Double, Value::Null) => json!(0.0),
        (Shape::Enum(names), Value::Null) => json!(names.names[0]),
        (Shape::Message(message) | Shape::Payload(message), value) => normal_message(message, &value),
        (Shape::Struct, value) => numbers(value),
        (Shape::List(_), Value::Null) => json!([]),
        (Shape::List(element), Value::Array(values)) => {
            values.into_iter().map(|value| normal(&element.shape, value)).collect()
        }
        (Shape::Map(_), Value::Null) => json!({}),
        (Shape::Map(entry), Value::Object(members)) => {
            Value::Object(members.into_iter().map(|(key, value)| (key, normal(&entry.shape, value))).collect())
        }
        (_, value) => value,
    }
}

/// In a `Struct` 5.0 is written as 5.
fn numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => match number.as_f64() {
            Some(double) if double.fract() == 0.0 && double.abs() < 9e15 => json!(double as i64),
            _ => Value::Number(number),
        },
        Value::Array(values) => values.into_iter().map(numbers).collect(),
        Value::Object(members) => {
            Value::Object(members.into_iter().map(|(key, value)| (key, numbers(value))).collect())
        }
        value => value,
    }
}

#[test]
fn views_of_every_kind_equal_those_of_prost_and_pbjson() {
    for position in 0..Kind::all().len() {
        for seed in 0..64 {
            let event = event(position, [seed; 32]);
            let expected = expected_view(&event);
            let bytes = event.encode_to_vec();
            let stored = EventRef::decode(&bytes).expect("decode");
            assert_eq!(stored.view(), expected);
            same_views(&stored);
            let mut payload = Vec::new();
            stored.write_payload_json(&mut payload);
            let payload: Value = serde_json::from_slice(&payload).expect("payload JSON");
            assert_eq!(payload, expected[stored.kind.field]);
        }
    }
}

#[test]
fn a_small_event_reads_as_documented() {
    let event: EventEnvelope = serde_json::from_value(json!({
        "appId": "shop", "deviceId": "d1", "timestampMs": "1700000000000", "id": "e1",
        "buttonTap": {"buttonId": "buy\n", "coordinates": {"x": 0.1}},
    }))
    .expect("read JSON");
    let bytes = event.encode_to_vec();
    let mut out = Vec::new();
    EventRef::decode(&bytes).expect("decode").write_view_json(&mut out);
    assert_eq!(
        String::from_utf8(out).expect("UTF-8"),
        r#"{"id":"e1","app_id":"shop","device_id":"d1","timestamp_ms":1700000000000,"correlation_id":"","idempotency_key":"","user_id":"","session_id":"","button_tap":{"button_id":"buy\n","button_text":"","screen_name":"","coordinates":{"x":0.1,"y":0.0}}}"#
    );
}

#[test]
fn absent_messages_are_absent_from_the_view() {
    for (payload, sent) in [
        (json!({"buttonTap": {"buttonId": "b"}}), json!({"button_id": "b", "button_text": "", "screen_name": ""})),
        (
            json!({"swipeGesture": {"end": {}}}),
            json!({"direction": "SWIPE_DIRECTION_UNSPECIFIED", "screen_name": "", "end": {"x": 0.0, "y": 0.0}, "duration_ms": 0}),
        ),
        (
            json!({"customEvent": {"eventName": "e"}}),
            json!({"event_name": "e", "string_params": {}, "int_params": {}, "float_params": {}, "bool_params": {}}),
        ),
        (
            json!({"appStart": {}}),
            json!({"is_cold_start": false, "launch_duration_ms": 0, "launch_source": "", "deeplink_url": ""}),
        ),
    ] {
        let mut event = json!({"appId": "shop", "deviceId": "d"});
        event.as_object_mut().expect("object").append(payload.clone().as_object_mut().expect("object"));
        let bytes = serde_json::from_value::<EventEnvelope>(event).expect("read JSON").encode_to_vec();
        let event = EventRef::decode(&bytes).expect("decode");
        assert_eq!(event.view()[event.kind.field], sent);
        assert!(event.view().get("device_context").is_none());
        let mut json = Vec::new();
        event.write_payload_json(&mut json);
        assert_eq!(serde_json::from_slice::<Value>(&json).expect("payload JSON"), sent);
    }
}

#[test]
fn int64_is_written_as_text_on_request() {
    let event: EventEnvelope = serde_json::from_value(json!({
        "appId": "shop", "deviceId": "d1", "timestampMs": "1700000000000", "id": "e1",
        "deviceContext": {"screenWidth": 7},
        "customEvent": {"eventName": "e", "intParams": {"big": "9007199254740993", "none": "0"}, "properties": {"n": 1}},
    }))
    .expect("read JSON");
    let bytes = event.encode_to_vec();
    let event = EventRef::decode(&bytes).expect("decode");
    let mut out = Vec::new();
    event.write_view_json_with(&mut out, Int64::AsString);
    let mut view: Value = serde_json::from_slice(&out).expect("read view");
    assert_eq!(view["timestamp_ms"], "1700000000000");
    assert_eq!(view["custom_event"]["int_params"], json!({"big": "9007199254740993", "none": "0"}));
    assert_eq!(view["device_context"]["screen_width"], 7);
    // Nothing else differs.
    view["timestamp_ms"] = json!(1_700_000_000_000_i64);
    view["custom_event"]["int_params"] = json!({"big": 9_007_199_254_740_993_i64, "none": 0});
    assert_eq!(view, event.view());
}

#[test]
fn numbers_of_a_rule_view_are_those_of_its_text() {
    use crate::event::proto::event_envelope::Payload;
    use crate::event::proto::{ButtonTap, Coordinates, CustomEvent};
    let floats = [0.1, 1_234_567_936.0, 16_777_217.0, f32::MAX, f32::MIN_POSITIVE, f32::NAN, f32::INFINITY, -0.0, 2.0];
    let doubles =
        [0.1 + 0.2, 1e22, 1e23, 9_007_199_254_740_993.0, 5e-324, f64::MAX, f64::NAN, -0.0, 3.0, 123_456.789_012_345_67];
    for float in floats {
        let coordinates = Some(Coordinates { x: float, y: -float });
        let tap = Payload::ButtonTap(ButtonTap { coordinates, ..ButtonTap::default() });
        let event = EventEnvelope { payload: Some(tap), ..EventEnvelope::default() };
        same_views(&EventRef::decode(&event.encode_to_vec()).expect("decode"));
    }
    for double in doubles {
        let value = pbjson_types::Value { kind: Some(pbjson_types::value::Kind::NumberValue(double)) };
        let custom = CustomEvent {
            float_params: [("f".to_owned(), double)].into(),
            properties: Some(pbjson_types::Struct { fields: [("n".to_owned(), value)].into() }),
            ..CustomEvent::default()
        };
        let event = EventEnvelope { payload: Some(Payload::CustomEvent(custom)), ..EventEnvelope::default() };
        same_views(&EventRef::decode(&event.encode_to_vec()).expect("decode"));
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(event) = EventRef::decode(&bytes) {
            prop_assert!(event.view().is_object());
            same_views(&event);
            event.event_type();
        }
    }

    #[test]
    fn damaged_events_never_panic(event in any_event(), cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut bytes = event.encode_to_vec();
        for (at, byte) in cuts {
            let position = at.index(bytes.len());
            bytes[position] = byte;
        }
        if let Ok(event) = EventRef::decode(&bytes) {
            prop_assert!(event.view().is_object());
            same_views(&event);
            event.event_type();
        }
        bytes.truncate(bytes.len() / 2);
        let _ = EventRef::decode(&bytes);
    }

    #[test]
    fn the_last_of_two_occurrences_counts(one in any_event(), two in any_event()) {
        let mut bytes = one.encode_to_vec();
        let last = two.encode_to_vec();
        bytes.extend_from_slice(&last);
        let (both, last) = (EventRef::decode(&bytes).expect("decode"), EventRef::decode(&last).expect("decode"));
        prop_assert_eq!(both.kind.number, last.kind.number);
        prop_assert_eq!(both.payload, last.payload);
        prop_assert_eq!(both.timestamp_ms, last.timestamp_ms);
        same_views(&both);
    }
}
