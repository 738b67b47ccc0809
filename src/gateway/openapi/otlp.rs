//! OTLP/HTTP logs.

use serde_json::{Value, json};

use super::options::{DocumentOptions, OPENTELEMETRY, takes_events};
use crate::openapi::{Document, Operation, reference};

const REQUEST: &str = "ExportLogsServiceRequest";
const RESPONSE: &str = "ExportLogsServiceResponse";
const STATUS: &str = "RpcStatus";
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

pub(super) fn logs(options: DocumentOptions) -> Operation {
    let app = match options.keys {
        true => "The app is the API key's.",
        false => {
            "The app is `service.namespace`, or else `service.name`, of the resource; records without either are \
             rejected, each alone."
        }
    };
    let examples = json!({"record": {"summary": "One record", "value": export()}});
    let status = json!({"code": 3, "message": "The request is not valid. /resourceLogs: must be an array"});
    takes_events(Operation::new(OPENTELEMETRY, "exportLogs", "Store log records and events"), options)
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
        .refused(options.unauthorized())
        .refused_also_as(JSON, json!({"schema": reference(STATUS), "example": status}))
        .refused_also_as(PROTOBUF, message("google.rpc.Status"))
}

fn message(name: &str) -> Value {
    json!({"schema": {"type": "string", "format": "binary", "description": format!("The message `{name}`, encoded.")}})
}

pub(super) fn add_schemas(document: &mut Document) {
    let text = || json!({"type": ["string", "null"]});
    // A number, or the same number as a string; null stands for an unset field.
    let number = |of: &str, format: &str, pattern: &str| json!({"type": [of, "string", "null"], "format": format, "pattern": pattern});
    let integer = || {
        let mut schema = number("integer", "int64", "^-?(0|[1-9][0-9]{0,17})$");
        schema["minimum"] = i64::MIN.into();
        schema["maximum"] = i64::MAX.into();
        schema
    };
    let unsigned = |format: &str, digits: usize, max: u64| {
        let mut schema = number("integer", format, &format!("^(0|[1-9][0-9]{{0,{}}})$", digits - 1));
        schema["minimum"] = 0.into();
        schema["maximum"] = max.into();
        schema
    };
    let time = || {
        let mut schema = unsigned("uint64", 19, u64::MAX);
        schema["description"] = "Nanoseconds since the Unix epoch.".into();
        schema
    };
    let hex = || json!({"type": ["string", "null"], "pattern": "^([0-9A-Fa-f]{2})*$"});
    let attributes = || json!({"type": ["array", "null"], "items": reference("KeyValue")});
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    // For fields; elements of a list cannot be null.
    let or_null = |schema: Value| json!({"anyOf": [schema, {"type": "null"}]});
    let value = || or_null(reference("AnyValue"));
    let values = |of: &str| or_null(object(json!({"values": {"type": ["array", "null"], "items": reference(of)}})));
    let mut severity = integer();
    severity["description"] = "1 to 24; 0 when it is not known.".into();
    document.schema(
        "AnyValue",
        object(json!({
            "stringValue": text(),
            "boolValue": {"type": ["boolean", "null"]},
            "intValue": integer(),
            "doubleValue": number("number", "double", r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"),
            "arrayValue": values("AnyValue"),
            "kvlistValue": values("KeyValue"),
            "bytesValue": {"type": ["string", "null"], "contentEncoding": "base64", "pattern": "^([A-Za-z0-9+/]{4})*$"},
        })),
    );
    document.schema("KeyValue", object(json!({"key": text(), "value": value()})));
    let mut record = object(json!({
        "timeUnixNano": time(),
        "observedTimeUnixNano": time(),
        "severityNumber": severity,
        "severityText": text(),
        "eventName": {"type": ["string", "null"], "description": "The name of the custom event; `log` when absent."},
        "body": value(),
        "attributes": attributes(),
        "droppedAttributesCount": integer(),
        "flags": unsigned("uint32", 9, u32::MAX.into()),
        "traceId": hex(),
        "spanId": hex(),
    }));
    record["description"] = "A record that is not valid as an event is rejected alone.".into();
    document.schema("LogRecord", record);
    document.schema(
        "ScopeLogs",
        object(json!({
            "scope": or_null(object(json!({
                "name": text(),
                "version": text(),
                "attributes": attributes(),
                "droppedAttributesCount": integer(),
            }))),
            "logRecords": {"type": ["array", "null"], "items": reference("LogRecord")},
            "schemaUrl": text(),
        })),
    );
    document.schema(
        "ResourceLogs",
        object(json!({
            "resource": or_null(object(json!({"attributes": attributes(), "droppedAttributesCount": integer()}))),
            "scopeLogs": {"type": ["array", "null"], "items": reference("ScopeLogs")},
            "schemaUrl": text(),
        })),
    );
    let mut request = object(json!({"resourceLogs": {"type": ["array", "null"], "items": reference("ResourceLogs")}}));
    request["description"] =
        "OTLP 1.x in JSON. Unknown members are passed over; records after the first 100,000 are rejected.".into();
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
