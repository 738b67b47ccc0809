//! Segment's API.

use serde_json::{Value, json};

use super::options::{DocumentOptions, SEGMENT, takes_events};
use crate::event::segment::{Call, MESSAGES_MAX};
use crate::gateway::segment::route::SegmentRoute;
use crate::openapi::{CACHE_CONTROL, Document, Operation, reference};

const MESSAGE: &str = "SegmentMessage";
const REQUEST: &str = "SegmentRequest";
const BATCH: &str = "SegmentBatch";
const ANSWER: &str = "SegmentAnswer";

pub(super) fn operation(segment_route: SegmentRoute, path: &str, options: DocumentOptions) -> Operation {
    let name = path.rsplit('/').next().unwrap_or_default();
    let (id, also) = match name {
        "t" => ("segmentTrackShort", "The same as `/v1/track`."),
        "i" => ("segmentIdentifyShort", "The same as `/v1/identify`."),
        "p" => ("segmentPageShort", "The same as `/v1/page`."),
        "s" => ("segmentScreenShort", "The same as `/v1/screen`."),
        "g" => ("segmentGroupShort", "The same as `/v1/group`."),
        "a" => ("segmentAliasShort", "The same as `/v1/alias`."),
        "b" => ("segmentBatchShort", "The same as `/v1/batch`."),
        "import" => ("segmentImport", "The same as `/v1/batch`."),
        _ => ("", ""),
    };
    let id = |own: &'static str| if id.is_empty() { own } else { id };
    let message = |own, summary: &str, example: Value| {
        let operation = Operation::new(SEGMENT, id(own), summary);
        sending(operation, REQUEST, example, also, options)
    };
    match segment_route {
        SegmentRoute::Message(Call::Track) => message("segmentTrack", "What a user did", track()),
        SegmentRoute::Message(Call::Identify) => message("segmentIdentify", "Who a user is", identify()),
        SegmentRoute::Message(Call::Page) => message("segmentPage", "A page was seen", page()),
        SegmentRoute::Message(Call::Screen) => message("segmentScreen", "A screen was seen", page()),
        SegmentRoute::Message(Call::Group) => message("segmentGroup", "A user belongs to a group", group()),
        SegmentRoute::Message(Call::Alias) => message("segmentAlias", "A user has another id", alias()),
        SegmentRoute::Batch => {
            let operation = Operation::new(SEGMENT, id("segmentBatch"), "Many messages");
            sending(operation, BATCH, batch(), also, options)
        }
        SegmentRoute::OwnMetrics => Operation::new(SEGMENT, "segmentMetrics", "How browsers' SDKs count themselves")
            .about("Nothing of it is kept, and the body is not read.")
            .security(json!([]))
            .answer(200, "It was heard.", answer())
            .refused(&[403, 429]),
        SegmentRoute::Settings => settings(),
    }
}

fn sending(operation: Operation, schema: &str, example: Value, also: &str, options: DocumentOptions) -> Operation {
    // An app name is documented only in the body, where it can be marked as required.
    let (security, write_key) = match options.keys {
        true => (options.security(), "The write key is an API key"),
        false => (json!([]), "The write key is the name of the app"),
    };
    let about = format!(
        "{write_key}: as the user name of Basic, as Bearer, in `X-API-Key`, or as `writeKey` in the body, which is \
         looked at when no header holds one. Bodies are JSON whatever their content type. A message has at most 32 KiB, \
         a batch 500 KiB; more is answered 400, as Segment does.",
    );
    let content = json!({"schema": reference(schema), "examples": {"example": {"value": example}}});
    takes_events(operation, options)
        .about(format!("{also} {about}").trim())
        .security(security)
        .body(json!({"application/json": content, "text/plain": content}))
        .answer(200, "Every message is stored, but for those that `errors` names.", answer())
        .refused(&[403, 408, 415, 429])
        .refused(options.unauthorized())
}

fn answer() -> Value {
    json!({"application/json": {"schema": reference(ANSWER), "example": {"success": true}}})
}

fn settings() -> Operation {
    let parameter = json!({
        "name": "writeKey",
        "in": "path",
        "required": true,
        "schema": {"type": "string", "minLength": 1},
        "example": "shop",
    });
    let content = json!({"application/json": {"schema": {"type": "object", "required": ["integrations"]}}});
    Operation::new(SEGMENT, "segmentSettings", "What analytics-next asks before it sends")
        .about("Answered for any key: send to this host, load nothing.")
        .security(json!([]))
        .parameter(parameter)
        .answer(200, "The settings.", content)
        .headers(&[200], &[CACHE_CONTROL])
        .refused(&[429])
}

pub(super) fn add_schemas(document: &mut Document, options: DocumentOptions) {
    // Values of unexpected types are stored as sent, so the schema has hardly any types.
    let member = |about: &str| json!({"description": about});
    let time = || member("RFC 3339, or seconds or milliseconds since the Unix epoch.");
    let something = json!({"not": {"enum": [null, ""]}});
    let properties = json!({
        "type": member("The kind of message: needed in a batch."),
        "event": member("What was done, in a message of the kind `track`."),
        "name": member("Of a page or screen."),
        "messageId": member("The idempotency key."),
        "userId": member("The user; the device, too, where there is no other."),
        "anonymousId": member("The device."),
        "properties": member("An object: the properties of the event, or its typed fields."),
        "traits": member("An object: what is known of the user or the group."),
        "context": member("An object: fills the device context."),
        "integrations": member("Kept."),
        "timestamp": time(),
        "originalTimestamp": time(),
        "sentAt": time(),
    });
    let with = |name: &str| json!({"properties": {name: something}, "required": [name]});
    document.schema(
        MESSAGE,
        json!({
            "type": "object",
            "description": "One message, with any other members: nothing that was sent is lost.",
            "properties": properties,
            "anyOf": [with("userId"), with("anonymousId")],
        }),
    );
    let mut write_key = json!({"maxLength": 128, "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]*$"});
    if options.keys {
        write_key = member("The API key, where no header holds it.");
    }
    options.app(&mut write_key);
    let request = json!({
        "allOf": [reference(MESSAGE)],
        "properties": {"writeKey": write_key},
        "required": options.required("writeKey", &[]),
    });
    document.schema(REQUEST, request);
    let kinds = json!({"type": {
        "not": {"const": null},
        "description": "track, identify, page, screen, group or alias; another one is kept as a custom event.",
    }});
    let of_batch = json!({"allOf": [reference(MESSAGE)], "properties": kinds, "required": ["type"]});
    document.schema(
        BATCH,
        json!({
            "type": "object",
            "required": options.required("writeKey", &["batch"]),
            "properties": {
                "batch": {"type": "array", "items": of_batch, "maxItems": MESSAGES_MAX},
                "context": member("For messages without one."),
                "integrations": member("For messages without any."),
                "sentAt": time(),
                "writeKey": write_key,
            },
        }),
    );
    document.schema(
        ANSWER,
        json!({
            "type": "object",
            "required": ["success"],
            "properties": {
                "success": {"const": true},
                "errors": {
                    "type": "array",
                    "description": "Messages that were refused for good while others were stored.",
                    "maxItems": 16,
                    "items": {"type": "object", "required": ["pointer", "detail"],
                        "properties": {"pointer": {"type": "string"}, "detail": {"type": "string"}}},
                },
            },
        }),
    );
}

fn track() -> Value {
    json!({
        "writeKey": "shop",
        "messageId": "m-1",
        "anonymousId": "d-1",
        "userId": "u-1",
        "event": "Order Completed",
        "properties": {"order_id": "1017", "total": 125.0, "currency": "EUR"},
        "context": {"app": {"version": "1.2.3"}, "os": {"name": "iOS", "version": "19.0"}},
        "timestamp": "2026-08-01T09:00:00.000Z",
        "sentAt": "2026-08-01T09:00:01.000Z",
    })
}

fn identify() -> Value {
    json!({"writeKey": "shop", "anonymousId": "d-1", "userId": "u-1", "traits": {"plan": "pro"}})
}

fn page() -> Value {
    json!({"writeKey": "shop", "anonymousId": "d-1", "name": "Home", "properties": {"path": "/"}})
}

fn group() -> Value {
    json!({"writeKey": "shop", "userId": "u-1", "groupId": "g-1", "traits": {"name": "Initech"}})
}

fn alias() -> Value {
    json!({"writeKey": "shop", "userId": "u-1", "previousId": "d-1"})
}

fn batch() -> Value {
    let message = json!({"type": "track", "messageId": "m-2", "anonymousId": "d-1", "event": "Opened"});
    json!({"writeKey": "shop", "batch": [message], "sentAt": "2026-08-01T09:00:01.000Z"})
}
