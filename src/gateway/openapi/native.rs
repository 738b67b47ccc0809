//! The `/v1/events` operations.

use serde_json::{Value, json};

use super::cloud_events;
use super::options::{DocumentOptions, EVENTS, takes_events};
use crate::openapi::{Document, Operation, reference};

const REQUEST: &str = "IngestEventRequest";
const BATCH_REQUEST: &str = "IngestEventBatchRequest";
const RESPONSE: &str = "IngestEventResponse";
const BATCH_RESPONSE: &str = "IngestEventBatchResponse";
const PROTOBUF_TYPES: [&str; 3] = ["application/x-protobuf", "application/protobuf", "application/octet-stream"];
const JSON_LINES_TYPES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

pub(super) fn ingest(options: DocumentOptions) -> Operation {
    let event = |summary: &str, event: Value| json!({"summary": summary, "value": {"event": event}});
    let examples = json!({
        "screenView": event("A screen was opened", screen_view()),
        "purchase": event("An order", purchase()),
        "customEvent": event("An event of the app's own", custom_event()),
    });
    let json = json!({"schema": reference(REQUEST), "examples": examples});
    let mut content = json!({"application/json": json, "text/plain": json});
    for media_type in PROTOBUF_TYPES {
        content[media_type] = protobuf(REQUEST);
    }
    cloud_events::add_to(&mut content);
    let operation = Operation::new(EVENTS, "ingestEvent", "Store one event")
        .about(
            "The reply comes in the form of the request: JSON, or protobuf (`causality.v1` in `proto/`). Without a \
             content type the body is JSON; as `text/plain`, which beacons of browsers send, too. CloudEvents are \
             taken in all three modes; those of the binary one have the header `ce-specversion`.",
        )
        .parameter(json!({
            "name": "Idempotency-Key",
            "in": "header",
            "description": "The `idempotencyKey` of an event that has none; in quotes or bare. Not for CloudEvents, \
                            whose source and id are one.",
            "schema": {"type": "string", "pattern": "^[!#-~]([ !#-~]{0,254}[!#-~])?$"},
            "example": "order-1017",
        }))
        .body(content);
    let operation = cloud_events::binary(takes_events(operation, options), options);
    replies(operation, "The event is stored, or was before.", RESPONSE, Some(BATCH_RESPONSE), &[single_reply()])
        .refused(&[403, 408, 413, 415, 429])
        .refused(options.unauthorized())
}

pub(super) fn batch(options: DocumentOptions) -> Operation {
    let examples = json!({
        "two": {"summary": "Two events", "value": {"events": [screen_view(), purchase()]}},
    });
    let json = json!({"schema": reference(BATCH_REQUEST), "examples": examples});
    let mut content = json!({"application/json": json, "text/plain": json});
    let line = |event: Value| format!("{event}\n");
    let lines = line(screen_view()) + &line(custom_event());
    for media_type in JSON_LINES_TYPES {
        let about = "One event (`EventEnvelope`) a line, at least one. Empty lines are passed over.";
        // A body without a visible character contains no event.
        let schema = json!({"type": "string", "pattern": "[!-~]", "description": about});
        content[media_type] = json!({"schema": schema, "examples": {"two": {"summary": "Two lines", "value": lines}}});
    }
    for media_type in PROTOBUF_TYPES {
        content[media_type] = protobuf(BATCH_REQUEST);
    }
    cloud_events::add_to(&mut content);
    let operation = Operation::new(EVENTS, "ingestEventBatch", "Store many events, each judged alone")
        .about(
            "200 says that every event has its verdict: look at `results`. Only a body that cannot be read as a whole \
             is refused as a whole. The reply comes in the form of the request; to JSON lines and CloudEvents it is \
             JSON. The header `Idempotency-Key` is refused: each event has a key of its own.",
        )
        .body(content);
    let operation = cloud_events::binary(takes_events(operation, options), options);
    replies(operation, "Every event has its verdict.", BATCH_RESPONSE, Some(RESPONSE), &[batch_reply()])
        .refused(&[403, 408, 413, 415, 429])
        .refused(options.unauthorized())
}

/// The reply in JSON and in protobuf; `other` is the reply to a CloudEvent request that is a batch where this one is
/// single, or the reverse.
fn replies(operation: Operation, description: &str, name: &str, other: Option<&str>, examples: &[Value]) -> Operation {
    let schema = match other {
        Some(other) => json!({"anyOf": [reference(name), reference(other)]}),
        None => reference(name),
    };
    let mut content = json!({"application/json": {"schema": schema, "example": examples.first()}});
    for media_type in PROTOBUF_TYPES {
        content[media_type] = protobuf(name);
    }
    operation.answer(200, description, content)
}

fn protobuf(message: &str) -> Value {
    json!({"schema": {"type": "string", "format": "binary", "description": format!("The message `causality.v1.{message}`, encoded.")}})
}

pub(super) fn add_schemas(document: &mut Document, options: DocumentOptions) {
    // The limit in the proto file is the maximum of the setting.
    document
        .change(BATCH_REQUEST, |schema| schema["properties"]["events"]["maxItems"] = options.batch_events_max.into());
    document.change("EventEnvelope", |schema| {
        options.app(&mut schema["properties"]["appId"]);
        schema["required"] = options.required("appId", &["deviceId"]);
    });
    document.schema(RESPONSE, json!({
        "type": "object",
        "required": ["eventId", "status", "duplicate"],
        "properties": {
            "eventId": {"type": "string", "description": "Of a duplicate the id of the first event; empty when that one cannot be read any more."},
            "status": {"const": "accepted"},
            "duplicate": {"type": "boolean", "description": "The idempotency key was seen before: the first event stands."},
        },
    }));
    document.schema(
        BATCH_RESPONSE,
        json!({
            "type": "object",
            "required": ["acceptedCount", "rejectedCount", "results"],
            "properties": {
                "acceptedCount": {"type": "integer", "minimum": 0},
                "rejectedCount": {"type": "integer", "minimum": 0},
                "results": {"type": "array", "items": reference("EventResult")},
            },
        }),
    );
    document.schema("EventResult", result());
    document.schema(
        "Health",
        json!({
            "type": "object",
            "required": ["status"],
            "properties": {"status": {"const": "ok"}},
        }),
    );
    document.schema("Ready", json!({
        "type": "object",
        "required": ["status"],
        "properties": {
            "status": {"enum": ["ready", "unready", "starting", "draining"]},
            "components": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Each `ok`, or what ails it."},
            "warnings": {"type": "array", "items": {"type": "string"}},
        },
    }));
}

fn result() -> Value {
    json!({
        "type": "object",
        "required": ["index", "eventId", "status"],
        "properties": {
            "index": {"type": "integer", "minimum": 0, "description": "The place of the event in the request."},
            "eventId": {"type": "string", "description": "Of a duplicate the id of the first event; empty when that one cannot be read any more, and of an event that is not valid."},
            "status": {"enum": ["accepted", "rejected"]},
            "error": {"type": "string", "description": "What is wrong, of a rejected event."},
            "retryable": {"type": "boolean", "description": "The same event may be accepted if it is sent again unchanged. False when absent."},
            "duplicate": {"type": "boolean", "description": "The first event with its idempotency key stands. False when absent."},
            "code": {"enum": [400, 403, 413, 503], "description": "What a rejected event would have been answered with had it come alone."},
        },
    })
}

fn single_reply() -> Value {
    json!({"eventId": "0198c9f2-6b3a-7d51-9c41-5f0e2a7b8c9d", "status": "accepted", "duplicate": false})
}

fn batch_reply() -> Value {
    let rejected = json!({
        "index": 1, "eventId": "", "status": "rejected", "error": "/screenView/screenName: is required", "code": 400,
    });
    json!({
        "acceptedCount": 1,
        "rejectedCount": 1,
        "results": [{"index": 0, "eventId": "0198c9f2-6b3a-7d51-9c41-5f0e2a7b8c9d", "status": "accepted"}, rejected],
    })
}

fn screen_view() -> Value {
    json!({
        "appId": "shop",
        "deviceId": "d-1",
        "userId": "u-1",
        "deviceContext": {"platform": "PLATFORM_IOS", "appVersion": "1.2.3", "locale": "de_DE"},
        "screenView": {"screenName": "home", "params": {"tab": "new"}},
    })
}

fn purchase() -> Value {
    json!({
        "appId": "shop",
        "deviceId": "d-1",
        "timestampMs": "1785542400000",
        "idempotencyKey": "order-1017",
        "purchaseComplete": {
            "orderId": "1017",
            "itemCount": 2,
            "totalCents": 12500,
            "currency": "EUR",
            "items": [{"productId": "p-1", "quantity": 2, "priceCents": 6250}],
            "properties": {"coupon": "SUMMER", "gift": true},
        },
    })
}

fn custom_event() -> Value {
    json!({
        "appId": "shop",
        "deviceId": "d-1",
        "customEvent": {
            "eventName": "level_finished",
            "intParams": {"level": 7},
            "floatParams": {"seconds": 81.5},
            "boolParams": {"first_try": true},
        },
    })
}
