//! OTLP/HTTP logs.

use serde_json::{Value, json};

use super::{OPENTELEMETRY, Shown, takes_events};
use crate::openapi::{Document, Operation, reference};

const REQUEST: &str = "ExportLogsServiceRequest";
const RESPONSE: &str = "ExportLogsServiceResponse";
const STATUS: &str = "RpcStatus";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub(super) fn logs(shown: Shown) -> Operation {
    let app = match shown.keys {
        true => "The app is the API key's.",
        false => {
            "The app is `service.namespace`, or else `service.name`, of the resource; records without either are \
             rejected, each alone."
        }
    };
    let examples = json!({"record": {"summary": "One record", "value": export()}});
    let status = json!({"code": 3, "message": "The request is not valid. /resourceLogs: must be an array"});
    takes_events(Operation::new(OPENTELEMETRY, "exportLogs", "Store log records and events"), shown)
        .about(format!(
            "Each record becomes a custom event. {app} The reply, and a refusal (`google.rpc.Status`), come in the form \
             of the request; what is refused before its route is looked at is a problem document.",
        ))
        .body(json!({
            JSON: {"schema": reference(REQUEST), "examples": examples},
            PROTOBUF: message("opentelemetry.proto.collector.logs.v1.ExportLogsServiceRequest"),
        }))
        .answer(
            200,
            "Every record has its verdict: `partialSuccess` tells of those that were rejected.",
            json!({
                JSON: {"schema": reference(RESPONSE), "example": {}},
                PROTOBUF: message("opentelemetry.proto.collector.logs.v1.ExportLogsServiceResponse"),
            }),
        )
        .refused(&[403, 408, 413, 415, 429])
        .refused(shown.unauthorized())
        .refused_also_as(JSON, json!({"schema": reference(STATUS), "example": status}))
        .refused_also_as(PROTOBUF, message("google.rpc.Status"))
}

fn message(name: &str) -> Value {
    json!({"schema": {"type": "string", "format": "binary", "description": format!("The message `{name}`, encoded.")}})
}

pub(super) fn add_schemas(document: &mut Document) {
    let text = || json!({"type": ["string", "null"]});
    let integer =
        || json!({"type": ["integer", "string", "null"], "format": "int64", "pattern": "^-?(0|[1-9][0-9]{0,17})$"});
    let time = || {
        json!({
            "type": ["integer", "string", "null"],
            "format": "uint64",
            "minimum": 0,
            "pattern": "^(0|[1-9][0-9]{0,18})$",
            "description": "Nanoseconds since the Unix epoch.",
        })
    };
    let hex = || json!({"type": ["string", "null"], "pattern": "^([0-9A-Fa-f]{2})*$"});
    let attributes = || json!({"type": ["array", "null"], "items": reference("KeyValue")});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    document.schema("AnyValue", object(json!({
        "stringValue": text(),
        "boolValue": {"type": ["boolean", "null"]},
        "intValue": integer(),
        "doubleValue": {"type": ["number", "null"]},
        "arrayValue": {"type": "object", "properties": {"values": {"type": ["array", "null"], "items": reference("AnyValue")}}},
        "kvlistValue": {"type": "object", "properties": {"values": attributes()}},
        "bytesValue": {"type": ["string", "null"], "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*$"},
    })));
    document.schema("KeyValue", object(json!({"key": text(), "value": reference("AnyValue")})));
    let mut record = object(json!({
        "timeUnixNano": time(),
        "observedTimeUnixNano": time(),
        "severityNumber": {"type": ["integer", "null"], "minimum": 0, "maximum": 24},
        "severityText": text(),
        "eventName": {"type": ["string", "null"], "description": "The name of the custom event; `log` when absent."},
        "body": reference("AnyValue"),
        "attributes": attributes(),
        "droppedAttributesCount": integer(),
        "flags": {"type": ["integer", "null"], "minimum": 0, "maximum": u32::MAX},
        "traceId": hex(),
        "spanId": hex(),
    }));
    record["description"] = "A record that is not valid as an event is rejected alone.".into();
    document.schema("LogRecord", record);
    document.schema(
        "ScopeLogs",
        object(json!({
            "scope": object(json!({"name": text(), "version": text(), "attributes": attributes()})),
            "logRecords": {"type": ["array", "null"], "items": reference("LogRecord")},
            "schemaUrl": text(),
        })),
    );
    document.schema(
        "ResourceLogs",
        object(json!({
            "resource": object(json!({"attributes": attributes()})),
            "scopeLogs": {"type": ["array", "null"], "items": reference("ScopeLogs")},
            "schemaUrl": text(),
        })),
    );
    let mut request = object(json!({"resourceLogs": {"type": ["array", "null"], "items": reference("ResourceLogs")}}));
    request["description"] = "OTLP 1.x in JSON. Unknown members are passed over; at most 10,000 records.".into();
    document.schema(REQUEST, request);
    let rejected = json!({"type": "string", "format": "int64", "pattern": "^[0-9]+$"});
    document.schema(
        RESPONSE,
        object(json!({
            "partialSuccess": object(json!({"rejectedLogRecords": rejected, "errorMessage": {"type": "string"}})),
        })),
    );
    let code = json!({"type": "integer", "description": "A code of google.rpc."});
    let mut status = object(json!({"code": code, "message": {"type": "string"}}));
    status["required"] = json!(["code", "message"]);
    document.schema(STATUS, status);
}

fn export() -> Value {
    let attribute = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let record = json!({
        "timeUnixNano": "1785542400000000000",
        "severityText": "INFO",
        "eventName": "cart.saved",
        "body": {"stringValue": "saved"},
        "attributes": [attribute("device.id", "d-1"), {"key": "items", "value": {"intValue": "3"}}],
    });
    json!({
        "resourceLogs": [{
            "resource": {"attributes": [attribute("service.name", "shop")]},
            "scopeLogs": [{"scope": {"name": "cart"}, "logRecords": [record]}],
        }],
    })
}
