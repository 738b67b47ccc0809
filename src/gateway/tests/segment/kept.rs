//! No field value makes a message invalid, and no content is lost.

use serde_json::{Value, json};

use super::super::{JSON, TestGateway};
use super::{assert_within, send, views};
use crate::gateway::Settings;

/// Sends messages as raw text, and returns the rule views of their events.
async fn kept(messages: &[&str]) -> Vec<Value> {
    let gateway = TestGateway::start(Settings::default()).await;
    let body = format!(r#"{{"writeKey": "shop", "batch": [{}]}}"#, messages.join(","));
    let reply = gateway.client().await.post("/v1/batch", JSON, body).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"success": true})));
    views(&gateway, messages.len()).await
}

fn track(event: &str, properties: &str) -> String {
    format!(r#"{{"type": "track", "event": {event}, "userId": "u", "properties": {properties}}}"#)
}

/// The names of all known events, with values that do not fit their typed fields.
#[tokio::test]
async fn values_that_do_not_fit_their_field_stay_properties() {
    let names = [
        "Product Viewed",
        "Product Added",
        "Product Removed",
        "Checkout Started",
        "Checkout Step Completed",
        "Order Completed",
        "Payment Failed",
        "Application Opened",
        "Application Backgrounded",
        "Application Foregrounded",
        "Application Crashed",
        "Signed Up",
        "Signed In",
        "Signed Out",
    ];
    let fields = [
        "product_id",
        "productId",
        "id",
        "order_id",
        "orderId",
        "name",
        "product_name",
        "cart_id",
        "checkout_id",
        "price",
        "quantity",
        "currency",
        "payment_method",
        "method",
        "category",
        "source",
        "reason",
        "total",
        "value",
        "revenue",
        "step",
        "step_name",
        "step_duration_ms",
        "error_code",
        "error_message",
        "from_background",
        "launch_duration_ms",
        "referring_application",
        "url",
        "foreground_duration_ms",
        "background_duration_ms",
        "current_screen",
        "crash_type",
        "message",
        "stack_trace",
        "referral_source",
        "products",
    ];
    let odd = [
        r#""""#,
        r#""EURO""#,
        r#""\u20ac""#,
        "840",
        "-1",
        "2.5",
        "99999999999",
        "-99999999999999999999",
        "1e300",
        "true",
        "[]",
        r#"{"a": 1}"#,
        r#""a\nb\u0000""#,
        r#"[{"product_id": "", "price": -1, "quantity": -3}]"#,
        "null",
    ];
    let mut messages = Vec::new();
    for name in names {
        for value in odd {
            let of = |field: &&str| format!(r#""{field}": {value}"#);
            let all: Vec<_> = fields.iter().map(of).collect();
            messages.push(track(&format!("{name:?}"), &format!("{{{}}}", all.join(","))));
        }
    }
    let texts: Vec<_> = messages.iter().map(String::as_str).collect();
    kept(&texts).await;
    let order = |currency: &str| {
        track("\"Order Completed\"", &format!(r#"{{"order_id": "o", "total": 5, "currency": {currency}}}"#))
    };
    let currencies = [r#""USD ""#, r#""EURO""#, r#""\u20ac""#, r#""US Dollar""#, "840"];
    let messages = currencies.map(order);
    for (view, currency) in kept(&messages.each_ref().map(String::as_str)).await.iter().zip(currencies) {
        let purchase = json!({"order_id": "o", "total_cents": 500, "currency": "",
            "properties": {"currency": serde_json::from_str::<Value>(currency).unwrap()}});
        assert_within(&json!({ "purchase_complete": purchase }), view, currency);
    }
}

#[tokio::test]
async fn values_without_an_event_field_are_kept_or_stored_as_text() {
    let long = "n".repeat(300);
    let deep = format!(
        r#"{{"type": "track", "event": "E", "userId": "u", "properties": {{"a": {}1{}}}}}"#,
        "[".repeat(200),
        "]".repeat(200)
    );
    let half = r#"{"type": "track", "event": "E", "userId": "u", "writeKey": "shop", "properties": {"a": "x\ud83d"}}"#;
    let messages = [
        half.to_owned(),
        track("\"E\"", r#"{"a": 1e400, "b": 1234567890123456789, "c": -100000000000000000000, "d": 9007199254740991}"#),
        track(&format!("{long:?}"), "{}"),
        track(r#""a\nb""#, "{}"),
        track("7", "{}"),
        track("[1]", "{}"),
        format!(r#"{{"type": "track", "event": "E", "anonymousId": "{long}", "messageId": "{long}"}}"#),
        r#"{"type": "track", "event": "E", "anonymousId": {"a": 1}}"#.to_owned(),
        deep.clone(),
        r#"{"type": "video", "userId": "u", "properties": {"a": 1}}"#.to_owned(),
        r#"{"type": ["track"], "userId": "u"}"#.to_owned(),
        r#"{"type": "Track", "event": "E", "userId": "u"}"#.to_owned(),
    ];
    let views = kept(&messages.each_ref().map(String::as_str)).await;
    let custom =
        |name: &str, properties: Value| json!({"custom_event": {"event_name": name, "properties": properties}});
    let text = r#"{"type":"track","event":"E","userId":"u","properties":{"a": "x\ud83d"}}"#;
    for (n, expected) in [
        custom("E", json!({"a": "x\u{fffd}", "$segment": {"message": text}})),
        custom("E", json!({"a": "1e400", "b": "1234567890123456789", "c": "-100000000000000000000", "d": 9_007_199_254_740_991_i64})),
        custom("track", json!({"$segment": {"event": long}})),
        custom("track", json!({"$segment": {"event": "a\nb"}})),
        custom("7", Value::Null),
        custom("track", json!({"$segment": {"event": [1]}})),
        custom("E", json!({"$segment": {"anonymousId": long, "messageId": long}})),
        custom("E", json!({"$segment": {"anonymousId": {"a": 1}}})),
        custom("E", json!({"$segment": {"message": deep}})),
        custom("video", json!({"a": 1, "$segment": {"type": "video"}})),
        custom("message", json!({"$segment": {"type": ["track"]}})),
        custom("E", json!({"$segment": {"type": "Track"}})),
    ]
    .iter()
    .enumerate()
    {
        assert_within(expected, &views[n], &messages[n]);
    }
    for (n, field) in [(6, "device_id"), (6, "idempotency_key"), (7, "device_id")] {
        let id = views[n][field].as_str().unwrap();
        assert!(id.starts_with("sha256:") && id.len() == 71, "{id}");
    }
}

#[tokio::test]
async fn times_outside_the_event_range_are_kept() {
    let times = [
        "999999999999999",
        r#""1969-12-31T23:59:59Z""#,
        r#""1970-01-01T00:00:00Z""#,
        "-5",
        r#""9999-12-30T00:00:00Z""#,
        "1e300",
        "0",
        "true",
        r#""-009999-01-01T00:00:00Z""#,
    ];
    let messages =
        times.map(|time| format!(r#"{{"type": "track", "event": "E", "userId": "u", "timestamp": {time}}}"#));
    let views = kept(&messages.each_ref().map(String::as_str)).await;
    let now = jiff::Timestamp::now().as_millisecond();
    for (view, time) in views.iter().zip(times) {
        let at = view["timestamp_ms"].as_i64().unwrap();
        if time.contains("9999-12-30") {
            assert_eq!(at, 253_402_128_000_000);
            continue;
        }
        assert!((now - 60_000..=now).contains(&at), "{time}: {at}");
        let sent: Value = serde_json::from_str(time).unwrap();
        assert_eq!(view["custom_event"]["properties"]["$segment"]["timestamp"], sent, "{time}");
    }
}

#[tokio::test]
async fn calls_that_map_to_the_same_event_are_distinguishable() {
    let gateway = TestGateway::start(Settings::default()).await;
    for (path, name) in
        [("/v1/page", "a"), ("/v1/screen", "a"), ("/v1/page", ""), ("/v1/group", ""), ("/v1/track", "group")]
    {
        let message = json!({"userId": "u", "name": name, "event": name});
        assert_eq!(send(&gateway, path, &message).await.status, 200);
    }
    let views = views(&gateway, 5).await;
    let rest = |n: usize, kind: &str| views[n][kind]["properties"]["$segment"]["type"].clone();
    let found = [
        rest(0, "screen_view"),
        rest(1, "screen_view"),
        rest(2, "custom_event"),
        rest(3, "custom_event"),
        rest(4, "custom_event"),
    ];
    assert_eq!(json!(found), json!(["page", "screen", "page", "group", null]));
}

#[tokio::test]
async fn common_members_of_a_batch_are_in_each_event() {
    let gateway = TestGateway::start(Settings::default()).await;
    let many: serde_json::Map<String, Value> = (0..1_001).map(|n| (n.to_string(), n.into())).collect();
    let sent_at = "2025-01-01T00:00:05Z";
    let batch = json!({"sentAt": sent_at, "context": {"ip": "10.0.0.1"}, "channel": {"id": 9}, "batch": [
        {"type": "track", "event": "a", "userId": "u"},
        {"type": "track", "event": "b", "userId": "u", "sentAt": "own", "context": {"ip": "own"}},
        {"type": "page", "name": "c", "userId": "u", "properties": many},
    ]});
    assert_eq!(send(&gateway, "/v1/batch", &batch).await.status, 200);
    let views = views(&gateway, 3).await;
    let rest = |n: usize, kind: &str| views[n][kind]["properties"]["$segment"].clone();
    let expected = json!({"sentAt": sent_at, "context": {"ip": "10.0.0.1"}, "batch": {"channel": {"id": 9}}});
    assert_eq!(rest(0, "custom_event"), expected);
    let expected = json!({"sentAt": "own", "context": {"ip": "own"},
        "batch": {"channel": {"id": 9}, "sentAt": sent_at, "context": {"ip": "10.0.0.1"}}});
    assert_eq!(rest(1, "custom_event"), expected);
    let raw = rest(2, "screen_view");
    assert_eq!(serde_json::from_str::<Value>(raw["message"].as_str().unwrap()).unwrap(), batch["batch"][2]);
    let of_batch = json!({"sentAt": sent_at, "context": {"ip": "10.0.0.1"}, "channel": {"id": 9}});
    assert_eq!(serde_json::from_str::<Value>(raw["batch"].as_str().unwrap()).unwrap(), of_batch);
    assert_eq!(raw["type"], "page");
    let large = json!({"batch": [], "context": {"text": "x".repeat(40_000)}});
    let reply = send(&gateway, "/v1/batch", &large).await;
    let detail = "The body has more than 32768 bytes beside its messages.";
    assert_eq!((reply.status, &reply.json()["detail"]), (400, &json!(detail)));
}

#[tokio::test]
async fn refusals_use_the_field_names_of_the_sender() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let (no_app, no_user) = ("is required", "is required when there is no userId");
    let not_an_app = "must be 1 to 128 ASCII letters, digits, '.', '_' or '-', the first a letter or digit";
    for (path, body, pointer, detail) in [
        ("/v1/track", json!({"event": "E", "userId": "u"}), "/writeKey", no_app),
        ("/v1/track", json!({"event": "E", "userId": "u", "writeKey": "not an app"}), "/writeKey", not_an_app),
        ("/v1/track", json!({"event": "E", "userId": "", "writeKey": "shop"}), "/anonymousId", no_user),
        ("/v1/batch", json!({"batch": [{"type": "track", "userId": "u"}]}), "/batch/0/writeKey", no_app),
        ("/v1/batch", json!({"writeKey": "shop", "batch": [{"type": "track"}]}), "/batch/0/anonymousId", no_user),
    ] {
        let reply = client.post(path, JSON, body.to_string()).await;
        assert_eq!(
            (reply.status, &reply.json()["errors"]),
            (400, &json!([{"pointer": pointer, "detail": detail}])),
            "{body}"
        );
    }
}
