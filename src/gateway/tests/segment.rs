//! Segment's API over real sockets: what is stored of each message, and the replies.

mod kept;
mod settings;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::keys::{Keyed, new};
use super::{JSON, TestGateway};
use crate::event::EventRef;
use crate::gateway::Settings;
use crate::http::raw_client::RawReply;

/// With the write key as the user name; it names the app if keys are off.
async fn send(gateway: &TestGateway, path: &str, body: &Value) -> RawReply {
    let key = BASE64_STANDARD.encode("shop:");
    let body = body.to_string();
    let mut client = gateway.client().await;
    let length = body.len();
    client
        .send(format!(
            "POST {path} HTTP/1.1\r\nhost: t\r\nauthorization: Basic {key}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
        .await;
    client.reply().await
}

async fn views(gateway: &TestGateway, count: usize) -> Vec<Value> {
    let stored = gateway.payloads(count).await;
    stored.iter().map(|payload| EventRef::decode(payload).unwrap().view()).collect()
}

/// Fails if `part` contains something that `whole` does not.
fn assert_within(part: &Value, whole: &Value, at: &str) {
    match part {
        Value::Object(members) => {
            for (name, member) in members {
                assert_within(member, &whole[name], &format!("{at}/{name}"));
            }
        }
        part => assert_eq!(part, whole, "{at}"),
    }
}

#[tokio::test]
async fn each_message_becomes_its_event() {
    let gateway = TestGateway::start(Settings::default()).await;
    let cases = [
        (
            json!({"type": "track", "event": "Product Viewed", "properties": {"product_id": "p1", "name": "Tea",
                "price": 4.5, "currency": "EUR", "category": "drinks", "brand": "Acme", "position": 3}}),
            json!({"product_view": {"product_id": "p1", "product_name": "Tea", "price_cents": 450, "currency": "EUR",
                "category": "drinks", "properties": {"brand": "Acme", "position": 3, "$segment": {"event": "Product Viewed"}}}}),
        ),
        (
            json!({"type": "track", "event": "Product Added",
                "properties": {"product_id": 7, "quantity": 2, "price": "19.999", "cart_id": "c"}}),
            json!({"add_to_cart": {"product_id": "7", "quantity": 2, "price_cents": 2000, "cart_id": "c",
                "properties": {"price": "19.999"}}}),
        ),
        (
            json!({"type": "track", "event": "product removed", "properties": {"product_id": "p", "quantity": 1}}),
            json!({"remove_from_cart": {"product_id": "p", "quantity": 1}}),
        ),
        (
            json!({"type": "track", "event": "Product Added", "properties": {"sku": "no product id"}}),
            json!({"custom_event": {"event_name": "Product Added", "properties": {"sku": "no product id"}}}),
        ),
        (
            json!({"type": "track", "event": "Checkout Started", "properties": {"order_id": "o", "value": 30,
                "products": [{"product_id": "a", "quantity": 2}, {"product_id": "b"}]}}),
            json!({"checkout_start": {"cart_id": "o", "total_cents": 3000, "item_count": 3,
                "properties": {"products": [{"product_id": "a", "quantity": 2}, {"product_id": "b"}]}}}),
        ),
        (
            json!({"type": "track", "event": "Checkout Step Completed", "properties": {"checkout_id": "c", "step": 2}}),
            json!({"checkout_step": {"cart_id": "c", "step_number": 2}}),
        ),
        (
            json!({"type": "track", "event": "Order Completed", "properties": {"order_id": "o", "total": 27.5,
                "currency": "USD", "coupon": "hasbros",
                "products": [{"product_id": "a", "name": "A", "price": 10, "quantity": 2}, {"product_id": "b", "price": 7.5}]}}),
            json!({"purchase_complete": {"order_id": "o", "total_cents": 2750, "currency": "USD", "item_count": 3,
                "items": [{"product_id": "a", "product_name": "A", "quantity": 2, "price_cents": 1000},
                          {"product_id": "b", "product_name": "", "quantity": 0, "price_cents": 750}],
                "properties": {"coupon": "hasbros"}}}),
        ),
        (
            json!({"type": "track", "event": "Order Completed", "properties": {"orderId": "o", "total": 5,
                "products": [{"id": "a", "name": "A", "price": 5}]}}),
            json!({"purchase_complete": {"order_id": "o", "total_cents": 500, "item_count": 1,
                "items": [{"product_id": "a", "product_name": "A", "quantity": 0, "price_cents": 500}]}}),
        ),
        (
            json!({"type": "track", "event": "Payment failed", "properties": {"error_code": "card_declined", "step": 3}}),
            json!({"purchase_failed": {"error_code": "card_declined", "checkout_step": 3}}),
        ),
        (
            json!({"type": "track", "event": "Application Opened", "properties": {"from_background": false, "url": "app://x", "version": "1"}}),
            json!({"app_start": {"is_cold_start": true, "deeplink_url": "app://x", "properties": {"version": "1"}}}),
        ),
        (
            json!({"type": "track", "event": "Application Backgrounded"}),
            json!({"app_background": {"current_screen": ""}}),
        ),
        (
            json!({"type": "track", "event": "Application Crashed", "properties": {"message": "boom"}}),
            json!({"app_crash": {"crash_message": "boom"}}),
        ),
        (
            json!({"type": "track", "event": "Signed Up", "properties": {"method": "email", "plan": "free"}}),
            json!({"user_signup": {"user_id": "u", "method": "email", "properties": {"plan": "free"}}}),
        ),
        (json!({"type": "track", "event": "Signed In"}), json!({"user_login": {"user_id": "u"}})),
        (
            json!({"type": "track", "event": "Plan Upgraded", "properties": {"seats": 5, "deep": {"list": [1, null]}}}),
            json!({"custom_event": {"event_name": "Plan Upgraded",
                "properties": {"seats": 5, "deep": {"list": [1, null]}}}}),
        ),
        (
            json!({"type": "identify", "traits": {"email": "a@b.c", "plan": "pro"}}),
            json!({"user_profile_update": {"user_id": "u", "fields_updated": ["email", "plan"],
                "properties": {"email": "a@b.c", "plan": "pro"}}}),
        ),
        (
            json!({"type": "screen", "name": "Home", "category": "main", "properties": {"tab": 1}}),
            json!({"screen_view": {"screen_name": "Home", "screen_class": "main", "properties": {"tab": 1}}}),
        ),
        (
            json!({"type": "page", "category": null, "properties": {"path": "/docs", "title": "Docs", "url": "https://a/docs"}}),
            json!({"screen_view": {"screen_name": "/docs", "properties": {"path": "/docs", "title": "Docs"}}}),
        ),
        (json!({"type": "page"}), json!({"custom_event": {"event_name": "page"}})),
        (
            json!({"type": "group", "groupId": "g1", "traits": {"name": "Acme"}}),
            json!({"custom_event": {"event_name": "group", "properties": {"name": "Acme", "$segment": {"groupId": "g1"}}}}),
        ),
        (
            json!({"type": "alias", "previousId": "old"}),
            json!({"custom_event": {"event_name": "alias", "properties": {"$segment": {"previousId": "old"}}}}),
        ),
    ];
    let messages: Vec<Value> = cases
        .iter()
        .enumerate()
        .map(|(n, (message, _))| {
            let mut message = message.clone();
            message["messageId"] = format!("m{n}").into();
            message["userId"] = "u".into();
            message["anonymousId"] = "anon".into();
            message
        })
        .collect();
    let reply = send(&gateway, "/v1/batch", &json!({"batch": messages})).await;
    assert_eq!((reply.status, reply.json()), (200, json!({"success": true})));
    for (n, (view, (message, expected))) in views(&gateway, cases.len()).await.iter().zip(&cases).enumerate() {
        let head = json!({"app_id": "shop", "device_id": "anon", "user_id": "u", "idempotency_key": format!("m{n}")});
        assert_within(&head, view, &message.to_string());
        assert_within(expected, view, &message.to_string());
    }
}

#[tokio::test]
async fn the_context_becomes_the_device_without_loss() {
    let gateway = TestGateway::start(Settings::default()).await;
    let context = json!({
        "app": {"name": "Shop", "version": "1.2", "build": "34"},
        "device": {"id": "dev-1", "model": "iPhone15,2", "manufacturer": "Apple", "type": "ios"},
        "os": {"name": "iOS", "version": "17.1"}, "screen": {"width": 390, "height": 844, "density": 3},
        "network": {"wifi": true, "cellular": false, "carrier": "T"}, "locale": "de-DE", "timezone": "Europe/Berlin",
        "library": {"name": "analytics-ios", "version": "4.1"}, "ip": "10.0.0.1", "campaign": {"name": "spring"},
    });
    let message =
        json!({"event": "E", "userId": "u", "context": context, "integrations": {"All": true}, "_metadata": {"a": 1}});
    assert_eq!(send(&gateway, "/v1/track", &message).await.status, 200);
    let view = &views(&gateway, 1).await[0];
    let expected = json!({
        "device_id": "dev-1",
        "device_context": {"platform": "PLATFORM_IOS", "os_version": "17.1", "app_version": "1.2", "build_number": "34",
            "device_model": "iPhone15,2", "manufacturer": "Apple", "screen_width": 390, "screen_height": 844,
            "locale": "de-DE", "timezone": "Europe/Berlin", "network_type": "NETWORK_TYPE_WIFI", "carrier": "T",
            "sdk_version": "4.1"},
    });
    assert_within(&expected, view, "");
    assert_eq!(
        view["custom_event"]["properties"]["$segment"],
        json!({"integrations": {"All": true}, "_metadata": {"a": 1}, "context": {
            "app": {"name": "Shop"}, "device": {"id": "dev-1", "type": "ios"}, "os": {"name": "iOS"},
            "screen": {"density": 3}, "network": {"cellular": false}, "library": {"name": "analytics-ios"},
            "ip": "10.0.0.1", "campaign": {"name": "spring"}}})
    );
}

#[tokio::test]
async fn the_sender_s_clock_is_corrected() {
    let gateway = TestGateway::start(Settings::default()).await;
    let before = Timestamp::now().as_millisecond();
    // A clock that is a year behind sends what happened five seconds ago.
    let messages = json!({"sentAt": "2025-01-01T00:00:05.000Z", "batch": [
        {"type": "track", "event": "a", "userId": "u", "originalTimestamp": "2025-01-01T00:00:00.000+00:00"},
        {"type": "track", "event": "b", "userId": "u", "timestamp": "2025-01-01T00:00:00"},
        {"type": "track", "event": "c", "userId": "u", "timestamp": "2024-12-31T23:59:55Z", "sentAt": "2025-01-01T00:00:00Z"},
        {"type": "track", "event": "d", "userId": "u"},
        {"type": "track", "event": "e", "userId": "u", "timestamp": "yesterday"},
    ]});
    assert_eq!(send(&gateway, "/v1/batch", &messages).await.status, 200);
    let history =
        json!({"batch": [{"type": "track", "event": "f", "userId": "u", "timestamp": "2020-02-02T02:02:02.002Z"}]});
    assert_eq!(send(&gateway, "/v1/import", &history).await.status, 200);
    let after = Timestamp::now().as_millisecond();
    let views = views(&gateway, 6).await;
    let at = |n: usize| views[n]["timestamp_ms"].as_i64().unwrap();
    for n in 0..3 {
        assert!((before - 5_000..=after - 5_000).contains(&at(n)), "{n}: {} of {before} to {after}", at(n));
    }
    for n in 3..5 {
        assert!((before..=after).contains(&at(n)), "{n}");
    }
    let rest = json!({"timestamp": "yesterday", "sentAt": "2025-01-01T00:00:05.000Z"});
    assert_eq!(views[4]["custom_event"]["properties"]["$segment"], rest);
    assert_eq!(at(5), 1_580_608_922_002, "without sentAt nothing is corrected");
}

#[tokio::test]
async fn invalid_messages_are_reported_and_valid_ones_stored_once() {
    let gateway = TestGateway::start(Settings::default()).await;
    let good = json!({"type": "track", "event": "E", "userId": "u", "messageId": "m1"});
    let batch = json!({"batch": [good, {"event": "E", "userId": "u"}, 7, {"type": "track", "event": "E"}, {"event": "x".repeat(40_000)}]});
    for _ in 0..2 {
        let reply = send(&gateway, "/v1/b", &batch).await;
        let errors = json!([
            {"pointer": "/batch/1/type", "detail": "is required"},
            {"pointer": "/batch/2", "detail": "must be an object"},
            {"pointer": "/batch/3/anonymousId", "detail": "is required when there is no userId"},
            {"pointer": "/batch/4", "detail": "must have at most 32768 bytes"},
        ]);
        assert_eq!((reply.status, reply.json()), (200, json!({"success": true, "errors": errors})));
    }
    assert_eq!(gateway.stored().await, 1);
    let all_bad = send(&gateway, "/v1/batch", &json!({"batch": [{"type": "track"}]})).await;
    assert_eq!((all_bad.status, &all_bad.json()["detail"]), (400, &json!("No message is valid.")));
    let large = json!({"batch": vec![json!({"type": "track", "event": "E", "userId": "u", "properties": {"p": "x".repeat(1_000)}}); 600]});
    assert_eq!(send(&gateway, "/v1/batch", &large).await.status, 400);
    for (path, body) in [("/v1/batch", json!([])), ("/v1/batch", json!({"batch": 1})), ("/v1/track", json!("x"))] {
        assert_eq!(send(&gateway, path, &body).await.status, 400, "{path} {body}");
    }
    assert_eq!(send(&gateway, "/v1/batch", &json!({"batch": []})).await.status, 200);
    assert_eq!(gateway.stored().await, 1);
}

#[tokio::test]
async fn batches_are_limited_to_the_message_count_of_segment() {
    // Larger than other batches may be.
    let gateway = TestGateway::start(Settings { batch_events_max: 3, ..Settings::default() }).await;
    let message = |n: usize| json!({"type": "track", "event": "E", "userId": "u", "messageId": n.to_string()});
    let batch = |count: usize| json!({"batch": (0..count).map(message).collect::<Vec<_>>(), "sentAt": null});
    assert_eq!(send(&gateway, "/v1/batch", &batch(40)).await.status, 200);
    assert_eq!(gateway.stored().await, 40);
    // Nothing after the last allowed message is read.
    for path in ["/v1/batch", "/v1/import", "/v1/b"] {
        let reply = send(&gateway, path, &batch(2_501)).await;
        let errors = json!([{"pointer": "/batch", "detail": "must have at most 2500 messages"}]);
        assert_eq!((reply.status, &reply.json()["errors"]), (400, &errors), "{path}");
    }
    assert_eq!(send(&gateway, "/v1/batch", &json!({"batch": vec![json!({}); 150_000]})).await.status, 400);
    assert_eq!(gateway.stored().await, 40);
    let gateway = TestGateway::start(Settings::default()).await;
    assert_eq!(send(&gateway, "/v1/batch", &batch(2_500)).await.status, 200);
    assert_eq!(gateway.stored().await, 2_500);
}

#[tokio::test]
async fn messages_are_read_whole_or_refused() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    for (body, detail) in [
        (r#"[{"event":"E"}]"#, "The body must be an object."),
        (r#"{"event":"E""#, "The body is not well-formed JSON at byte 12."),
        (r#"{"event":"E"} {}"#, "The body is not well-formed JSON at byte 14."),
        (r#"{"event":"E"}"#, "The message is not valid."),
    ] {
        let reply = client.post("/v1/t", JSON, body.as_bytes()).await;
        assert_eq!((reply.status, &reply.json()["detail"]), (400, &json!(detail)), "{body}");
    }
    let reply =
        client.post("/v1/t", JSON, b"\xef\xbb\xbf{\"event\":\"E\",\"userId\":\"u\",\"writeKey\":\"shop\"}").await;
    assert_eq!(reply.status, 200);
    assert_eq!(views(&gateway, 1).await[0]["app_id"], "shop");
}

#[tokio::test]
async fn unsupported_property_values_are_kept_as_sent() {
    let gateway = TestGateway::start(Settings::default()).await;
    let many: serde_json::Map<String, Value> = (0..1_001).map(|n| (n.to_string(), n.into())).collect();
    let message = json!({"event": "E", "userId": "u", "properties": many});
    let mut keyed = message.clone();
    keyed["writeKey"] = "shop".into();
    for sent in [&message, &keyed] {
        assert_eq!(send(&gateway, "/v1/t", sent).await.status, 200);
    }
    for view in &views(&gateway, 2).await {
        let kept = view["custom_event"]["properties"]["$segment"]["message"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(kept).unwrap(), message, "the key is in no event");
    }
}

#[tokio::test]
async fn a_message_with_a_reserved_member_name_loses_nothing() {
    let gateway = TestGateway::start(Settings::default()).await;
    let message = json!({"event": "E", "userId": "u", "$segment": "its own", "properties": {"$segment": "a property"}});
    assert_eq!(send(&gateway, "/v1/t", &message).await.status, 200);
    let view = &views(&gateway, 1).await[0];
    let rest = json!({"$segment": {"$segment": ["a property", "its own"]}});
    assert_eq!(view["custom_event"]["properties"], rest);
}

#[tokio::test]
async fn the_write_key_is_an_api_key_in_every_place() {
    let keyed = Keyed::start_with(Settings::default()).await;
    let key = keyed.key(new("shop", "web")).await;
    let message = |app: &str| json!({"type": "track", "event": app, "userId": "u"});
    let in_body = json!({"writeKey": key, "batch": [message("body")]});
    let basic = |text: String| format!("authorization: Basic {}", BASE64_STANDARD.encode(text));
    let plain = json!({"batch": [message("header")]}).to_string();
    for (headers, body, status) in [
        (basic(format!("{key}:")), plain.clone(), 200),
        (basic(key.clone()), plain.clone(), 200),
        (format!("authorization: Bearer {key}"), plain.clone(), 200),
        (String::new(), in_body.to_string(), 200),
        (basic("wrong:".to_owned()), in_body.to_string(), 401),
        (String::new(), plain, 401),
        (String::new(), json!({"writeKey": "wrong", "batch": [message("x")]}).to_string(), 401),
    ] {
        let reply = keyed.post("/v1/batch", &headers, "text/plain;charset=UTF-8", body.as_bytes()).await;
        assert_eq!(reply.status, status, "{headers} {body}");
    }
    let beacon = json!({"writeKey": key, "event": "beacon", "anonymousId": "a"}).to_string();
    assert_eq!(keyed.post("/v1/t", "", "application/x-www-form-urlencoded", beacon.as_bytes()).await.status, 200);
    let views = views(&keyed.gateway, 5).await;
    assert!(views.iter().all(|view| view["app_id"] == "shop"));
    assert_eq!(views[4]["custom_event"]["properties"], Value::Null, "the key is in no event");
}
