//! CloudEvents over HTTP: what is stored in each mode, and what is refused.

use prost::Message;
use serde_json::{Value, json};

use super::{BATCH, INGEST, JSON, TestGateway, event};
use crate::event::proto::EventEnvelope;
use crate::gateway::Settings;

const STRUCTURED: &str = "application/cloudevents+json; charset=utf-8";
const BATCHED: &str = "application/cloudevents-batch+json";
const TIME_MS: &str = "1522949520123";

fn binary(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("POST {path} HTTP/1.1\r\nhost: t\r\n{headers}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// The attributes that all events in these tests have, as headers.
const HEADERS: &str = "ce-specversion: 1.0\r\nce-id: e1\r\nce-source: /carts\r\nce-type: com.example.cart\r\n\
                       ce-appid: shop\r\n";

fn cloud_event(more: &Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": "e1", "source": "/carts", "type": "com.example.cart",
                           "appid": "shop"});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

/// The stored events, without the members that the gateway assigns.
async fn stored(gateway: &TestGateway, count: usize) -> Vec<Value> {
    let payloads = gateway.payloads(count).await;
    let event = |payload: &Vec<u8>| {
        let mut event = EventEnvelope::decode(payload.as_slice()).unwrap();
        assert_eq!(event.id.len(), 36);
        event.id.clear();
        serde_json::to_value(event).unwrap()
    };
    payloads.iter().map(event).collect()
}

/// The stored form of an event with [`HEADERS`] and these properties.
fn expected(device: &str, properties: &Value) -> Value {
    json!({"appId": "shop", "deviceId": device, "timestampMs": TIME_MS, "idempotencyKey": "/carts e1",
           "customEvent": {"eventName": "com.example.cart", "properties": properties}})
}

#[tokio::test]
async fn the_binary_mode_keeps_attributes_and_data() {
    const TIME: &str = "ce-time: 2018-04-05T17:32:00.123Z\r\n";
    for (headers, body, device, properties) in [
        (
            "content-type: application/json\r\nce-subject: cart%20%E2%82%AC 7\r\nce-rank: \"5\"\r\n",
            r#"{"amount": 12.5, "items": [{"sku": "a"}, null], "paid": true}"#.as_bytes(),
            "cart € 7",
            json!({"amount": 12.5, "items": [{"sku": "a"}, null], "paid": true, "cloudevent": {
                "id": "e1", "source": "/carts", "appid": "shop", "time": "2018-04-05T17:32:00.123Z",
                "subject": "cart € 7", "rank": "5", "datacontenttype": "application/json"}}),
        ),
        (
            "content-type: text/plain; charset=utf-8\r\nce-deviceid: d1\r\nce-subject: s\r\n",
            "h\u{e9}".as_bytes(),
            "d1",
            json!({"cloudevent": {"id": "e1", "source": "/carts", "appid": "shop",
                "time": "2018-04-05T17:32:00.123Z", "deviceid": "d1", "subject": "s",
                "datacontenttype": "text/plain; charset=utf-8", "data": "h\u{e9}"}}),
        ),
        (
            "content-type: application/octet-stream\r\nce-dataschema: https://example.com/s\r\n",
            &[0, 255],
            "/carts",
            json!({"cloudevent": {"id": "e1", "source": "/carts", "appid": "shop",
                "time": "2018-04-05T17:32:00.123Z", "dataschema": "https://example.com/s",
                "datacontenttype": "application/octet-stream", "data_base64": "AP8="}}),
        ),
        (
            "content-type: application/vnd.cart+json\r\n",
            br#"{"cloudevent": 1}"#,
            "/carts",
            json!({"cloudevent": {"id": "e1", "source": "/carts", "appid": "shop",
                "time": "2018-04-05T17:32:00.123Z", "datacontenttype": "application/vnd.cart+json",
                "data": {"cloudevent": 1.0}}}),
        ),
        (
            "",
            b"[1,\"a\"]",
            "/carts",
            json!({"cloudevent": {"id": "e1", "source": "/carts", "appid": "shop",
                "time": "2018-04-05T17:32:00.123Z", "data": [1.0, "a"]}}),
        ),
        (
            "",
            b"",
            "/carts",
            json!({"cloudevent": {"id": "e1", "source": "/carts", "appid": "shop",
                "time": "2018-04-05T17:32:00.123Z"}}),
        ),
    ] {
        let gateway = TestGateway::start(Settings::default()).await;
        let mut client = gateway.client().await;
        client.send(binary(INGEST, &format!("{HEADERS}{TIME}{headers}"), body)).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(JSON)), "{headers}: {}", reply.head);
        assert_eq!((&reply.json()["status"], &reply.json()["duplicate"]), (&json!("accepted"), &json!(false)));
        assert_eq!(stored(&gateway, 1).await, [expected(device, &properties)], "{headers}");
    }
}

#[tokio::test]
async fn the_structured_mode_keeps_the_same() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let time = json!({"time": "2018-04-05T19:32:00.123+02:00"});
    let whole =
        cloud_event(&json!({"time": time["time"], "data": {"a": {"b": [1]}}, "userid": "u1", "sessionid": "s1",
        "correlationid": "c1", "deviceid": "d1", "rank": 5, "vip": true, "subject": null}));
    let base64 = cloud_event(&json!({"id": "e2", "data_base64": "AP8=", "datacontenttype": "image/png"}));
    let text = cloud_event(&json!({"id": "e3", "data": "t\u{e9}xt", "datacontenttype": "text/plain"}));
    // Both paths take it.
    for (path, event) in [(INGEST, &whole), (BATCH, &base64), (INGEST, &text)] {
        let reply = client.post(path, STRUCTURED, event.to_string()).await;
        assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("accepted")), "{event}");
    }
    let reply = client.post(INGEST, STRUCTURED, whole.to_string()).await;
    assert_eq!(reply.json()["duplicate"], true, "source and id say which event it is");
    let mut stored = stored(&gateway, 3).await;
    assert_eq!(
        stored[0],
        json!({"appId": "shop", "deviceId": "d1", "timestampMs": TIME_MS, "idempotencyKey": "/carts e1",
            "userId": "u1", "sessionId": "s1", "correlationId": "c1",
            "customEvent": {"eventName": "com.example.cart", "properties": {"a": {"b": [1.0]}, "cloudevent": {
                "id": "e1", "source": "/carts", "appid": "shop", "time": "2018-04-05T19:32:00.123+02:00",
                "userid": "u1", "sessionid": "s1", "correlationid": "c1", "deviceid": "d1", "rank": 5.0,
                "vip": true}}}})
    );
    let properties = |event: &mut Value| event["customEvent"]["properties"]["cloudevent"].take();
    assert_eq!(
        properties(&mut stored[1]),
        json!({"id": "e2", "source": "/carts", "appid": "shop", "data_base64": "AP8=", "datacontenttype": "image/png"})
    );
    assert_eq!(
        properties(&mut stored[2]),
        json!({"id": "e3", "source": "/carts", "appid": "shop", "data": "t\u{e9}xt", "datacontenttype": "text/plain"})
    );
}

#[tokio::test]
async fn batch_events_are_validated_individually() {
    let gateway = TestGateway::start(Settings { batch_events_max: 5, ..Settings::default() }).await;
    let mut client = gateway.client().await;
    let body = json!([
        cloud_event(&json!({})),
        cloud_event(&json!({"id": "", "type": null})),
        7,
        cloud_event(&json!({"id": "e2", "type": "x".repeat(257)})),
        cloud_event(&json!({"source": "s".repeat(240), "id": "i".repeat(40), "subject": "s"})),
    ]);
    for path in [BATCH, INGEST] {
        let reply = client.post(path, BATCHED, body.to_string()).await;
        assert_eq!(reply.status, 200);
        let reply = reply.json();
        let results: Vec<_> =
            reply["results"].as_array().unwrap().iter().map(|result| result["error"].clone()).collect();
        assert_eq!(
            results,
            [
                Value::Null,
                json!("/id: is required; /type: is required"),
                json!("must be an object"),
                json!("/type: must have at most 256 bytes"),
                Value::Null,
            ]
        );
        let duplicate = reply["results"][0]["duplicate"] == true;
        assert_eq!((&reply["acceptedCount"], duplicate), (&json!(2), path == INGEST));
    }
    let keys: Vec<_> = stored(&gateway, 2).await.iter().map(|event| event["idempotencyKey"].clone()).collect();
    assert_eq!(keys[0], "/carts e1");
    let long = keys[1].as_str().unwrap();
    assert!(long.starts_with("sha256:") && long.len() == 71, "{long}");
    let reply = client.post(BATCH, BATCHED, "[]").await;
    assert_eq!((reply.status, &reply.json()["acceptedCount"]), (200, &json!(0)));
    let reply = client.post(BATCH, BATCHED, json!(vec![cloud_event(&json!({})); 6]).to_string()).await;
    assert_eq!((reply.status, &reply.json()["errors"][0]["detail"]), (400, &json!("must have at most 5 events")));
}

#[tokio::test]
async fn invalid_cloud_events_are_refused() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let not_valid = "The event is not valid.";
    let one = |pointer: &str, detail: &str| json!([{"pointer": pointer, "detail": detail}]);
    let (id, time) = ("i".repeat(101), "must be a time as RFC 3339 has it");
    for (more, detail, errors) in [
        (json!({"id": null}), not_valid, one("/id", "is required")),
        (json!({"source": 7}), not_valid, one("/source", "is required")),
        (json!({"type": ""}), not_valid, one("/type", "is required")),
        (json!({"specversion": "0.3"}), not_valid, one("/specversion", "must be 1.0")),
        (json!({"specversion": null}), not_valid, one("/specversion", "is required")),
        (json!({"time": "yesterday"}), not_valid, one("/time", time)),
        (json!({"time": 5}), not_valid, one("/time", time)),
        (json!({"appid": null}), not_valid, one("/appid", "is required")),
        (json!({"rank": []}), not_valid, one("/rank", "must be a string")),
        (json!({"data": {"a": id.repeat(2600)}}), not_valid, one("/data/a", "must have at most 262144 bytes")),
        (json!({"data_base64": "?"}), not_valid, one("/data_base64", "must be base64")),
        (json!({"data_base64": {}}), not_valid, one("/data_base64", "must be a string")),
        (json!({"data": 1, "data_base64": "AA=="}), not_valid, one("/data_base64", "must not come beside other data")),
    ] {
        let reply = client.post(INGEST, STRUCTURED, cloud_event(&more).to_string()).await;
        let (reply, status) = (reply.json(), reply.status);
        assert_eq!((status, reply["detail"].as_str(), &reply["errors"]), (400, Some(detail), &errors), "{more}");
    }
    for (media_type, body, status, detail) in [
        (STRUCTURED, "", 400, "The body is not well-formed JSON at byte 0."),
        (STRUCTURED, "{\"id\":", 400, "The body is not well-formed JSON at byte 6."),
        (STRUCTURED, "[]", 400, not_valid),
        (BATCHED, "{}", 400, "The request is not valid."),
        (
            "application/cloudevents+xml",
            "<event/>",
            415,
            "CloudEvents are taken as application/cloudevents+json, application/cloudevents-batch+json, or in the \
             binary mode.",
        ),
    ] {
        let reply = client.post(INGEST, media_type, body).await;
        assert_eq!((reply.status, reply.json()["detail"].as_str()), (status, Some(detail)), "{media_type} {body}");
    }
    let key = "Idempotency-Key is not for CloudEvents: their source and id say which event it is.";
    for (headers, body, detail) in [
        (format!("{HEADERS}idempotency-key: k\r\n"), "{}", key),
        (format!("{HEADERS}content-type: application/json\r\n"), "{", "The body is not well-formed JSON at byte 1."),
        (format!("{HEADERS}ce-id: e2\r\n"), "{}", not_valid),
        (
            format!("{HEADERS}ce-subject: %ff\r\n"),
            "{}",
            "The header ce-subject is not UTF-8 once its percent signs are decoded.",
        ),
        ("ce-specversion: 1.0\r\n".to_owned(), "{}", not_valid),
    ] {
        client.send(binary(INGEST, &headers, body.as_bytes())).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.json()["detail"].as_str()), (400, Some(detail)), "{headers}");
    }
    // Only the headers make it a CloudEvent.
    assert_eq!(client.post(INGEST, JSON, json!({"event": event("d")}).to_string()).await.status, 200);
    assert_eq!(gateway.stored().await, 1);
}

#[tokio::test]
async fn values_without_an_event_field_are_kept() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let long = "i".repeat(300);
    let numbers = r#"{"a": 1234567890123456789, "b": [1e400, -9007199254740993], "c": 9007199254740991, "d": 1.5}"#;
    let odd = json!({"subject": long, "userid": "a\nb", "time": "1969-12-31T23:59:59Z"});
    let event = cloud_event(&odd).to_string();
    let event = format!(r#"{}, "rank": 12345678901234567890, "data": {numbers}}}"#, event.trim_end_matches('}'));
    let reply = client.post(INGEST, STRUCTURED, &event).await;
    assert_eq!(reply.status, 200, "{}", reply.json());
    let stored = &stored(&gateway, 1).await[0];
    let hash = |text: &Value| text.as_str().is_some_and(|text| text.starts_with("sha256:"));
    assert!(hash(&stored["deviceId"]) && hash(&stored["userId"]), "{stored}");
    let properties = &stored["customEvent"]["properties"];
    let own = &properties["cloudevent"];
    assert_eq!((&own["subject"], &own["userid"]), (&json!(long), &json!("a\nb")));
    assert_eq!((&own["time"], &own["rank"]), (&json!("1969-12-31T23:59:59Z"), &json!("12345678901234567890")));
    assert_eq!(
        (&properties["a"], &properties["b"]),
        (&json!("1234567890123456789"), &json!(["1e400", "-9007199254740993"]))
    );
    assert_eq!((properties["c"].as_f64(), properties["d"].as_f64()), (Some(9_007_199_254_740_991.0), Some(1.5)));
    // The same in binary mode.
    client.send(binary(INGEST, &format!("{HEADERS}content-type: application/json\r\n"), numbers.as_bytes())).await;
    assert_eq!(client.reply().await.status, 200);
    let half = cloud_event(&json!({"subject": "half"})).to_string().replace("half", "\\ud83d");
    let reply = client.post(INGEST, STRUCTURED, half).await;
    let errors = json!([{"pointer": "/subject", "detail": "must not have half of a surrogate pair"}]);
    assert_eq!((reply.status, &reply.json()["errors"]), (400, &errors));
}
