//! `POST /v1/logs`: what is stored of log records in both encodings, and the replies to exporters.

mod large;
mod otlp;

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use prost::Message;
use serde_json::{Value, json};

use super::TestGateway;
use super::keys::{Keyed, new};
use crate::event::EventRef;
use crate::event::proto::EventEnvelope;
use crate::gateway::{Quota, RateLimitSettings, Settings};

const LOGS: &str = "/v1/logs";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

use otlp::Value::{Array, Bool, Bytes, Double, Integer, Pairs, Text};

fn any(value: otlp::Value) -> otlp::AnyValue {
    otlp::AnyValue { value: Some(value) }
}

fn pair(key: &str, value: otlp::Value) -> otlp::KeyValue {
    otlp::KeyValue { key: key.into(), value: Some(any(value)) }
}

fn text(key: &str, value: &str) -> otlp::KeyValue {
    pair(key, Text(value.into()))
}

fn export(resource: Vec<otlp::KeyValue>, log_records: Vec<otlp::LogRecord>) -> otlp::Export {
    let scope = otlp::Scope { name: "checkout".into(), version: "2".into() };
    let scope_logs = vec![otlp::ScopeLogs { scope: Some(scope), log_records }];
    let resource = Some(otlp::Attributes { attributes: resource });
    otlp::Export { resource_logs: vec![otlp::ResourceLogs { resource, scope_logs, schema_url: String::new() }] }
}

const TIME_NS: u64 = 1_764_500_000_123_456_789;

fn record(name: &str) -> otlp::LogRecord {
    otlp::LogRecord { time_unix_nano: TIME_NS, event_name: name.into(), ..otlp::LogRecord::default() }
}

fn service() -> Vec<otlp::KeyValue> {
    vec![text("service.name", "shop")]
}

/// The stored events, without their ids.
async fn stored(gateway: &TestGateway, count: usize) -> Vec<Value> {
    let payloads = gateway.payloads(count).await;
    let event = |payload: &Vec<u8>| {
        let mut event = EventEnvelope::decode(payload.as_slice()).unwrap();
        event.id.clear();
        serde_json::to_value(event).unwrap()
    };
    payloads.iter().map(event).collect()
}

/// One export with every field of a record, in both encodings.
fn rich() -> (Vec<u8>, Value) {
    let resource = vec![
        text("service.name", "My Shop"),
        text("service.version", "1.2.3"),
        text("service.instance.id", "i-1"),
        text("os.name", "iOS"),
        text("os.version", "17.1"),
        text("device.model.identifier", "iPhone15,2"),
        text("device.manufacturer", "Apple"),
        text("device.id", "d-1"),
        text("user.id", "u-1"),
    ];
    let attributes = vec![
        text("session.id", "s-1"),
        pair("count", Integer(7)),
        pair("large", Integer(i64::MAX)),
        pair("ratio", Double(0.5)),
        pair("paid", Bool(true)),
        pair("raw", Bytes(vec![0, 255])),
        pair("items", Array(otlp::Array { values: vec![any(Text("a".into())), any(Integer(1))] })),
        otlp::KeyValue { key: "nothing".into(), value: None },
    ];
    let body = Pairs(otlp::Attributes { attributes: vec![text("what", "paid")] });
    let records = vec![
        otlp::LogRecord {
            severity_number: 9,
            severity_text: "INFO".into(),
            body: Some(any(body)),
            attributes,
            flags: 1,
            trace_id: (0..16).collect(),
            span_id: (0..8).collect(),
            observed_time_unix_nano: TIME_NS + 1,
            ..record("order.paid")
        },
        otlp::LogRecord { body: Some(any(Text("ready".into()))), ..record("") },
    ];
    let json = json!({"resourceLogs": [{
        "resource": {"attributes": [
            {"key": "service.name", "value": {"stringValue": "My Shop"}},
            {"key": "service.version", "value": {"stringValue": "1.2.3"}},
            {"key": "service.instance.id", "value": {"stringValue": "i-1"}},
            {"key": "os.name", "value": {"stringValue": "iOS"}},
            {"key": "os.version", "value": {"stringValue": "17.1"}},
            {"key": "device.model.identifier", "value": {"stringValue": "iPhone15,2"}},
            {"key": "device.manufacturer", "value": {"stringValue": "Apple"}},
            {"key": "device.id", "value": {"stringValue": "d-1"}},
            {"key": "user.id", "value": {"stringValue": "u-1"}}
        ]},
        "scopeLogs": [{"scope": {"name": "checkout", "version": "2"}, "unknown": [{}], "logRecords": [
            {"timeUnixNano": TIME_NS.to_string(), "observedTimeUnixNano": TIME_NS + 1, "severityNumber": 9,
             "severityText": "INFO", "eventName": "order.paid", "flags": 1,
             "traceId": "000102030405060708090A0B0C0D0E0F", "spanId": "0001020304050607",
             "body": {"kvlistValue": {"values": [{"key": "what", "value": {"stringValue": "paid"}}]}},
             "attributes": [
                {"key": "session.id", "value": {"stringValue": "s-1"}},
                {"key": "count", "value": {"intValue": "7"}},
                {"key": "large", "value": {"intValue": i64::MAX.to_string()}},
                {"key": "ratio", "value": {"doubleValue": 0.5}},
                {"key": "paid", "value": {"boolValue": true}},
                {"key": "raw", "value": {"bytesValue": "AP8="}},
                {"key": "items", "value": {"arrayValue": {"values": [{"stringValue": "a"}, {"intValue": 1}]}}},
                {"key": "nothing"}
             ]},
            {"timeUnixNano": TIME_NS.to_string(), "body": {"stringValue": "ready"}}
        ]}]
    }]});
    (export(resource, records).encode_to_vec(), json)
}

#[tokio::test]
async fn both_encodings_are_stored_completely() {
    let (protobuf, json) = rich();
    let mut coded = GzEncoder::new(Vec::new(), Compression::default());
    coded.write_all(&protobuf).unwrap();
    let coded = coded.finish().unwrap();
    for (media_type, more, body, empty) in [
        (PROTOBUF, "", protobuf, ""),
        (PROTOBUF, "content-encoding: gzip\r\n", coded, ""),
        ("application/json; charset=utf-8", "", json.to_string().into_bytes(), "{}"),
    ] {
        let gateway = TestGateway::start(Settings::default()).await;
        let mut client = gateway.client().await;
        let length = body.len();
        let head = format!(
            "POST {LOGS} HTTP/1.1\r\nhost: t\r\ncontent-type: {media_type}\r\n{more}content-length: {length}\r\n\r\n"
        );
        // Sent twice, as after a lost reply.
        for _ in 0..2 {
            client.send([head.as_bytes(), &body].concat()).await;
            let reply = client.reply().await;
            assert_eq!((reply.status, &*reply.body), (200, empty.as_bytes()), "{media_type}");
            assert!(media_type.starts_with(reply.header("content-type").unwrap()));
        }
        assert_eq!(gateway.stored().await, 2);
        let mut events = stored(&gateway, 2).await;
        let keys = events.each_mut_key();
        assert!(keys[0] != keys[1] && keys.iter().all(|key| key.starts_with("otlp:") && key.len() == 37), "{keys:?}");
        assert_eq!(events[0], expected("order.paid", &rich_properties(), Some("s-1")), "{media_type}");
        let plain = json!({"body": "ready", "time_unix_nano": "1764500000123456789"});
        assert_eq!(events[1], expected("log", &plain, None), "{media_type}");
    }
}

trait TakeKeys {
    fn each_mut_key(&mut self) -> Vec<String>;
}

impl TakeKeys for Vec<Value> {
    /// Removes the idempotency key from each event.
    fn each_mut_key(&mut self) -> Vec<String> {
        let take = |event: &mut Value| event.as_object_mut().unwrap().remove("idempotencyKey").unwrap();
        self.iter_mut().map(|event| take(event).as_str().unwrap().to_owned()).collect()
    }
}

fn rich_properties() -> Value {
    json!({"body": {"what": "paid"}, "severity_number": 9.0, "severity_text": "INFO", "flags": 1.0,
        "trace_id": "000102030405060708090a0b0c0d0e0f", "span_id": "0001020304050607",
        "time_unix_nano": "1764500000123456789", "observed_time_unix_nano": "1764500000123456790",
        "attributes": {"session.id": "s-1", "count": 7.0, "large": "9223372036854775807", "ratio": 0.5, "paid": true,
                       "raw": "AP8=", "items": ["a", 1.0], "nothing": null}})
}

fn expected(name: &str, properties: &Value, session: Option<&str>) -> Value {
    let mut properties = properties.clone();
    properties["scope"] = json!({"name": "checkout", "version": "2"});
    properties["resource"] = json!({"service.name": "My Shop", "service.version": "1.2.3",
        "service.instance.id": "i-1", "os.name": "iOS", "os.version": "17.1", "device.model.identifier": "iPhone15,2",
        "device.manufacturer": "Apple", "device.id": "d-1", "user.id": "u-1"});
    let mut event = json!({"appId": "My_Shop", "deviceId": "d-1", "timestampMs": "1764500000123", "userId": "u-1",
        "deviceContext": {"platform": "PLATFORM_IOS", "osVersion": "17.1", "appVersion": "1.2.3",
                          "deviceModel": "iPhone15,2", "manufacturer": "Apple"},
        "customEvent": {"eventName": name, "properties": properties}});
    if let Some(session) = session {
        event["sessionId"] = json!(session);
    }
    event
}

#[tokio::test]
async fn names_devices_and_keys_are_extracted() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let named = otlp::LogRecord { attributes: vec![text("event.name", "by attribute")], ..record("") };
    let keyed = otlp::LogRecord { attributes: vec![text("log.record.uid", "uid-1")], ..record("keyed") };
    let timeless = otlp::LogRecord { time_unix_nano: 0, ..record("timeless") };
    let observed = otlp::LogRecord { time_unix_nano: 0, observed_time_unix_nano: 5_000_000, ..record("observed") };
    let twice = record("twice");
    let records = vec![named, keyed, timeless, observed, twice.clone(), twice];
    let mut resource = service();
    resource.push(text("service.namespace", "@acme/web"));
    let body = export(resource, records).encode_to_vec();
    for _ in 0..2 {
        assert_eq!(client.post(LOGS, PROTOBUF, &body).await.status, 200);
    }
    // Only the record without a timestamp is stored again.
    assert_eq!(gateway.stored().await, 7);
    let events = stored(&gateway, 7).await;
    let names: Vec<_> = events.iter().map(|event| event["customEvent"]["eventName"].as_str().unwrap()).collect();
    assert_eq!(names, ["by attribute", "keyed", "timeless", "observed", "twice", "twice", "timeless"]);
    assert_eq!((&events[0]["appId"], &events[0]["deviceId"]), (&json!("acme_web"), &json!("shop")));
    assert_eq!((&events[1]["idempotencyKey"], &events[2]["idempotencyKey"]), (&json!("uid-1"), &Value::Null));
    assert_eq!(events[3]["timestampMs"], "5");
    let (first, second) = (&events[4]["idempotencyKey"], &events[5]["idempotencyKey"]);
    assert_eq!(format!("{}-1", first.as_str().unwrap()), second.as_str().unwrap());
}

#[tokio::test]
async fn refused_records_are_counted_and_the_others_are_stored() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let mut nested = Text("x".into());
    for _ in 0..40 {
        nested = Array(otlp::Array { values: vec![any(nested)] });
    }
    let deep = otlp::LogRecord { body: Some(any(nested)), ..record("deep") };
    let many = (0..1_001).map(|n| pair(&n.to_string(), Bool(true))).collect();
    let wide = otlp::LogRecord { attributes: many, ..record("wide") };
    let records = vec![record("good"), deep, wide, record("good too")];
    let body = export(service(), records).encode_to_vec();
    let message = "2 of 4 log records were rejected. The first: must not nest deeper than 30 levels";
    let reply = client.post(LOGS, PROTOBUF, body).await;
    let partial = otlp::NumberAndText { number: 2, text: message.into() };
    assert_eq!(reply.status, 200);
    assert_eq!(otlp::Response::decode(&*reply.body).unwrap(), otlp::Response { partial_success: Some(partial) });
    let nameless = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"eventName": "e"}]}]}]}).to_string();
    let reply = client.post(LOGS, JSON, nameless).await;
    let message = "1 of 1 log records were rejected. The first: /resource/service.name: is required";
    assert_eq!(
        (reply.status, reply.json()),
        (200, json!({"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": message}}))
    );
    assert_eq!(gateway.stored().await, 2);
}

#[tokio::test]
async fn unreadable_exports_get_a_status() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let not_valid = |pointer: &str, detail: &str| format!("The request is not valid. {pointer}: {detail}");
    let of_record = |record: &str| format!(r#"{{"resourceLogs": [{{"scopeLogs": [{{"logRecords": [{record}]}}]}}]}}"#);
    let at = |field: &str| format!("/resourceLogs/0/scopeLogs/0/logRecords/0/{field}");
    let deep = r#"{"body": "#.to_owned() + &r#"{"arrayValue": {"values": ["#.repeat(60);
    for (media_type, body, message) in [
        (PROTOBUF, b"\x0a\x05\x00".to_vec(), "The body is not a well-formed protobuf message.".to_owned()),
        (PROTOBUF, b"\x08\x01\x0d".to_vec(), "The body is not a well-formed protobuf message.".to_owned()),
        (JSON, b"".to_vec(), "The body is not well-formed JSON at byte 0.".to_owned()),
        (JSON, b"[]".to_vec(), "The request is not valid. must be an object".to_owned()),
        (JSON, br#"{"resourceLogs": {}}"#.to_vec(), not_valid("/resourceLogs", "must be an array")),
        (
            JSON,
            of_record(r#"{"timeUnixNano": "-1"}"#).into(),
            not_valid(&at("timeUnixNano"), "must be an integer of 64 bits, not negative"),
        ),
        (
            JSON,
            of_record(r#"{"traceId": "abc"}"#).into(),
            not_valid(&at("traceId"), "must be an even number of hex digits"),
        ),
        (
            JSON,
            of_record(r#"{"severityNumber": "INFO"}"#).into(),
            not_valid(&at("severityNumber"), "must be a 64-bit integer"),
        ),
        (
            JSON,
            of_record(r#"{"body": {"bytesValue": "?"}}"#).into(),
            not_valid(&at("body/bytesValue"), "must be base64"),
        ),
        (JSON, of_record(r#"{"body": "text"}"#).into(), not_valid(&at("body"), "must be an object")),
        (JSON, of_record(&deep).into(), "The body nests too deep.".to_owned()),
    ] {
        let reply = client.post(LOGS, media_type, &body).await;
        assert_eq!((reply.status, reply.header("content-type")), (400, Some(media_type)), "{message}");
        let status = match media_type {
            JSON => {
                let status = reply.json();
                let text = status["message"].as_str().unwrap().to_owned();
                otlp::NumberAndText { number: status["code"].as_i64().unwrap(), text }
            }
            _ => otlp::NumberAndText::decode(&*reply.body).unwrap(),
        };
        assert_eq!(status, otlp::NumberAndText { number: 3, text: message });
    }
    let reply = client.post(LOGS, "text/plain", "{}").await;
    let message = "Content-Type must be application/x-protobuf or application/json.";
    assert_eq!((reply.status, reply.json()), (415, json!({"code": 3, "message": message})));
    let reply = client.get(LOGS).await;
    assert_eq!((reply.status, reply.header("allow"), &reply.json()["code"]), (405, Some("POST"), &json!(12)));
    for body in ["", "\x12\x00", "\x0a\x00"] {
        let reply = client.post(LOGS, PROTOBUF, body).await;
        assert_eq!((reply.status, reply.body.len()), (200, 0), "an export may be empty");
    }
    assert_eq!(client.post(LOGS, JSON, "{}").await.json(), json!({}));
    assert_eq!(gateway.stored().await, 0);
}

#[tokio::test]
async fn partially_stored_exports_are_retried() {
    let settings = Settings { batch_events_max: 10, ..Settings::default() };
    let gateway = TestGateway::start_with_room(settings, 256 * 1024).await;
    let mut client = gateway.client().await;
    let body = |export_number: u64| {
        let name = |n| format!("e{export_number}.{n}");
        export(service(), (0..100).map(|n| record(&name(n))).collect()).encode_to_vec()
    };
    let mut whole = 0;
    let refused = loop {
        let reply = client.post(LOGS, PROTOBUF, body(whole)).await;
        if reply.status != 200 {
            break reply;
        }
        whole += 1;
        assert!(whole < 100, "the bus never fills");
    };
    // Repeated, as exporters do.
    let again = client.post(LOGS, PROTOBUF, body(whole)).await;
    for reply in [refused, again] {
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("2")));
        assert_eq!(reply.header("content-type"), Some(PROTOBUF));
        let status = otlp::NumberAndText { number: 14, text: "The event store is full; send again later.".into() };
        assert_eq!(otlp::NumberAndText::decode(&*reply.body).unwrap(), status);
    }
    let stored = gateway.stored().await;
    assert!((100 * whole..100 * (whole + 1)).contains(&stored), "{whole} exports, {stored} records");
    let payloads = gateway.payloads(usize::try_from(stored).unwrap()).await;
    for (n, payload) in (0..stored).zip(&payloads) {
        let name = format!("e{}.{}", n / 100, n % 100);
        assert_eq!(EventRef::decode(payload).unwrap().event_type(), name, "in order, and none twice");
    }
}

#[tokio::test]
async fn records_come_from_many_resources_in_batches() {
    let gateway = TestGateway::start(Settings { batch_events_max: 7, ..Settings::default() }).await;
    let mut client = gateway.client().await;
    let mut all = otlp::Export::default();
    for resource in 0..5 {
        let records = (0..11).map(|n| record(&format!("e{resource}.{n}"))).collect();
        all.resource_logs.extend(export(vec![text("service.name", &format!("s{resource}"))], records).resource_logs);
    }
    // An unknown field.
    let mut body = all.encode_to_vec();
    body.extend_from_slice(&[0x7a, 1, 0]);
    assert_eq!(client.post(LOGS, PROTOBUF, body).await.status, 200);
    let events = stored(&gateway, 55).await;
    let found: Vec<_> = events
        .iter()
        .map(|event| (event["appId"].as_str().unwrap(), event["customEvent"]["eventName"].as_str().unwrap()))
        .collect();
    for (position, (app, name)) in found.into_iter().enumerate() {
        let (resource, n) = (position / 11, position % 11);
        assert_eq!((app, name), (&*format!("s{resource}"), &*format!("e{resource}.{n}")));
    }
}

#[tokio::test]
async fn keys_and_limits_apply_and_refusals_are_statuses() {
    let each = Quota { per_second: 1, burst: 1 };
    let global = Quota { per_second: 10_000, burst: 20_000 };
    let limits = RateLimitSettings { global, each, events_per_second: None };
    let limited = TestGateway::start(Settings { rate_limits: Some(limits), ..Settings::default() }).await;
    let mut client = limited.client().await;
    let mut reply = client.post(LOGS, JSON, "{}").await;
    for _ in 0..20 {
        if reply.status == 429 {
            break;
        }
        reply = client.post(LOGS, JSON, "{}").await;
    }
    assert_eq!((reply.status, reply.header("retry-after"), &reply.json()["code"]), (429, Some("1"), &json!(8)));

    let keyed = Keyed::start_with(Settings::default()).await;
    let key = keyed.key(new("of-key", "otlp")).await;
    let mut client = keyed.gateway.client().await;
    let body = export(service(), vec![record("e")]).encode_to_vec();
    let reply = client.post(LOGS, PROTOBUF, &body).await;
    assert_eq!((reply.status, reply.header("content-type")), (401, Some(PROTOBUF)));
    assert!(reply.header("www-authenticate").is_some());
    assert_eq!(otlp::NumberAndText::decode(&*reply.body).unwrap().number, 16);
    let length = body.len();
    let head = format!(
        "POST {LOGS} HTTP/1.1\r\nhost: t\r\nx-api-key: {key}\r\ncontent-type: {PROTOBUF}\r\ncontent-length: {length}\r\n\r\n"
    );
    client.send([head.as_bytes(), &body].concat()).await;
    assert_eq!(client.reply().await.status, 200);
    assert_eq!(stored(&keyed.gateway, 1).await[0]["appId"], "of-key", "whatever the service is called");
}
