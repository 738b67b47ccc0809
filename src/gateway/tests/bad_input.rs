//! Bad input: the exact reply, and that nothing of it is stored.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::Request;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::{BATCH, BINARY, INGEST, JSON, TestGateway};
use crate::base::supervisor::Tasks;
use crate::event::EventRef;
use crate::event::proto::{EventEnvelope, IngestEventBatchRequest, IngestEventBatchResponse, IngestEventRequest};
use crate::gateway::Settings;

const BODY_BYTES_MAX: usize = 256 * 1024;
const NOT_VALID: &str = "The event is not valid.";
const NOT_VALID_REQUEST: &str = "The request is not valid.";

/// One request and its reply.
struct Case {
    name: &'static str,
    request: Vec<u8>,
    status: u16,
    /// The problem's detail; empty for replies that hyper sends without a body.
    detail: String,
    errors: Vec<(&'static str, &'static str)>,
    header: Option<(&'static str, &'static str)>,
}

impl Case {
    fn raw(name: &'static str, request: impl Into<Vec<u8>>, status: u16, detail: impl Into<String>) -> Self {
        Self { name, request: request.into(), status, detail: detail.into(), errors: Vec::new(), header: None }
    }

    fn post(
        name: &'static str,
        path: &str,
        media_type: &str,
        body: impl AsRef<[u8]>,
        detail: impl Into<String>,
    ) -> Self {
        let body = body.as_ref();
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: {media_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        Self::raw(name, request, 400, detail)
    }

    /// A valid event changed by `change`, and its only fault.
    fn event(name: &'static str, change: Value, pointer: &'static str, detail: &'static str) -> Self {
        let body = json!({"event": changed(change)}).to_string();
        Self::post(name, INGEST, JSON, body, NOT_VALID).error(pointer, detail)
    }

    fn error(mut self, pointer: &'static str, detail: &'static str) -> Self {
        self.errors.push((pointer, detail));
        self
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.header = Some((name, value));
        self
    }
}

/// A valid event merged with `change`; null removes a member.
fn changed(change: Value) -> Value {
    let mut event = json!({"appId": "shop", "deviceId": "d1", "screenView": {"screenName": "home"}});
    for (key, value) in change.as_object().unwrap() {
        match value {
            Value::Null => event.as_object_mut().unwrap().remove(key),
            value => event.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    event
}

fn payload(name: &str, value: Value) -> Value {
    json!({"screenView": null, name: value})
}

fn single(text: &str) -> String {
    format!(r#"{{"event":{{"appId":"shop","deviceId":"d1",{text}}}}}"#)
}

fn unreadable() -> Vec<Case> {
    let post = |name, body: &str, detail| Case::post(name, INGEST, JSON, body, detail);
    let deep = format!(r#"{{"event":{}1{}}}"#, r#"{"a":"#.repeat(100), "}".repeat(100));
    let mut invalid_utf8 = single(r#""screenView":{"screenName":"?"}"#).into_bytes();
    let at = invalid_utf8.iter().position(|byte| *byte == b'?').unwrap();
    invalid_utf8[at] = 0xff;
    vec![
        post("empty body", "", "The body is empty."),
        post("blank body", " \r\n", "The body is empty."),
        post("cut JSON", r#"{"event":{"appId":"shop""#, "The body is not well-formed JSON at byte 24."),
        post("no JSON", "hello", "The body is not well-formed JSON at byte 0."),
        post("two documents", r#"{"event":null}{}"#, "The body is not well-formed JSON at byte 14."),
        post("comma too many", r#"{"event":{"appId":"shop",}}"#, "The body is not well-formed JSON at byte 25."),
        post("single quotes", "{'event':{}}", "The body is not well-formed JSON at byte 1."),
        post("leading zero", &single(r#""timestampMs":01"#), "The body is not well-formed JSON at byte 56."),
        post("bare NaN", &single(r#""timestampMs":NaN"#), "The body is not well-formed JSON at byte 55."),
        post(
            "bare control character",
            "{\"event\":{\"appId\":\"a\nb\"}}",
            "The body is not well-formed JSON at byte 20.",
        ),
        post("too deep", &deep, NOT_VALID)
            .error("/event/a", "unknown field")
            .error("/event/a", "must not nest deeper than the 64 levels of a body"),
        post("UTF-16", "{\0\"\0", "The body is UTF-16 or UTF-32: JSON must be UTF-8."),
        Case::post("invalid UTF-8", INGEST, JSON, invalid_utf8, "The body is not UTF-8 at byte 69."),
        post("an array", "[]", NOT_VALID_REQUEST).error("", "must be an object"),
        post("no event", "{}", NOT_VALID_REQUEST).error("/event", "is required"),
        post("null event", r#"{"event":null}"#, NOT_VALID_REQUEST).error("/event", "is required"),
        post("unknown member", r#"{"evnt":{}}"#, NOT_VALID_REQUEST).error("/evnt", "unknown field: expected event"),
        post("event is text", r#"{"event":"x"}"#, NOT_VALID).error("/event", "must be an object"),
    ]
}

fn invalid_heads() -> Vec<Case> {
    let event = Case::event;
    let app = |name, id: &str| {
        let detail = "must be 1 to 128 ASCII letters, digits, '.', '_' or '-', the first a letter or digit";
        event(name, json!({"appId": id}), "/event/appId", detail)
    };
    vec![
        event("no app", json!({"appId": null}), "/event/appId", "is required"),
        event("no device", json!({"deviceId": null}), "/event/deviceId", "is required"),
        event("empty device", json!({"deviceId": ""}), "/event/deviceId", "is required"),
        event("no payload", json!({"screenView": null}), "/event", "exactly one payload is required"),
        event(
            "two payloads",
            json!({"appStart": {}}),
            "/event/screenView",
            "more than one payload: exactly one is allowed",
        ),
        event("unknown field", json!({"colour": 1}), "/event/colour", "unknown field"),
        event(
            "unknown nested field",
            json!({"screenView": {"screenName": "h", "x/y": 1}}),
            "/event/screenView/x~1y",
            "unknown field: expected screenName, screenClass, previousScreen, params, properties",
        ),
        event("app is a number", json!({"appId": 7}), "/event/appId", "must be a string"),
        app("app climbs the path", "../../etc"),
        app("app with a slash", "a/b"),
        app("app with a backslash", "a\\b"),
        app("app is dots", ".."),
        app("app with a partition", "x=1/day=2"),
        app("app with a wildcard", "shop.>*"),
        app("app with a NUL", "shop\0"),
        app("app of letters beyond ASCII", "магазин"),
        app("app too long", &"a".repeat(129)),
        event(
            "device too long",
            json!({"deviceId": "d".repeat(257)}),
            "/event/deviceId",
            "must have at most 256 bytes",
        ),
        event(
            "device with a line end",
            json!({"deviceId": "d\n1"}),
            "/event/deviceId",
            "must not have control characters",
        ),
        event("id too long", json!({"id": "i".repeat(257)}), "/event/id", "must have at most 256 bytes"),
        event("before 1970", json!({"timestampMs": -1}), "/event/timestampMs", "must be from 0 to 253402300799999"),
        event(
            "after 9999",
            json!({"timestampMs": 253_402_300_800_000_i64}),
            "/event/timestampMs",
            "must be from 0 to 253402300799999",
        ),
    ]
}

fn invalid_values() -> Vec<Case> {
    let event = Case::event;
    vec![
        event("half a millisecond", json!({"timestampMs": 1.5}), "/event/timestampMs", "must be a 64-bit integer"),
        event(
            "more than 64 bits",
            json!({"timestampMs": "9223372036854775808"}),
            "/event/timestampMs",
            "must be a 64-bit integer",
        ),
        event(
            "a whole number that a double does not hold",
            json!({"timestampMs": "9007199254740993.0"}),
            "/event/timestampMs",
            "must be from 0 to 253402300799999",
        ),
        Case::post(
            "1e39 in a float",
            INGEST,
            JSON,
            single(r#""buttonTap":{"buttonId":"b","coordinates":{"x":1e39}}"#),
            NOT_VALID,
        )
        .error("/event/buttonTap/coordinates/x", "must be a finite number"),
        Case::post(
            "1e400 in a double",
            INGEST,
            JSON,
            single(r#""customEvent":{"eventName":"n","floatParams":{"k":1e400}}"#),
            NOT_VALID,
        )
        .error("/event/customEvent/floatParams/k", "must be a finite number"),
        event("time is a flag", json!({"timestampMs": true}), "/event/timestampMs", "must be a 64-bit integer"),
        event("time is a word", json!({"timestampMs": "now"}), "/event/timestampMs", "must be a 64-bit integer"),
        Case::post("huge number", INGEST, JSON, single(r#""timestampMs":1e400,"appStart":{}"#), NOT_VALID)
            .error("/event/timestampMs", "must be a 64-bit integer"),
        event(
            "more than 32 bits",
            payload("addToCart", json!({"productId": "p", "quantity": 2_147_483_648_i64})),
            "/event/addToCart/quantity",
            "must be a 32-bit integer",
        ),
        event(
            "NaN as text",
            payload("customEvent", json!({"eventName": "n", "floatParams": {"f": "NaN"}})),
            "/event/customEvent/floatParams/f",
            "must be a finite number",
        ),
        event(
            "unknown enum name",
            json!({"deviceContext": {"networkType": "SMOKE"}}),
            "/event/deviceContext/networkType",
            "must be one of NETWORK_TYPE_UNSPECIFIED, NETWORK_TYPE_WIFI, NETWORK_TYPE_CELLULAR_2G, \
             NETWORK_TYPE_CELLULAR_3G, NETWORK_TYPE_CELLULAR_4G, NETWORK_TYPE_CELLULAR_5G, NETWORK_TYPE_ETHERNET, \
             NETWORK_TYPE_OFFLINE",
        ),
        event(
            "unknown enum number",
            json!({"deviceContext": {"platform": 9}}),
            "/event/deviceContext/platform",
            "must be one of PLATFORM_UNSPECIFIED, PLATFORM_IOS, PLATFORM_ANDROID, PLATFORM_WEB",
        ),
        event("device is a list", json!({"deviceContext": []}), "/event/deviceContext", "must be an object"),
    ]
}

fn broken_rules() -> Vec<Case> {
    let event = Case::event;
    let nested = (0..31).fold(json!({}), |inner, _| json!({"a": inner}));
    vec![
        event("screen without name", json!({"screenView": {}}), "/event/screenView/screenName", "is required"),
        event("custom without name", payload("customEvent", json!({})), "/event/customEvent/eventName", "is required"),
        event(
            "over 100 percent",
            payload("scrollEvent", json!({"scrollDepthPercent": 101})),
            "/event/scrollEvent/scrollDepthPercent",
            "must be from 0 to 100",
        ),
        event(
            "negative cents",
            payload("checkoutStart", json!({"totalCents": -1})),
            "/event/checkoutStart/totalCents",
            "must not be negative",
        ),
        event(
            "currency of four",
            payload("checkoutStart", json!({"currency": "EURO"})),
            "/event/checkoutStart/currency",
            "must be empty or three ASCII letters",
        ),
        event("list for text", json!({"userId": ["u"]}), "/event/userId", "must be a string"),
        event(
            "text for a list",
            payload("userProfileUpdate", json!({"fieldsUpdated": "name"})),
            "/event/userProfileUpdate/fieldsUpdated",
            "must be an array",
        ),
        event(
            "properties too deep",
            payload("customEvent", json!({"eventName": "n", "properties": nested})),
            DEEPEST,
            "must not nest deeper than 30 levels",
        ),
        Case::post("half a surrogate pair", INGEST, JSON, single(r#""screenView":{"screenName":"\ud800"}"#), NOT_VALID)
            .error("/event/screenView/screenName", "must not have half of a surrogate pair"),
        Case::post("a field twice", INGEST, JSON, single(r#""appId":"b","appStart":{}"#), NOT_VALID)
            .error("/event/appId", "must not come twice"),
        Case::post("two things wrong", INGEST, JSON, r#"{"event":{"appStart":{}}}"#, NOT_VALID)
            .error("/event/appId", "is required")
            .error("/event/deviceId", "is required"),
    ]
}

const DEEPEST: &str = "/event/customEvent/properties/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a";

fn bad_batches() -> Vec<Case> {
    let batch = |name, body: String, detail: &str| Case::post(name, BATCH, JSON, body, detail);
    let event = changed(json!({})).to_string();
    let count = "must have 1 to 1000 events";
    vec![
        batch("no events", "{}".into(), NOT_VALID_REQUEST).error("/events", "is required"),
        batch("empty batch", r#"{"events":[]}"#.into(), NOT_VALID_REQUEST).error("/events", count),
        batch(
            "1,001 events",
            format!(r#"{{"events":[{}]}}"#, vec![event.as_str(); 1_001].join(",")),
            NOT_VALID_REQUEST,
        )
        .error("/events", count),
        batch("events is an object", r#"{"events":{}}"#.into(), NOT_VALID_REQUEST).error("/events", "must be an array"),
        batch("single sent as a batch", format!(r#"{{"event":{event}}}"#), NOT_VALID_REQUEST)
            .error("/event", "unknown field: expected events"),
        batch(
            "cut after a good event",
            format!(r#"{{"events":[{event},{{"#),
            &format!("The body is not well-formed JSON at byte {}.", 11 + event.len() + 2),
        ),
    ]
}

fn bad_binary() -> Vec<Case> {
    let post = |name, path, body: Vec<u8>, detail| Case::post(name, path, BINARY, body, detail);
    let event = EventEnvelope { app_id: "shop".into(), device_id: "d1".into(), ..Default::default() };
    let whole = IngestEventRequest { event: Some(event.clone()) }.encode_to_vec();
    let cut = whole[..whole.len() - 1].to_vec();
    let mut batch = IngestEventBatchRequest { events: vec![event.clone(); 3] }.encode_to_vec();
    batch.truncate(batch.len() - 1);
    let many = IngestEventBatchRequest { events: vec![event.clone(); 1_001] }.encode_to_vec();
    let noise = "The body is not a well-formed protobuf message.";
    let with = |fields: &[u8]| request_of(&[&event.encode_to_vec(), fields].concat());
    vec![
        post("empty protobuf", INGEST, Vec::new(), NOT_VALID_REQUEST).error("/event", "is required"),
        post("cut protobuf", INGEST, cut, noise),
        post("protobuf of noise", INGEST, vec![0xff; 64], noise),
        post("JSON as protobuf", INGEST, b"{\"event\":{}}".to_vec(), noise),
        post("two events in protobuf", INGEST, [whole.clone(), whole.clone()].concat(), NOT_VALID_REQUEST)
            .error("/event", "must not come twice"),
        post("two payloads in protobuf", INGEST, with(&two_payloads()), NOT_VALID)
            .error("/event/screenView", "more than one payload: exactly one is allowed"),
        post("protobuf text is not UTF-8", INGEST, with(&field(5, b"\xff")), NOT_VALID)
            .error("/event/correlationId", "must be UTF-8"),
        post("protobuf payload is not UTF-8", INGEST, with(&field(100, &field(1, b"a\xff"))), NOT_VALID)
            .error("/event/screenView/screenName", "must be UTF-8"),
        post("protobuf number for a text", INGEST, with(&[0x28, 1]), NOT_VALID)
            .error("/event/correlationId", "not well-formed"),
        post("protobuf NaN", INGEST, with(&tap_at(f32::NAN)), NOT_VALID)
            .error("/event/buttonTap/coordinates/x", "must be a finite number"),
        post("protobuf infinity", INGEST, with(&tap_at(f32::INFINITY)), NOT_VALID)
            .error("/event/buttonTap/coordinates/x", "must be a finite number"),
        post("protobuf properties too deep", INGEST, with(&nested_properties(31)), NOT_VALID)
            .error(DEEPEST, "must not nest deeper than 30 levels"),
        post("protobuf properties far too deep", INGEST, with(&nested_properties(200)), NOT_VALID)
            .error("/event/customEvent/properties", "must not nest deeper than 30 levels"),
        post("protobuf without payload", INGEST, whole, NOT_VALID).error("/event", "exactly one payload is required"),
        post("empty protobuf batch", BATCH, Vec::new(), NOT_VALID_REQUEST)
            .error("/events", "must have 1 to 1000 events"),
        post("cut protobuf batch", BATCH, batch, "The body is not a well-formed protobuf message."),
        post("1,001 events in protobuf", BATCH, many, NOT_VALID_REQUEST).error("/events", "must have 1 to 1000 events"),
    ]
}

/// A length-delimited protobuf field.
fn field(number: u32, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::bytes::encode(number, &content.to_vec(), &mut out);
    out
}

fn request_of(event: &[u8]) -> Vec<u8> {
    field(1, event)
}

/// `app_start`, then `screen_view`.
fn two_payloads() -> Vec<u8> {
    [field(400, &[]), field(100, &field(1, b"home"))].concat()
}

fn tap_at(x: f32) -> Vec<u8> {
    let coordinates = [&[0x0d][..], &x.to_le_bytes()].concat();
    field(200, &[field(1, b"buy"), field(4, &coordinates)].concat())
}

/// A custom event with properties nested to this depth: `{"a": {"a": ... 1}}`.
fn nested_properties(levels: usize) -> Vec<u8> {
    let one = [&[0x11][..], &1f64.to_le_bytes()].concat();
    let member = |value: &[u8]| field(1, &[field(1, b"a"), field(2, value)].concat());
    let inner = (1..levels).fold(member(&one), |inner, _| member(&field(5, &inner)));
    field(900, &[field(1, b"n"), field(6, &inner)].concat())
}

fn bad_http() -> Vec<Case> {
    let plain = |name, line: &str, status, detail| {
        Case::raw(name, format!("{line} HTTP/1.1\r\nhost: t\r\n\r\n"), status, detail)
    };
    let with = |name, headers: &str, status, detail| {
        Case::raw(name, format!("POST {INGEST} HTTP/1.1\r\nhost: t\r\n{headers}\r\n\r\n"), status, detail)
    };
    let post_only = "This resource takes POST.";
    let types = "Content-Type must be application/json, application/x-ndjson, application/x-protobuf, \
                 application/protobuf or application/octet-stream.";
    let form = "Content-Type is application/x-www-form-urlencoded, as curl -d says when it is not told otherwise. \
                Events are JSON: add -H 'Content-Type: application/json'.";
    vec![
        plain("GET ingest", "GET /v1/events/ingest", 405, post_only).header("allow", "POST"),
        plain("DELETE batch", "DELETE /v1/events/batch", 405, post_only).header("allow", "POST"),
        plain("PUT ingest", "PUT /v1/events/ingest", 405, post_only).header("allow", "POST"),
        plain("POST health", "POST /health", 405, "This resource takes GET, HEAD.").header("allow", "GET, HEAD"),
        plain("unknown method", "BREW /ready", 405, "This resource takes GET, HEAD.").header("allow", "GET, HEAD"),
        plain("unknown path", "GET /v1/events", 404, "There is nothing at this path."),
        plain("closing slash", "POST /v1/events/ingest/", 404, "There is nothing at this path."),
        plain("path climbs", "POST /v1/events/../events/ingest", 404, "There is nothing at this path."),
        plain("escaped path", "POST /v1/events%2fingest", 404, "There is nothing at this path."),
        Case::post("XML", INGEST, "application/xml", "<event/>", types).status(415),
        Case::post("a form", INGEST, "application/x-www-form-urlencoded", "a=b", form).status(415),
        Case::post("JSON of another kind", BATCH, "application/vnd.api+json", "{}", types).status(415),
        with(
            "unknown coding",
            "content-encoding: compress\r\ncontent-length: 0",
            415,
            "Content-Encoding must be gzip, deflate, br, zstd or identity.",
        )
        .header("accept-encoding", "gzip, deflate, br, zstd"),
        with(
            "two codings",
            "content-encoding: gzip, br\r\ncontent-length: 0",
            415,
            "Content-Encoding must name one coding: bodies are not inflated twice.",
        )
        .header("accept-encoding", "gzip, deflate, br, zstd"),
        with(
            "not gzip",
            "content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
            400,
            "The body is not what Content-Encoding says, or it ends early.",
        ),
        Case::post(
            "one event a line",
            INGEST,
            "application/x-ndjson",
            "{}",
            "JSON lines are taken by /v1/events/batch.",
        )
        .status(415),
        Case::post("no line", BATCH, "application/x-ndjson", "\n \r\n", NOT_VALID_REQUEST)
            .error("/events", "must have 1 to 1000 events"),
        Case::post(
            "wide lines",
            BATCH,
            "application/x-ndjson",
            "{\0",
            "The body is UTF-16 or UTF-32: JSON must be UTF-8.",
        ),
        with("too large", &format!("content-length: {}", BODY_BYTES_MAX + 1), 413, "The body is too large."),
        with("absurdly large", "content-length: 9999999999999", 413, "The body is too large."),
        with("length is a word", "content-length: ten", 400, ""),
        with("two lengths", "content-length: 1\r\ncontent-length: 2", 400, ""),
        with("broken chunk", "transfer-encoding: chunked\r\n\r\nzz", 400, "The body could not be read."),
        with("headers too large", &format!("x: {}\r\ncontent-length: 0", "x".repeat(100_000)), 431, ""),
        Case::raw("no host", "GET /health HTTP/1.1\r\n\r\n", 400, "The Host header is missing."),
        Case::raw("not HTTP", "EHLO mail.example.com\r\n\r\n", 400, ""),
        Case::raw("space in the path", "POST /a b HTTP/1.1\r\nhost: t\r\n\r\n", 400, ""),
    ]
}

#[tokio::test]
async fn bad_input_is_refused_and_leaves_no_trace() {
    let settings = Settings { body_bytes_max: BODY_BYTES_MAX, ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let cases: Vec<Case> =
        [unreadable(), invalid_heads(), invalid_values(), broken_rules(), bad_batches(), bad_binary(), bad_http()]
            .into_iter()
            .flatten()
            .collect();
    assert!(cases.len() >= 90, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let mut client = gateway.client().await;
        client.send(&case.request).await;
        let Some(reply) = client.try_reply().await else {
            wrong.push(format!("{}: no reply", case.name));
            continue;
        };
        let document: Value =
            serde_json::from_slice(&reply.body).unwrap_or(json!({"detail": "", "status": reply.status}));
        let errors: Vec<(&str, &str)> = document["errors"]
            .as_array()
            .map_or(&[][..], Vec::as_slice)
            .iter()
            .map(|error| (error["pointer"].as_str().unwrap_or("?"), error["detail"].as_str().unwrap_or("?")))
            .collect();
        let as_expected = (reply.status, document["detail"].as_str(), &errors)
            == (case.status, Some(&*case.detail), &case.errors)
            && document["status"] == case.status
            && case.header.is_none_or(|(name, value)| reply.header(name) == Some(value))
            && (reply.body.is_empty() || reply.header("content-type") == Some("application/problem+json"));
        if !as_expected {
            wrong.push(format!(
                "{}: {} {document}\n    not {} {} {:?}",
                case.name, reply.status, case.status, case.detail, case.errors
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert_eq!(gateway.stored().await, 0, "nothing of it is stored");
    let good = gateway.client().await.post(INGEST, JSON, single(r#""appStart":{}"#)).await;
    assert_eq!(good.status, 200, "and the gateway goes on");
}

/// The same fault is reported in JSON and protobuf, and alone in its batch.
#[tokio::test]
async fn a_bad_binary_event_is_rejected_alone() {
    let gateway = TestGateway::start(Settings::default()).await;
    let head = EventEnvelope { app_id: "shop".into(), device_id: "d1".into(), ..Default::default() }.encode_to_vec();
    let with = |fields: &[u8]| request_of(&[&head[..], fields].concat());
    let good = with(&field(400, &[]));
    let body = [
        good.clone(),
        with(&two_payloads()),
        with(&field(100, &field(1, b"a\xff"))),
        with(&tap_at(f32::NAN)),
        with(&[0x0a]),
        good,
    ];
    let reply = gateway.client().await.post(BATCH, BINARY, body.concat()).await;
    assert_eq!(reply.status, 200);
    let reply = IngestEventBatchResponse::decode(&*reply.body).unwrap();
    let errors: Vec<&str> = reply.results.iter().map(|result| &*result.error).collect();
    assert_eq!(
        errors,
        [
            "",
            "/screenView: more than one payload: exactly one is allowed",
            "/screenView/screenName: must be UTF-8",
            "/buttonTap/coordinates/x: must be a finite number",
            "not well-formed",
            "",
        ]
    );
    assert_eq!(gateway.stored().await, 2);
}

/// Input at the limits, or that only looks wrong, is accepted.
#[tokio::test]
async fn valid_edge_cases_are_stored() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let unknown_platform = [0x32, 2, 0x08, 77];
    let body = request_of(
        &[
            &EventEnvelope { app_id: "shop".into(), device_id: "d1".into(), ..Default::default() }.encode_to_vec()[..],
            &unknown_platform,
            &field(408, &[0x10, 9]),
        ]
        .concat(),
    );
    assert_eq!(client.post(INGEST, BINARY, body).await.status, 200, "enums of proto3 are open");
    for time in [json!(0), json!("0"), json!(1), json!(253_402_300_799_999_i64)] {
        let body = json!({"event": changed(json!({"timestampMs": time}))}).to_string();
        assert_eq!(client.post(INGEST, JSON, body).await.status, 200, "{time}");
    }
    let escaped = r#"{"\u0065vent":{"app\u0049d":"shop","deviceId":"d1","networkChange":{"currentType":"NETWORK\u005fTYPE_WIFI"}}}"#;
    assert_eq!(client.post(INGEST, JSON, escaped).await.status, 200);

    let payloads = gateway.payloads(6).await;
    let events: Vec<EventRef<'_>> = payloads.iter().map(|payload| EventRef::decode(payload).unwrap()).collect();
    let view = events[0].view();
    assert_eq!((&view["device_context"]["platform"], &view["battery_change"]["state"]), (&json!(77), &json!(9)));
    assert_eq!(events[0].device().unwrap().platform_name(), "77");
    let recent = |ms: i64| ms > 1_700_000_000_000 && ms < 253_402_300_799_999;
    assert!(recent(events[1].timestamp_ms) && recent(events[2].timestamp_ms), "0 is the time of receipt");
    assert_eq!((events[3].timestamp_ms, events[4].timestamp_ms), (1, 253_402_300_799_999));
    assert_eq!(events[5].view()["network_change"]["current_type"], "NETWORK_TYPE_WIFI");
}

/// In HTTP/2 a reply ends the stream, and a client that is still sending would never see it.
#[tokio::test]
async fn a_refused_http2_upload_is_read_to_its_end() {
    const PIECES: usize = 128;
    let settings = Settings { body_bytes_max: BODY_BYTES_MAX, ..Settings::default() };
    let gateway = TestGateway::start(settings).await;
    let tcp = TcpStream::connect(gateway.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    Tasks::default().spawn(async move { connection.await.unwrap() });
    for (path, status) in [(INGEST, 413), ("/nothing", 404)] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let pieces = futures_util::stream::iter((0..PIECES).map(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; 64 * 1024])))
        }));
        let request = Request::post(format!("http://test{path}")).body(StreamBody::new(pieces)).unwrap();
        let reply = sender.send_request(request).await.unwrap();
        assert_eq!((reply.status().as_u16(), sent.load(Ordering::SeqCst)), (status, PIECES), "{path}");
        assert_eq!(reply.headers()["content-type"], "application/problem+json");
    }
}

#[tokio::test]
async fn invalid_batch_events_are_rejected_individually() {
    let gateway = TestGateway::start(Settings::default()).await;
    let events = json!([
        {},
        7,
        null,
        changed(json!({"deviceId": ""})),
        changed(json!({"colour": 1})),
        changed(json!({"appStart": {}})),
        changed(json!({"timestampMs": "soon"}))
    ]);
    let reply = gateway.client().await.post(BATCH, JSON, json!({"events": events}).to_string()).await;
    assert_eq!(reply.status, 200);
    let reply = reply.json();
    let errors: Vec<_> = reply["results"].as_array().unwrap().iter().map(|result| result["error"].as_str()).collect();
    assert_eq!(
        errors,
        [
            Some("/appId: is required; /deviceId: is required; exactly one payload is required"),
            Some("must be an object"),
            Some("must be an object"),
            Some("/deviceId: is required"),
            Some("/colour: unknown field"),
            Some("/screenView: more than one payload: exactly one is allowed"),
            Some("/timestampMs: must be a 64-bit integer"),
        ]
    );
    assert_eq!((&reply["acceptedCount"], &reply["rejectedCount"]), (&json!(0), &json!(7)));
    assert_eq!(gateway.stored().await, 0);
}
