//! Each limit at its edge, in both encodings of a request: the largest legal value passes, and one more is refused with
//! its pointer. The table in the documentation names the same limits.

use prost::Message as _;
use serde_json::{Map, Value, json};

use super::binary::check_counts;
use super::field_error::{Errors, FieldError, Path};
use super::request::{self, Accepted};
use super::validate::{Unchecked, check_message};
use crate::event::proto::{EventEnvelope, IngestEventBatchRequest};
use crate::event::schema::limits::*;
use crate::event::schema::tables::{DEVICE_CONTEXT, Message, Shape};
use crate::event::{Arrival, EventRef, Int64, Kind};

const ARRIVAL: Arrival<'static> =
    Arrival { received_at_ms: 1_700_000_000_000, key_app: None, event_bytes_max: EVENT_BYTES_MAX, assigned_id: None };

/// Of every list and every map.
const ELEMENTS_MAX: usize = 1_000;

/// A limit, its text in `docs/events.md`, and an event with `n` of what it limits.
struct Limit {
    row: &'static str,
    documented: &'static str,
    max: usize,
    event: fn(usize) -> Value,
    pointer: &'static str,
    detail: &'static str,
}

fn event(payload: &str, value: Value) -> Value {
    json!({"id": "i", "appId": "shop", "deviceId": "d", "timestampMs": "1", payload: value})
}

fn custom(field: &str, value: Value) -> Value {
    event("customEvent", json!({"eventName": "e", field: value}))
}

fn with_id(name: &str, bytes: usize) -> Value {
    let mut event = event("appStart", json!({}));
    event[name] = json!("x".repeat(bytes));
    event
}

fn map_of(entries: usize, value: Value) -> Value {
    (0..entries).map(|n| (n.to_string(), value.clone())).collect::<Map<_, _>>().into()
}

/// An event with exactly this many encoded bytes.
fn event_of(bytes: usize) -> Value {
    let crash = |rest: usize| {
        let text = "x".repeat(TEXT_BYTES_MAX);
        event(
            "appCrash",
            json!({"crashType": text, "crashMessage": text, "stackTrace": text, "currentScreen": "x".repeat(rest)}),
        )
    };
    let guess = bytes - 3 * TEXT_BYTES_MAX - 100;
    let short = bytes - envelope(&crash(guess)).encoded_len();
    crash(guess + short)
}

fn nested(levels: usize) -> Value {
    (1..levels).fold(
        json!({}),
        |inner, level| if level.is_multiple_of(2) { json!({"a": inner}) } else { json!({"a": [inner]}) },
    )
}

#[rustfmt::skip]
const LIMITS: &[Limit] = &[
    Limit { row: "an event, encoded", documented: "1,000,000 bytes", max: EVENT_BYTES_MAX, event: event_of, pointer: "",
            detail: "must have at most 1000000 bytes when it is encoded, and has 1000001" },
    Limit { row: "`id`", documented: "256 bytes", max: ID_BYTES_MAX, event: |n| with_id("id", n), pointer: "/id",
            detail: "must have at most 256 bytes" },
    Limit { row: "`device_id`", documented: "256 bytes", max: ID_BYTES_MAX, event: |n| with_id("deviceId", n),
            pointer: "/deviceId", detail: "must have at most 256 bytes" },
    Limit { row: "`correlation_id`", documented: "256 bytes", max: ID_BYTES_MAX, event: |n| with_id("correlationId", n),
            pointer: "/correlationId", detail: "must have at most 256 bytes" },
    Limit { row: "`idempotency_key`", documented: "256 bytes", max: ID_BYTES_MAX, event: |n| with_id("idempotencyKey", n),
            pointer: "/idempotencyKey", detail: "must have at most 256 bytes" },
    Limit { row: "`user_id`", documented: "256 bytes", max: ID_BYTES_MAX, event: |n| with_id("userId", n),
            pointer: "/userId", detail: "must have at most 256 bytes" },
    Limit { row: "`session_id`", documented: "256 bytes", max: ID_BYTES_MAX, event: |n| with_id("sessionId", n),
            pointer: "/sessionId", detail: "must have at most 256 bytes" },
    Limit { row: "`event_name`", documented: "256 bytes", max: ID_BYTES_MAX,
            event: |n| event("customEvent", json!({"eventName": "x".repeat(n)})), pointer: "/customEvent/eventName",
            detail: "must have at most 256 bytes" },
    Limit { row: "`app_id`", documented: "128 bytes", max: APP_ID_BYTES_MAX, event: |n| with_id("appId", n),
            pointer: "/appId",
            detail: "must be 1 to 128 ASCII letters, digits, '.', '_' or '-', the first a letter or digit" },
    Limit { row: "any other string", documented: "262,144 bytes", max: TEXT_BYTES_MAX,
            event: |n| event("appCrash", json!({"stackTrace": "x".repeat(n)})), pointer: "/appCrash/stackTrace",
            detail: "must have at most 262144 bytes" },
    Limit { row: "any other string", documented: "262,144 bytes", max: TEXT_BYTES_MAX,
            event: |n| custom("stringParams", json!({"k": "x".repeat(n)})), pointer: "/customEvent/stringParams/k",
            detail: "must have at most 262144 bytes" },
    Limit { row: "any other string", documented: "262,144 bytes", max: TEXT_BYTES_MAX,
            event: |n| custom("properties", json!({"k": ["x".repeat(n)]})), pointer: "/customEvent/properties/k/0",
            detail: "must have at most 262144 bytes" },
    Limit { row: "a key of a map", documented: "256 bytes", max: KEY_BYTES_MAX,
            event: |n| custom("boolParams", json!({"k".repeat(n): true})),
            pointer: "/customEvent/boolParams/k", detail: "the key must have at most 256 bytes" },
    Limit { row: "a key of a map", documented: "256 bytes", max: KEY_BYTES_MAX,
            event: |n| custom("properties", json!({"a": {"k".repeat(n): true}})),
            pointer: "/customEvent/properties/a/k", detail: "the key must have at most 256 bytes" },
    Limit { row: "a list, a map", documented: "1,000 elements", max: ELEMENTS_MAX,
            event: |n| event("purchaseComplete", json!({"orderId": "o", "items": vec![json!({}); n]})),
            pointer: "/purchaseComplete/items", detail: "must have at most 1000 elements" },
    Limit { row: "a list, a map", documented: "1,000 elements", max: ELEMENTS_MAX,
            event: |n| event("userProfileUpdate", json!({"fieldsUpdated": vec![""; n]})),
            pointer: "/userProfileUpdate/fieldsUpdated", detail: "must have at most 1000 elements" },
    Limit { row: "a list, a map", documented: "1,000 elements", max: ELEMENTS_MAX,
            event: |n| event("screenView", json!({"screenName": "s", "params": map_of(n, json!("v"))})),
            pointer: "/screenView/params", detail: "must have at most 1000 elements" },
    Limit { row: "a list, a map", documented: "1,000 elements", max: ELEMENTS_MAX,
            event: |n| custom("intParams", map_of(n, json!("1"))),
            pointer: "/customEvent/intParams", detail: "must have at most 1000 elements" },
    Limit { row: "values in `properties`", documented: "1,000", max: PROPERTIES_VALUES_MAX,
            event: |n| custom("properties", map_of(n, json!(1))),
            pointer: "/customEvent/properties", detail: "must have at most 1000 values, at all levels together" },
    Limit { row: "values in `properties`", documented: "1,000", max: PROPERTIES_VALUES_MAX,
            event: |n| custom("properties", json!({"a": vec![Value::Null; n - 1]})),
            pointer: "/customEvent/properties", detail: "must have at most 1000 values, at all levels together" },
    Limit { row: "values in `properties`", documented: "1,000", max: PROPERTIES_VALUES_MAX,
            event: |n| custom("properties", json!({"a": [[], {"b": vec![json!(true); 500]}], "c": map_of(n - 505, json!({}))})),
            pointer: "/customEvent/properties", detail: "must have at most 1000 values, at all levels together" },
    Limit { row: "levels of `properties`", documented: "30", max: PROPERTIES_DEPTH_MAX,
            event: |n| custom("properties", (1..n).fold(json!({}), |inner, _| json!({"a": inner}))),
            pointer: "/customEvent/properties/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a",
            detail: "must not nest deeper than 30 levels" },
    Limit { row: "levels of `properties`", documented: "30", max: PROPERTIES_DEPTH_MAX,
            event: |n| custom("properties", json!({"a": (2..n).fold(json!([]), |inner, _| json!([inner]))})),
            pointer: "/customEvent/properties/a/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0/0",
            detail: "must not nest deeper than 30 levels" },
];

fn envelope(event: &Value) -> EventEnvelope {
    serde_json::from_value(event.clone()).expect("read JSON")
}

/// The outcome of the event between two valid ones, in JSON and in binary.
fn outcomes(tested: &Value) -> [Result<Vec<u8>, Vec<FieldError>>; 2] {
    let good = event("appStart", json!({}));
    let json = json!({"events": [good, tested, good]}).to_string();
    let events = vec![envelope(&good), envelope(tested), envelope(&good)];
    let binary = IngestEventBatchRequest { events }.encode_to_vec();
    let of = |accepted: Accepted| {
        let outcomes: Vec<_> = accepted.iter().collect();
        assert!(outcomes.len() == 3 && outcomes[0].is_ok() && outcomes[2].is_ok(), "a neighbour was refused");
        outcomes[1].map(|event| event.bytes.to_vec()).map_err(<[FieldError]>::to_vec)
    };
    [
        of(request::accept_json_batch(json.as_bytes(), 3, &ARRIVAL).expect("read JSON batch")),
        of(request::accept_binary_batch(&binary, 3, &ARRIVAL).expect("read binary batch")),
    ]
}

#[test]
fn the_largest_legal_value_passes_and_one_more_is_refused_with_its_pointer() {
    for limit in LIMITS {
        for stored in outcomes(&(limit.event)(limit.max)) {
            let stored = stored.unwrap_or_else(|errors| panic!("{} {}: {errors:?}", limit.row, limit.pointer));
            EventRef::decode(&stored).expect("decode");
            EventEnvelope::decode(stored.as_slice()).expect("decode with prost");
        }
        for refused in outcomes(&(limit.event)(limit.max + 1)) {
            let errors = refused.expect_err(limit.row);
            let [error] = errors.as_slice() else { panic!("{}: {errors:?}", limit.row) };
            // Pointers truncate long keys.
            assert_eq!(error.pointer.trim_end_matches("k"), limit.pointer.trim_end_matches("k"), "{}", limit.row);
            assert_eq!(error.detail, limit.detail, "{}", limit.row);
        }
    }
}

#[test]
fn the_documentation_has_the_same_limits() {
    let documentation = include_str!("../../../docs/events.md");
    let (_, section) = documentation.split_once("\n## Limits\n").expect("a section on limits");
    let section = section.split("\n## ").next().unwrap_or_default();
    let row_of =
        |name: &str| section.lines().find(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(name)));
    for limit in LIMITS {
        let row = row_of(limit.row).unwrap_or_else(|| panic!("no row for {}", limit.row));
        assert!(row.contains(limit.documented), "{row}");
        let digits: String = limit.documented.chars().filter(char::is_ascii_digit).collect();
        assert_eq!(digits, limit.max.to_string(), "{}", limit.row);
    }
    assert!(row_of("a JSON body").is_some_and(|row| row.contains(&format!("{JSON_DEPTH_MAX} levels"))));
}

#[test]
fn control_characters_are_refused_in_ids_and_names() {
    for control in ['\0', '\n', '\u{1f}', '\u{7f}', '\u{80}', '\u{9f}'] {
        let text = format!("a{control}b");
        for name in ["id", "deviceId", "correlationId", "idempotencyKey", "userId", "sessionId"] {
            let mut event = event("appStart", json!({}));
            event[name] = json!(text);
            for outcome in outcomes(&event) {
                let expected = FieldError::new(format!("/{name}"), "must not have control characters");
                assert_eq!(outcome, Err(vec![expected]));
            }
        }
        for outcome in outcomes(&event("customEvent", json!({"eventName": text}))) {
            let expected = FieldError::new("/customEvent/eventName", "must not have control characters");
            assert_eq!(outcome, Err(vec![expected]));
        }
    }
}

#[test]
fn input_that_would_grow_is_refused_before_decoding() {
    // 1.7 million empty items in 5 MB. As messages they would take hundreds of megabytes.
    let items = 1_700_000;
    let json = format!(
        r#"{{"event":{{"appId":"a","deviceId":"d","purchaseComplete":{{"orderId":"o","items":[{{}}{}]}}}}}}"#,
        ",{}".repeat(items - 1)
    );
    let expected = vec![FieldError::new("/event/purchaseComplete/items", "must have at most 1000 elements")];
    assert_eq!(request::accept_json_single(json.as_bytes(), &ARRIVAL).expect_err("refuse").errors, expected);

    let field = |key: &[u8], bytes: &[u8]| {
        let mut out = key.to_vec();
        crate::event::codec::wire::put_varint(&mut out, bytes.len() as u64);
        out.extend_from_slice(bytes);
        out
    };
    let purchase = [b"\x0a\x01o".to_vec(), [0x3a, 0].repeat(items)].concat();
    let event = [b"\x12\x01a\x1a\x01d".to_vec(), field(&[0x8a, 0x13], &purchase)].concat();
    let body = field(&[0x0a], &event);
    assert_eq!(request::accept_binary_single(&body, &ARRIVAL).expect_err("refuse").errors, expected);

    // Such an event from an older version or another publisher is not read from the bus either.
    for read in [EventRef::decode(&event), EventRef::decode_admitted(&event)] {
        assert!(read.expect_err("refuse").to_string().contains("more than 50000 values"));
    }
    // The same in `properties`, however nested. The depth is bounded before anything recurses.
    let value = |inner: &[u8]| field(&[0x32], &field(&[0x0a], inner));
    let list_of = |values: usize| field(&[0x32], &[0x0a, 0].repeat(values));
    let deep = (0..50_000).fold(Vec::new(), |inner, _| value(&inner));
    let too_many = "must have at most 1000 values, at all levels together";
    let too_deep = "must not nest deeper than 30 levels";
    // Several values in one entry, which decoders merge, with the error for each.
    let empty = || list_of(0);
    let cases = [
        (vec![list_of(items)], Some(too_many)),
        (vec![deep], Some(too_deep)),
        (vec![list_of(999)], None),
        (vec![list_of(1_000)], Some(too_many)),
        (vec![list_of(500), list_of(499)], None),
        (vec![list_of(500), list_of(500)], Some(too_many)),
        (vec![list_of(999), empty()], None),
        (vec![list_of(1_500), empty()], Some(too_many)),
        (vec![empty(), list_of(60_000), Vec::new()], Some(too_many)),
        (vec![list_of(items), empty()], Some(too_many)),
        // The same within one value. Members of the `oneof` that a later one replaces count too.
        (vec![[list_of(1_500), empty()].concat()], Some(too_many)),
        (vec![[list_of(1_500), b"\x1a\x01t".to_vec()].concat()], Some(too_many)),
        (vec![list_of(1_500), b"\x1a\x01t".to_vec()], Some(too_many)),
        // Merged objects, and lists in elements of lists.
        (vec![field(&[0x2a], &field(&[0x0a], &field(&[0x12], &list_of(1_500)))), field(&[0x2a], b"")], Some(too_many)),
        (vec![value(&[list_of(1_500), empty()].concat())], Some(too_many)),
    ];
    for (case, (values, wrong)) in cases.into_iter().enumerate() {
        let entry: Vec<u8> = values.iter().flat_map(|value| field(&[0x12], value)).collect();
        let properties = field(&[0x0a], &[b"\x0a\x01k".to_vec(), entry].concat());
        let custom = [b"\x0a\x01e".to_vec(), field(&[0x32], &properties)].concat();
        let event = [b"\x12\x01a\x1a\x01d".to_vec(), field(&[0xa2, 0x38], &custom)].concat();
        let outcome = request::accept_binary_single(&field(&[0x0a], &event), &ARRIVAL);
        match (outcome, wrong) {
            (Ok(_), None) => {}
            (Err(refused), Some(detail)) => {
                assert_eq!(refused.errors, [FieldError::new("/event/customEvent/properties", detail)], "case {case}");
            }
            (outcome, _) => panic!("case {case}: {:?}", outcome.map(|accepted| accepted.bytes_len())),
        }
        // Checked before a decoder builds messages.
        let mut counted = Errors::default();
        check_counts(&event, &Path::Root, &mut counted);
        assert_eq!(counted.is_empty(), wrong.is_none() || wrong == Some(too_deep), "case {case}");
        if event.len() > 1_000_000 || wrong == Some(too_deep) {
            assert!(EventRef::decode_admitted(&event).is_err(), "case {case}");
        }
    }
}

#[test]
fn stored_elements_are_counted_again() {
    let elements = |key: &[u8], count: usize| [key, &[0]].concat().repeat(count);
    let errors_of = |payload: &str, bytes: &[u8]| {
        let kind = Kind::all().iter().find(|kind| kind.json_name == payload).expect("a kind");
        let mut errors = Errors::default();
        check_message(kind.message, bytes, Unchecked::All, &Path::Root, &mut errors);
        errors.into_result().err().unwrap_or_default()
    };
    let too_many = FieldError::new("/items", "must have at most 1000 elements");
    let items = |count: usize| [b"\x0a\x01o".to_vec(), elements(b"\x3a", count)].concat();
    assert_eq!(errors_of("purchaseComplete", &items(1_000)), []);
    assert_eq!(errors_of("purchaseComplete", &items(1_001)), [too_many]);
    let custom = |count: usize| {
        let mut properties = Vec::new();
        crate::event::codec::wire::put_bytes(&mut properties, 6, &elements(b"\x0a", count));
        [b"\x0a\x01e".to_vec(), properties].concat()
    };
    let too_many = FieldError::new("/properties", "must have at most 1000 values, at all levels together");
    assert_eq!(errors_of("customEvent", &custom(1_000)), []);
    assert_eq!(errors_of("customEvent", &custom(1_001)), [too_many]);
}

#[test]
fn merged_messages_have_no_lists() {
    // Elements are counted per occurrence of their message, and decoders merge a message that occurs twice. Payloads
    // and `properties` are counted over all occurrences, so no other message may have elements.
    fn holds_none(message: &Message) {
        for field in message.fields {
            match &field.shape {
                Shape::List(_) | Shape::Map(_) | Shape::Struct => panic!("{} is not counted", field.name),
                Shape::Message(inner) | Shape::Payload(inner) => holds_none(inner),
                _ => {}
            }
        }
    }
    holds_none(&DEVICE_CONTEXT);
    for field in Kind::all().iter().flat_map(|kind| kind.message.fields) {
        match &field.shape {
            Shape::Message(inner) => holds_none(inner),
            Shape::List(element) | Shape::Map(element) => match &element.shape {
                Shape::Message(inner) => holds_none(inner),
                Shape::Struct => panic!("{} is not counted", field.name),
                _ => {}
            },
            _ => {}
        }
    }
}

/// Bytes that the names of the fields take in a view. The rest is at most six times the event.
const VIEW_NAMES_BYTES_MAX: usize = 100_000;

#[test]
fn a_view_is_bounded_by_the_bytes_of_its_event() {
    let controls = |bytes: usize| "\u{1}".repeat(bytes);
    let keys = |entries: usize, bytes: usize, value: &Value| {
        (0..entries).map(|n| (format!("{}{n:03}", controls(bytes - 3)), value.clone())).collect::<Map<_, _>>()
    };
    let items = vec![json!({}); ELEMENTS_MAX];
    let long = || json!(controls(249_000));
    for (what, event) in [
        (
            "text of control characters",
            event(
                "appCrash",
                json!({"crashType": long(), "crashMessage": long(), "stackTrace": long(), "currentScreen": long()}),
            ),
        ),
        ("empty items", event("purchaseComplete", json!({"orderId": "o", "items": items}))),
        ("empty strings", event("userProfileUpdate", json!({"fieldsUpdated": vec![""; ELEMENTS_MAX]}))),
        (
            "keys of control characters",
            custom("intParams", keys(ELEMENTS_MAX, 256, &json!(i64::MIN.to_string())).into()),
        ),
        (
            "maps of short entries",
            event(
                "customEvent",
                json!({
                    "eventName": "e", "stringParams": map_of(ELEMENTS_MAX, json!("")), "intParams": map_of(ELEMENTS_MAX, json!("-1")),
                    "floatParams": map_of(ELEMENTS_MAX, json!(-f64::MIN_POSITIVE)), "boolParams": map_of(ELEMENTS_MAX, json!(false)),
                    "properties": {"a": vec![json!(-f64::MIN_POSITIVE); PROPERTIES_VALUES_MAX - 1]},
                }),
            ),
        ),
        (
            "nested properties",
            custom("properties", (0..30).map(|n| (n.to_string(), nested(19))).collect::<Map<_, _>>().into()),
        ),
    ] {
        let [json, binary] = outcomes(&event);
        let stored = json.unwrap_or_else(|errors| panic!("{what}: {errors:?}"));
        assert!(binary.is_ok(), "{what}");
        let read = EventRef::decode(&stored).expect("decode");
        for int64 in [Int64::AsNumber, Int64::AsString] {
            let mut view = Vec::new();
            read.write_view_json_with(&mut view, int64);
            assert!(
                view.len() <= 6 * stored.len() + VIEW_NAMES_BYTES_MAX,
                "{what}: {} of {}",
                view.len(),
                stored.len()
            );
        }
    }
}

#[test]
fn an_event_that_nests_too_deep_is_refused_alone() {
    let good = event("appStart", json!({}));
    for levels in [61, 62, 65, 1_000, 200_000] {
        let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for (event, pointer) in [
            (format!(r#"{{"appId":"a","deviceId":"d","appStart":{{}},"x":{deep}}}"#), "/x"),
            (format!(r#"{{"appId":{deep},"deviceId":"d","appStart":{{}}}}"#), "/appId"),
            (
                format!(
                    r#"{{"appId":"a","deviceId":"d","customEvent":{{"eventName":"e","properties":{{"p":{deep}}}}}}}"#
                ),
                "/customEvent/properties/p",
            ),
            (deep.clone(), ""),
        ] {
            let body = format!(r#"{{"events":[{good},{event},{good}]}}"#);
            let accepted = request::accept_json_batch(body.as_bytes(), 3, &ARRIVAL).expect("read batch");
            let outcomes: Vec<_> = accepted.iter().collect();
            assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{levels} {pointer}");
            let errors = outcomes[1].expect_err("refuse");
            assert!(errors.iter().all(|error| error.pointer.starts_with(pointer)), "{levels}: {errors:?}");
            assert!(errors.len() <= 2);
        }
    }
}
