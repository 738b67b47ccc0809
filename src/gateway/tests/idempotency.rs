//! The `Idempotency-Key` header over HTTP: what is stored once, and what is refused.

use prost::Message;
use serde_json::{Value, json};

use super::{BATCH, BINARY, INGEST, JSON, TestGateway, event, single};
use crate::event::EventRef;
use crate::event::proto::{EventEnvelope, IngestEventRequest};
use crate::gateway::Settings;

fn request(path: &str, media_type: &str, header: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: t\r\ncontent-type: {media_type}\r\n{header}\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

#[tokio::test]
async fn the_header_supplies_a_missing_key() {
    let gateway = TestGateway::start(Settings::default()).await;
    let mut client = gateway.client().await;
    let mut keyed = event("d1");
    keyed["idempotencyKey"] = json!("k1");
    let keyed = json!({ "event": keyed }).to_string();
    let envelope: EventEnvelope = serde_json::from_value(event("d1")).unwrap();
    let binary = IngestEventRequest { event: Some(envelope) }.encode_to_vec();
    let plain = single("d1");
    let mut first = Value::Null;
    // Each request carries the same key in a different way.
    for (header, media_type, body) in [
        ("idempotency-key: \"k1\"", JSON, plain.as_bytes()),
        ("Idempotency-Key: k1", JSON, plain.as_bytes()),
        ("idempotency-key: \"k1\"", JSON, keyed.as_bytes()),
        ("accept: */*", JSON, keyed.as_bytes()),
        ("idempotency-key: k1", BINARY, &*binary),
    ] {
        client.send(request(INGEST, media_type, header, body)).await;
        let reply = client.reply().await;
        assert_eq!(reply.status, 200, "{header}");
        if media_type == JSON {
            let reply = reply.json();
            assert_eq!(reply["duplicate"], first != Value::Null, "{header}");
            if first == Value::Null {
                first = reply["eventId"].clone();
            }
            assert_eq!(reply["eventId"], first, "{header}");
        }
    }
    client.send(request(INGEST, JSON, "idempotency-key: k2", plain.as_bytes())).await;
    assert_eq!(client.reply().await.json()["duplicate"], false);
    assert_eq!(gateway.stored().await, 2);
    let stored = gateway.payloads(2).await;
    let keys: Vec<_> = stored.iter().map(|event| EventRef::decode(event).unwrap().idempotency_key).collect();
    assert_eq!(keys, ["k1", "k2"]);
}

#[tokio::test]
async fn ambiguous_idempotency_keys_are_refused() {
    let gateway = TestGateway::start(Settings { event_bytes_max: 300, ..Settings::default() }).await;
    let mut client = gateway.client().await;
    let mut keyed = event("d1");
    keyed["idempotencyKey"] = json!("k1");
    let keyed = json!({ "event": keyed }).to_string();
    let form = "Idempotency-Key must be 1 to 256 visible ASCII characters and spaces, in quotes or without any.";
    let long = format!("idempotency-key: {}", "k".repeat(256));
    for (path, header, body, detail, errors) in [
        (INGEST, "idempotency-key: \"\"", single("d1"), form, Value::Null),
        (INGEST, "idempotency-key: \"k", single("d1"), form, Value::Null),
        (
            INGEST,
            "idempotency-key: k1\r\nidempotency-key: k1",
            single("d1"),
            "There is more than one Idempotency-Key header; send one.",
            Value::Null,
        ),
        (
            BATCH,
            "idempotency-key: k1",
            json!({"events": [event("d1")]}).to_string(),
            "Idempotency-Key is for single events; give each event of a batch its own idempotencyKey.",
            Value::Null,
        ),
        (
            INGEST,
            "idempotency-key: k2",
            keyed,
            "The event is not valid.",
            json!([{"pointer": "/event/idempotencyKey", "detail": "must be the same as the header Idempotency-Key"}]),
        ),
        (
            INGEST,
            &*long,
            single("d1"),
            "The event is not valid.",
            json!([{"pointer": "/event", "detail": "must have at most 300 bytes when it is encoded, and has 323"}]),
        ),
    ] {
        client.send(request(path, JSON, header, body.as_bytes())).await;
        let reply = client.reply().await;
        assert_eq!((reply.status, reply.json()["detail"].as_str()), (400, Some(detail)), "{header}");
        assert_eq!(reply.json()["errors"], errors, "{header}");
    }
    assert_eq!(gateway.stored().await, 0);
}
