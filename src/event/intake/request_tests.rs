//! Request bodies: accepted events equal those that pbjson and prost read, and errors point to their place.

use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::field_error::FieldError;
use super::request::{self, Refused};
use crate::event::proto::{EventEnvelope, IngestEventBatchRequest, IngestEventRequest};
use crate::event::samples::any_event;
use crate::event::schema::tables::{EVENT_ENVELOPE, Message, Shape};
use crate::event::{Arrival, EVENT_BYTES_MAX, EventRef, Kind};

const ARRIVAL: Arrival<'static> =
    Arrival { received_at_ms: 1_700_000_000_000, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };

fn tap() -> Value {
    json!({"appId": "shop", "deviceId": "d", "buttonTap": {"buttonId": "b"}})
}

fn with(path: &str, value: Value) -> Value {
    let mut event = tap();
    event[path] = value;
    event
}

fn payload(name: &str, value: Value) -> Value {
    json!({"appId": "shop", "deviceId": "d", name: value})
}

/// The error of the single event in a batch, as `pointer: detail`.
fn error_of(event: &str) -> String {
    let body = format!(r#"{{"events":[{event},{}]}}"#, tap());
    let accepted = request::accept_json_batch(body.as_bytes(), 10, &ARRIVAL).expect("read batch");
    let outcomes: Vec<_> = accepted.iter().collect();
    assert_eq!(outcomes.len(), 2);
    assert!(outcomes[1].is_ok(), "the good event behind {event} was refused: {:?}", outcomes[1]);
    // A single request gives the same error, relative to its root.
    let single = request::accept_json_single(format!(r#"{{"event":{event}}}"#).as_bytes(), &ARRIVAL);
    match &outcomes[0] {
        Ok(_) => {
            assert!(single.is_ok(), "{event}");
            "accepted".into()
        }
        Err(errors) => {
            let prefixed: Vec<_> = errors.iter().map(|error| error.clone().under("/event")).collect();
            assert_eq!(single.expect_err("refuse single").errors, prefixed, "{event}");
            errors.iter().map(FieldError::to_string).collect::<Vec<_>>().join("; ")
        }
    }
}

#[test]
fn errors_name_the_fault_and_its_place() {
    let deep = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({ "a": inner }));
    let cases = [
        (tap(), "accepted"),
        (json!({"app_id": "shop", "device_id": "d", "button_tap": {"button_id": "b"}}), "accepted"),
        (with("timestampMs", json!("1000")), "accepted"),
        (with("timestampMs", json!(1e3)), "accepted"),
        (with("timestampMs", json!("2.0e+5")), "accepted"),
        (with("timestampMs", json!(253_402_300_799_999_i64)), "accepted"),
        (with("deviceContext", Value::Null), "accepted"),
        (with("screenView", Value::Null), "accepted"),
        (with("deviceContext", json!({"platform": "PLATFORM_IOS", "networkType": 1})), "accepted"),
        (payload("customEvent", json!({"eventName": "e", "properties": deep(30)})), "accepted"),
        (json!({}), "/appId: is required; /deviceId: is required; exactly one payload is required"),
        (json!(3), "must be an object"),
        (with("appId", json!("")), "/appId: is required"),
        (with("appId", json!(7)), "/appId: must be a string"),
        (
            with("appId", json!("../etc")),
            "/appId: must be 1 to 128 ASCII letters, digits, '.', '_' or '-', the first a letter or digit",
        ),
        (with("deviceId", json!("x".repeat(257))), "/deviceId: must have at most 256 bytes"),
        (with("deviceId", json!("a\u{0}b")), "/deviceId: must not have control characters"),
        (with("id", json!("x".repeat(257))), "/id: must have at most 256 bytes"),
        (with("id", json!("a\nb")), "/id: must not have control characters"),
        (with("timestampMs", json!(-1)), "/timestampMs: must be from 0 to 253402300799999"),
        (with("timestampMs", json!(253_402_300_800_000_i64)), "/timestampMs: must be from 0 to 253402300799999"),
        (with("timestampMs", json!("soon")), "/timestampMs: must be a 64-bit integer"),
        (with("timestampMs", json!(1.5)), "/timestampMs: must be a 64-bit integer"),
        (with("timestampMs", json!(1e300)), "/timestampMs: must be a 64-bit integer"),
        (with("screenView", json!({})), "/screenView: more than one payload: exactly one is allowed"),
        (with("colour", json!(1)), "/colour: unknown field"),
        (with("a/b~", json!([{}])), "/a~1b~0: unknown field"),
        (with("deviceContext", json!({"os": 1})), "/deviceContext/os: unknown field"),
        (with("deviceContext", json!({"isEmulator": "yes"})), "/deviceContext/isEmulator: must be true or false"),
        (
            with("deviceContext", json!({"screenWidth": 2_147_483_648_i64})),
            "/deviceContext/screenWidth: must be a 32-bit integer",
        ),
        (
            with("deviceContext", json!({"platform": "IOS"})),
            "/deviceContext/platform: must be one of PLATFORM_UNSPECIFIED, PLATFORM_IOS, PLATFORM_ANDROID, PLATFORM_WEB",
        ),
        (
            with("deviceContext", json!({"platform": 4})),
            "/deviceContext/platform: must be one of PLATFORM_UNSPECIFIED, PLATFORM_IOS, PLATFORM_ANDROID, PLATFORM_WEB",
        ),
        (payload("buttonTap", json!({})), "/buttonTap/buttonId: is required"),
        (payload("buttonTap", json!([])), "/buttonTap: must be an object"),
        (
            payload("buttonTap", json!({"buttonId": "b", "coordinates": {"x": 1e39, "y": "NaN", "z": 1}})),
            "/buttonTap/coordinates/z: unknown field: expected x, y",
        ),
        (
            payload("buttonTap", json!({"buttonId": "b", "coordinates": {"x": 1e39, "y": "NaN"}})),
            "/buttonTap/coordinates/x: must be a finite number; /buttonTap/coordinates/y: must be a finite number",
        ),
        (payload("batteryChange", json!({"batteryLevel": 101})), "/batteryChange/batteryLevel: must be from 0 to 100"),
        (
            payload("textInput", json!({"fieldId": "f", "textLength": -1})),
            "/textInput/textLength: must not be negative",
        ),
        (
            payload("checkoutStart", json!({"currency": "EURO", "totalCents": "-1", "itemCount": -1})),
            "/checkoutStart/currency: must be empty or three ASCII letters; /checkoutStart/itemCount: must not be negative; \
             /checkoutStart/totalCents: must not be negative",
        ),
        (
            payload("purchaseComplete", json!({"orderId": "o", "items": [{}, {"priceCents": -5}, 3]})),
            "/purchaseComplete/items/2: must be an object",
        ),
        (
            payload("purchaseComplete", json!({"orderId": "o", "items": [{}, {"priceCents": -5}]})),
            "/purchaseComplete/items/1/priceCents: must not be negative",
        ),
        (
            payload("purchaseComplete", json!({"orderId": "o", "items": [null]})),
            "/purchaseComplete/items/0: must be an object",
        ),
        (
            payload("appCrash", json!({"stackTrace": "x".repeat(262_145)})),
            "/appCrash/stackTrace: must have at most 262144 bytes",
        ),
        (
            payload("customEvent", json!({"eventName": "x".repeat(257)})),
            "/customEvent/eventName: must have at most 256 bytes",
        ),
        (
            payload("customEvent", json!({"eventName": "a\tb"})),
            "/customEvent/eventName: must not have control characters",
        ),
        (
            payload("customEvent", json!({"eventName": "e", "intParams": {"n/m": "x", "k": 1.5}})),
            "/customEvent/intParams/k: must be a 64-bit integer; /customEvent/intParams/n~1m: must be a 64-bit integer",
        ),
        (
            payload("customEvent", json!({"eventName": "e", "stringParams": {"k": null}})),
            "/customEvent/stringParams/k: must be a string",
        ),
        (
            payload("customEvent", json!({"eventName": "e", "floatParams": {"k": "NaN"}})),
            "/customEvent/floatParams/k: must be a finite number",
        ),
        (
            payload("customEvent", json!({"eventName": "e", "properties": []})),
            "/customEvent/properties: must be an object",
        ),
        (
            payload("customEvent", json!({"eventName": "e", "properties": deep(31)})),
            &format!("/customEvent/properties{}: must not nest deeper than 30 levels", "/a".repeat(30)),
        ),
    ];
    for (event, expected) in cases {
        assert_eq!(error_of(&event.to_string()), *expected, "{event}");
    }
}

#[test]
fn faults_that_only_json_text_can_have_are_refused() {
    for (event, expected) in [
        (r#"{"appId":"a","appId":"b","deviceId":"d","appStart":{}}"#, "/appId: must not come twice"),
        (r#"{"appId":"a","app_id":"b","deviceId":"d","appStart":{}}"#, "/appId: must not come twice"),
        (
            r#"{"appId":"a","deviceId":"d","screenView":{"screenName":"s","params":{"k":"1","j":"","k":"2"}}}"#,
            "/screenView/params: keys must not come twice",
        ),
        (
            r#"{"appId":"a","deviceId":"d","customEvent":{"eventName":"e","properties":{"k":1,"\u006b":2}}}"#,
            "/customEvent/properties: keys must not come twice",
        ),
        (r#"{"appId":"a","deviceId":"d\ud800","appStart":{}}"#, "/deviceId: must not have half of a surrogate pair"),
        (
            r#"{"appId":"a","deviceId":"d","customEvent":{"eventName":"e","properties":{"k":1e999}}}"#,
            "/customEvent/properties/k: must be a finite number",
        ),
        (
            r#"{"appId":"a","deviceId":"d","screenExit":{"screenName":"s","durationMs":99999999999999999999}}"#,
            "/screenExit/durationMs: must be a 64-bit integer",
        ),
        (r#"{"\u0061ppId":"a","deviceId":"d","appStart":{"launchDurationMs":9223372036854775807}}"#, "accepted"),
    ] {
        assert_eq!(error_of(event), expected, "{event}");
    }
}

#[test]
fn errors_are_bounded_in_number_and_size() {
    let event: serde_json::Map<_, _> = (0..100).map(|n| (format!("{n}{}", "x".repeat(1000)), json!(1))).collect();
    let body = json!({ "event": event }).to_string();
    let refused = request::accept_json_single(body.as_bytes(), &ARRIVAL).expect_err("refuse");
    assert_eq!(refused.errors.len(), 16);
    assert!(refused.errors.iter().all(|error| error.pointer.len() < 200));
}

#[test]
fn bodies_are_refused_as_a_whole() {
    let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    let (wide, wide_with_mark) = (wide("{\"events\":[{}]}"), wide("\u{feff}{\"events\":[{}]}"));
    let cases: [(&[u8], &str); 19] = [
        (b"", "The body is empty."),
        (b" \n", "The body is empty."),
        (b"[]", "The request is not valid.|must be an object"),
        (b"{\"events\":[{\"id\":\"\xff\"}]}", "The body is not UTF-8 at byte 18."),
        (b"{", "The body is not well-formed JSON at byte 1."),
        (b"{\"events\":[{]}", "The body is not well-formed JSON at byte 12."),
        (b"{\"events\":[{}]} x", "The body is not well-formed JSON at byte 16."),
        (b"{\"events\":[{\"timestampMs\":NaN}]}", "The body is not well-formed JSON at byte 26."),
        (b"{}", "The request is not valid.|/events: is required"),
        (b"{\"events\":null}", "The request is not valid.|/events: is required"),
        (b"{\"events\":{}}", "The request is not valid.|/events: must be an array"),
        (b"{\"events\":[]}", "The request is not valid.|/events: must have 1 to 2 events"),
        (b"{\"events\":[{},{},{}]}", "The request is not valid.|/events: must have 1 to 2 events"),
        (b"{\"event\":{}}", "The request is not valid.|/event: unknown field: expected events"),
        (b"{\"events\":[{}],\"events\":[{}]}", "The request is not valid.|/events: must not come twice"),
        (&wide, "The body is UTF-16 or UTF-32: JSON must be UTF-8."),
        (&wide_with_mark, "The body is UTF-16 or UTF-32: JSON must be UTF-8."),
        (b"\xef\xbb\xbf ", "The body is empty."),
        (b"\xef\xbb\xbf{\"events\":[{]}", "The body is not well-formed JSON at byte 15."),
    ];
    for (body, expected) in cases {
        let refused = request::accept_json_batch(body, 2, &ARRIVAL).expect_err("refuse");
        assert_eq!(said(&refused), expected, "{}", String::from_utf8_lossy(body));
    }
    let refused = request::accept_json_single(b"{\"event\":null}", &ARRIVAL).expect_err("refuse");
    assert_eq!(said(&refused), "The request is not valid.|/event: is required");
}

fn said(refused: &Refused) -> String {
    let mut parts = vec![refused.detail.clone()];
    parts.extend(refused.errors.iter().map(FieldError::to_string));
    parts.join("|")
}

#[test]
fn a_byte_order_mark_is_ignored() {
    let body = format!("\u{feff}{{\"events\":[{}]}}", tap());
    let accepted = request::accept_json_batch(body.as_bytes(), 2, &ARRIVAL).expect("read batch");
    assert!(accepted.iter().all(|event| event.is_ok()));
}

#[test]
fn integers_are_exact_in_every_notation() {
    for (text, exact) in [
        ("1e18", 1_000_000_000_000_000_000),
        ("9007199254740993.0", 9_007_199_254_740_993),
        ("\"9.223372036854775807e18\"", i64::MAX),
    ] {
        let event = format!(r#"{{"appId":"a","deviceId":"d","checkoutStart":{{"totalCents":{text}}}}}"#);
        let body = format!(r#"{{"event":{event}}}"#);
        let accepted = request::accept_json_single(body.as_bytes(), &ARRIVAL).expect("accept");
        let stored = accepted.iter().next().expect("one event").expect("accepted");
        assert_eq!(stored.view()["checkout_start"]["total_cents"], json!(exact), "{text}");
    }
}

#[test]
fn groups_are_unknown_fields_everywhere() {
    let group = |inner: &[u8]| [&[0xab, 1][..], inner, &[0xac, 1]].concat(); // field 21
    let nested = group(&[group(b""), vec![0x0a, 1, b'x', 0x08, 0x80, 1, 0x0d, 0, 0, 0, 0]].concat());
    let sent: EventEnvelope = serde_json::from_value(tap()).expect("read JSON");
    let payload = [vec![0x0a, 1, b'b'], nested.clone()].concat();
    let event = [
        nested.clone(),
        b"\x12\x04shop\x1a\x01d".to_vec(),
        nested.clone(),
        vec![0xc2, 0x0c, payload.len() as u8],
        payload,
        nested.clone(),
    ]
    .concat();
    let item = [vec![0x0a, event.len() as u8], event.clone()].concat();
    let body = [nested.clone(), item, nested.clone()].concat();
    let singles = request::accept_binary_single(&body, &ARRIVAL).expect("accept");
    let batch = request::accept_binary_batch(&body, 2, &ARRIVAL).expect("accept");
    for accepted in [singles, batch] {
        let stored = accepted.iter().next().expect("one event").expect("accepted");
        let stored = EventEnvelope::decode(stored.bytes).expect("decode");
        assert_eq!((stored.device_id, stored.payload), (sent.device_id.clone(), sent.payload.clone()));
    }
    assert_eq!(EventRef::decode(&event).expect("decode").device_id, "d");

    let open = [0xab, 1].repeat(100);
    for broken in [open.clone(), vec![0xac, 1], [open, vec![0xab, 1]].concat(), vec![0xab, 1, 0xb4, 1]] {
        assert!(request::accept_binary_batch(&[body.clone(), broken.clone()].concat(), 2, &ARRIVAL).is_err());
        assert!(EventRef::decode(&[event.clone(), broken].concat()).is_err());
    }
}

#[test]
fn a_field_has_a_number_of_29_bits() {
    let event = b"\x12\x04shop\x1a\x01d\xc2\x0c\x03\x0a\x01b".to_vec();
    for (number, allowed) in [((1_u64 << 29) - 1, true), (1 << 29, false), (1 << 32, false), (0, false)] {
        let mut field = Vec::new();
        prost::encoding::encode_varint(number << 3, &mut field);
        field.push(0);
        let event = [event.clone(), field.clone()].concat();
        let item = [vec![0x0a, event.len() as u8], event.clone()].concat();
        assert_eq!(request::accept_binary_single(&item, &ARRIVAL).is_ok(), allowed, "{number} in an event");
        let body = [item, field].concat();
        assert_eq!(request::accept_binary_single(&body, &ARRIVAL).is_ok(), allowed, "{number} in a request");
        assert_eq!(request::accept_binary_batch(&body, 2, &ARRIVAL).is_ok(), allowed, "{number} in a batch");
        assert_eq!(EventRef::decode(&event).is_ok(), allowed, "{number} on the bus");
        assert_eq!(EventEnvelope::decode(&*event).is_ok(), allowed, "{number} for another reader");
    }
}

#[test]
fn the_gateway_fills_id_time_and_app() {
    let body = json!({"event": {"deviceId": "d", "customEvent": {"eventName": "Sign-Up"}}}).to_string();
    let arrival = Arrival { key_app: Some("shop"), ..ARRIVAL };
    let accepted = request::accept_json_single(body.as_bytes(), &arrival).expect("accept");
    let event = accepted.iter().next().expect("one event").expect("accepted");
    assert_eq!((event.app_id, event.timestamp_ms), ("shop", ARRIVAL.received_at_ms));
    assert_eq!((event.category(), event.event_type().as_ref()), ("custom", "sign-up"));
    let id = uuid::Uuid::try_parse(event.id).expect("UUID");
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(id.get_timestamp().expect("time").to_unix().0, 1_700_000_000);

    let other = request::accept_json_single(
        json!({ "event": tap() }).to_string().as_bytes(),
        &Arrival { key_app: Some("b"), ..ARRIVAL },
    );
    assert_eq!(
        said(&other.expect_err("refuse")),
        "The event is not valid.|/event/appId: must be the app of the API key"
    );
}

#[test]
fn events_of_a_binary_batch_have_their_own_outcomes() {
    let good: EventEnvelope = serde_json::from_value(tap()).expect("read JSON");
    let no_device = EventEnvelope { device_id: String::new(), ..good.clone() };
    let mut body = IngestEventBatchRequest { events: vec![good.clone(), no_device] }.encode_to_vec();
    body.extend_from_slice(&[10, 3, 0x1a, 1, 0xff]); // device_id is not UTF-8
    body.extend_from_slice(&[10, 2, 0x1a, 9]); // ends inside a field
    body.extend_from_slice(&[8, 1]); // an event that is a number
    body.extend_from_slice(&[0x98, 6, 1]); // an unknown field of the request
    let accepted = request::accept_binary_batch(&body, 10, &ARRIVAL).expect("read batch");
    let outcomes: Vec<_> = accepted.iter().map(|item| item.map(|event| event.device_id.to_owned())).collect();
    assert_eq!(outcomes.len(), 5);
    assert_eq!(outcomes[0], Ok("d".to_owned()));
    assert_eq!(outcomes[1], Err([FieldError::new("/deviceId", "is required")].as_slice()));
    assert!(outcomes[2..].iter().all(Result::is_err));

    assert!(request::accept_binary_batch(&body[..body.len() - 2], 10, &ARRIVAL).is_err());
    assert!(request::accept_binary_batch(&body, 4, &ARRIVAL).is_err());
    assert!(request::accept_binary_batch(&[], 3, &ARRIVAL).is_err());
    assert!(request::accept_binary_single(&[10, 200], &ARRIVAL).is_err());
    assert_eq!(
        said(&request::accept_binary_single(&[], &ARRIVAL).expect_err("refuse")),
        "The request is not valid.|/event: is required"
    );
    let single = IngestEventRequest { event: Some(good) }.encode_to_vec();
    assert_eq!(request::accept_binary_single(&single, &ARRIVAL).expect("accept").len(), 1);
}

/// The same event in proto spelling, with enums as numbers and integers unquoted.
fn other_spelling(message: &Message, sent: &Value) -> Value {
    let members = message.fields.iter().filter_map(|field| {
        let value = sent.get(field.json_name)?;
        Some((field.name.to_owned(), other_value(&field.shape, value)))
    });
    Value::Object(members.collect())
}

fn other_value(shape: &Shape, value: &Value) -> Value {
    match (shape, value) {
        (Shape::Message(message) | Shape::Payload(message), value) => other_spelling(message, value),
        (Shape::Enum(names), Value::String(name)) => json!(names.names.iter().position(|known| known == name)),
        (Shape::Int64, Value::String(digits)) => json!(digits.parse::<i64>().expect("digits")),
        (Shape::List(element), Value::Array(values)) => {
            values.iter().map(|value| other_value(&element.shape, value)).collect()
        }
        (Shape::Map(entry), Value::Object(members)) => {
            Value::Object(members.iter().map(|(key, value)| (key.clone(), other_value(&entry.shape, value))).collect())
        }
        (_, value) => value.clone(),
    }
}

fn read_back(body: &str) -> Vec<EventEnvelope> {
    let accepted = request::accept_json_batch(body.as_bytes(), 4, &ARRIVAL).expect("read batch");
    let stored = accepted.iter().map(|event| event.expect("accepted").bytes);
    stored.map(|bytes| EventEnvelope::decode(bytes).expect("decode")).collect()
}

proptest! {
    #[test]
    fn json_is_read_as_pbjson_wrote_it(events in proptest::collection::vec(any_event(), 1..4)) {
        let body = serde_json::to_string_pretty(&IngestEventBatchRequest { events: events.clone() }).expect("write JSON");
        prop_assert_eq!(read_back(&body), events.clone());

        let mut other: Value = serde_json::from_str(&body).expect("read JSON");
        for event in other["events"].as_array_mut().expect("array") {
            *event = other_spelling(&EVENT_ENVELOPE, event);
        }
        prop_assert_eq!(read_back(&other.to_string()), events);
    }

    #[test]
    fn every_encoding_stores_the_same_event(event in any_event()) {
        let json = serde_json::to_vec(&IngestEventRequest { event: Some(event.clone()) }).expect("write JSON");
        let binary = IngestEventRequest { event: Some(event.clone()) }.encode_to_vec();
        for accepted in [request::accept_json_single(&json, &ARRIVAL), request::accept_binary_single(&binary, &ARRIVAL)] {
            let accepted = accepted.expect("accept");
            let stored = accepted.iter().next().expect("one event").expect("accepted");
            prop_assert_eq!(EventEnvelope::decode(stored.bytes), Ok(event.clone()));
            let again = EventRef::decode(stored.bytes).expect("decode");
            prop_assert_eq!(again.kind.number, Kind::of(event.payload.as_ref().expect("payload")).number);
        }
    }

    #[test]
    fn damaged_json_never_panics(event in any_event(), at in any::<prop::sample::Index>(), byte in prop_oneof![any::<u8>(), prop::sample::select(b"\"\\{}[],:0-.e ".to_vec())]) {
        let mut body = serde_json::to_vec(&IngestEventBatchRequest { events: vec![event.clone(), event] }).expect("write JSON");
        let position = at.index(body.len());
        body[position] = byte;
        let ours = request::accept_json_batch(&body, 4, &ARRIVAL);
        // Malformed JSON is never accepted, and JSON is never refused as malformed.
        if serde_json::from_slice::<&serde_json::value::RawValue>(&body).is_err() {
            prop_assert!(ours.is_err());
        }
        body.truncate(position);
        prop_assert!(request::accept_json_batch(&body, 4, &ARRIVAL).is_err());
    }

    #[test]
    fn damaged_binary_never_panics(event in any_event(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = IngestEventBatchRequest { events: vec![event.clone(), event] }.encode_to_vec();
        let position = at.index(body.len());
        body[position] = byte;
        if let Ok(accepted) = request::accept_binary_batch(&body, 4, &ARRIVAL) {
            for event in accepted.iter().flatten() {
                prop_assert!(EventEnvelope::decode(event.bytes).is_ok());
            }
        }
    }
}
