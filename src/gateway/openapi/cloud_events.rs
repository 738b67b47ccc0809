//! CloudEvents in the JSON event format and in binary mode.

use serde_json::{Value, json};

use super::options::DocumentOptions;
use crate::openapi::{Document, Operation, reference};

const EVENT: &str = "CloudEvent";
const BATCH: &str = "CloudEventBatch";

/// Adds the CloudEvents media types to a request body.
pub(super) fn add_to(content: &mut Value) {
    let one = json!({"summary": "A paid order", "value": order_paid()});
    content["application/cloudevents+json"] = json!({"schema": reference(EVENT), "examples": {"orderPaid": one}});
    let many = json!({"summary": "A batch of one", "value": [order_paid()]});
    content["application/cloudevents-batch+json"] = json!({"schema": reference(BATCH), "examples": {"one": many}});
}

/// Attributes that are headers in binary mode, besides `specversion`.
const ATTRIBUTES: [(&str, &str); 11] = [
    ("id", "With `ce-source` it is the idempotency key."),
    ("source", "With `ce-id` it is the idempotency key. The device, where no other header names it."),
    ("type", "The name of the custom event."),
    ("time", "RFC 3339."),
    ("subject", "The device, where `ce-deviceid` is absent."),
    ("dataschema", "Kept."),
    ("appid", "The app."),
    ("deviceid", "The device."),
    ("userid", "The user."),
    ("sessionid", "The session."),
    ("correlationid", "What the event belongs to."),
];

/// The headers of binary mode. All are optional, because the header that selects the mode is.
pub(super) fn binary(operation: Operation, options: DocumentOptions) -> Operation {
    let header = |name: &str, about: &str, schema: Value| json!({"name": format!("ce-{name}"), "in": "header", "description": about, "schema": schema});
    let with_it = if options.keys {
        "`ce-id`, `ce-source` and `ce-type`"
    } else {
        "`ce-id`, `ce-source`, `ce-type` and `ce-appid`"
    };
    let about = format!(
        "Says that the request is a CloudEvent in the binary mode: its body is the data, of any content type, and its \
         attributes are `ce-` headers, percent-encoded. {with_it} are required with it. Without it they mean nothing.",
    );
    let chosen = header("specversion", &about, json!({"type": "string", "enum": ["1.0"]}));
    let text = || json!({"type": "string"});
    ATTRIBUTES
        .iter()
        .fold(operation.parameter(chosen), |operation, (name, about)| operation.parameter(header(name, about, text())))
}

pub(super) fn add_schemas(document: &mut Document, options: DocumentOptions) {
    let text = |about: &str| json!({"type": ["string", "null"], "description": about});
    let some = |about: &str| json!({"type": "string", "minLength": 1, "description": about});
    let required = |about: &str| {
        json!({
            "type": "string",
            "minLength": 1,
            "maxLength": 256,
            "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
            "description": about,
        })
    };
    let mut event = json!({
        "type": "object",
        "description": "CloudEvents 1.0. Becomes a custom event: `docs/protocols.md` has what becomes of which attribute.",
        "required": options.required("appid", &["specversion", "id", "source", "type"]),
        "properties": {
            "specversion": {"const": "1.0"},
            "id": some("With `source` it is the idempotency key."),
            "source": some("With `id` it is the idempotency key. The device id, where neither `deviceid` nor `subject` is one."),
            "type": required("The name of the custom event."),
            "time": {"type": ["string", "null"], "format": "date-time"},
            "subject": text("The device id, where `deviceid` is absent."),
            "datacontenttype": text("What `data` is."),
            "dataschema": text("Kept."),
            "data": {"description": "Any JSON; an object becomes the properties. Its limits are those of `Properties`."},
            "appid": {"type": ["string", "null"], "maxLength": 128, "pattern": "^([A-Za-z0-9][A-Za-z0-9._-]*)?$",
                "description": "The app; the API key's when absent."},
            "deviceid": text("The device."),
            "userid": text("The user."),
            "sessionid": text("The session."),
            "correlationid": text("What the event belongs to."),
        },
        "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
        "maxProperties": 100,
    });
    options.app(&mut event["properties"]["appid"]);
    document.schema(EVENT, event);
    document.schema(BATCH, json!({"type": "array", "items": reference(EVENT), "maxItems": options.batch_events_max}));
}

fn order_paid() -> Value {
    json!({
        "specversion": "1.0",
        "type": "com.example.order.paid",
        "source": "/orders",
        "id": "1017",
        "time": "2026-08-01T09:00:00Z",
        "appid": "shop",
        "deviceid": "d-1",
        "datacontenttype": "application/json",
        "data": {"amount": 12.5, "currency": "EUR"},
    })
}
