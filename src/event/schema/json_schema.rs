//! The messages as JSON Schemas (2020-12) of the JSON that the gateway reads.
//!
//! Invariant: fields, types and bounds come from the tables that read and check events, and descriptions from the
//! comments in `proto/`, so the documentation cannot disagree with the behaviour.

use serde_json::{Map, Value, json};

use super::limits::{KEY_BYTES_MAX, PROPERTIES_DEPTH_MAX, PROPERTIES_VALUES_MAX};
use super::pattern::Pattern;
use super::tables::*;

struct DescribedMessage {
    name: &'static str,
    comment: &'static str,
    message: &'static Message,
    /// Comments of its fields, in field order.
    fields: &'static [&'static str],
}

struct DescribedEnum {
    name: &'static str,
    comment: &'static str,
    names: &'static Enum,
}

include!(concat!(env!("OUT_DIR"), "/descriptions.rs"));

/// `\P{Cc}` for regular expression engines without Unicode categories.
const NO_CONTROL: &str = r"^[^\u0000-\u001f\u007f-\u009f]*$";
/// A number written as a string.
const NUMBER: &str = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$";
const PROPERTIES: &str = "Properties";

/// A schema for every message and enum, by name. References start with `prefix`.
pub fn json_schemas(prefix: &str) -> Map<String, Value> {
    let mut schemas = Map::new();
    for described in MESSAGES {
        schemas.insert(described.name.to_owned(), message(described, prefix));
    }
    for DescribedEnum { name, comment, names } in ENUMS {
        let mut schema = json!({
            "description": "A name, or its number.",
            "anyOf": [
                {"type": "string", "enum": names.names},
                {"type": "integer", "minimum": 0, "maximum": names.names.len() - 1},
            ],
        });
        if !comment.is_empty() {
            schema["description"] = format!("{comment} A name, or its number.").into();
        }
        schemas.insert((*name).to_owned(), schema);
    }
    let about = format!(
        "What the typed fields do not say: any JSON object, of at most {PROPERTIES_VALUES_MAX} values at all levels \
         together and {PROPERTIES_DEPTH_MAX} levels. Numbers are doubles."
    );
    schemas.insert(
        PROPERTIES.to_owned(),
        json!({"type": ["object", "null"], "description": about, "maxProperties": PROPERTIES_VALUES_MAX,
            "propertyNames": {"maxLength": KEY_BYTES_MAX}}),
    );
    schemas
}

fn message(described: &DescribedMessage, prefix: &str) -> Value {
    let (mut properties, mut required, mut payloads) = (Map::new(), Vec::new(), Vec::new());
    for (field, comment) in described.message.fields.iter().zip(described.fields) {
        let mut schema = of_field(field, prefix);
        if !comment.is_empty() {
            schema["description"] = (*comment).into();
        }
        if field.rules.required || field.rules.elements_min.is_some_and(|min| min > 0) {
            required.push(field.json_name);
        }
        if let Shape::Payload(_) = field.shape {
            payloads.push(json!({"required": [field.json_name]}));
        }
        properties.insert(field.json_name.to_owned(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !described.comment.is_empty() {
        schema["description"] = described.comment.into();
    }
    if !required.is_empty() {
        schema["required"] = required.into();
    }
    if !payloads.is_empty() {
        schema["oneOf"] = payloads.into();
    }
    schema
}

/// The schema of a field. Null is allowed where the field may be absent: both mean the same.
fn of_field(field: &Field, prefix: &str) -> Value {
    let nullable = |schema: Value| {
        if field.rules.required { schema } else { json!({"anyOf": [schema, {"type": "null"}]}) }
    };
    let reference = |name: &str| json!({"$ref": format!("{prefix}{name}")});
    match &field.shape {
        Shape::Message(message) => nullable(reference(message.name)),
        // A null payload is no payload.
        Shape::Payload(message) => reference(message.name),
        Shape::Struct => reference(PROPERTIES),
        Shape::Enum(names) => nullable(reference(name_of_enum(names))),
        Shape::List(element) => {
            let mut schema = json!({"type": ["array"], "items": of_element(element, prefix)});
            set(&mut schema, "minItems", field.rules.elements_min);
            set(&mut schema, "maxItems", field.rules.elements_max);
            // A list that must have elements cannot be absent.
            if field.rules.elements_min.is_none() { or_null(schema) } else { schema }
        }
        Shape::Map(value) => {
            let mut schema = json!({"type": ["object"], "additionalProperties": of_element(value, prefix)});
            set(&mut schema, "maxProperties", field.rules.elements_max);
            if let Some(max) = field.rules.key_bytes_max {
                schema["propertyNames"] = json!({"maxLength": max});
            }
            or_null(schema)
        }
        _ if field.rules.required => scalar(field),
        _ => or_null(scalar(field)),
    }
}

/// An element of a list or a value of a map, which is never null.
fn of_element(field: &Field, prefix: &str) -> Value {
    match &field.shape {
        Shape::Message(message) | Shape::Payload(message) => json!({"$ref": format!("{prefix}{}", message.name)}),
        Shape::Enum(names) => json!({"$ref": format!("{prefix}{}", name_of_enum(names))}),
        _ => scalar(field),
    }
}

/// Adds null to a schema whose `type` is a list.
fn or_null(mut schema: Value) -> Value {
    if let Some(types) = schema["type"].as_array_mut() {
        types.push("null".into());
    }
    schema
}

fn scalar(field: &Field) -> Value {
    let rules = field.rules;
    let integer = |format: &str, min: i64, max: i64| {
        let (min, max) = (rules.min.unwrap_or(min), rules.max.unwrap_or(max));
        json!({"type": ["integer", "string"], "format": format, "minimum": min, "maximum": max, "pattern": digits(min, max)})
    };
    match &field.shape {
        Shape::Bool => json!({"type": ["boolean"]}),
        Shape::Int32 => integer("int32", i32::MIN.into(), i32::MAX.into()),
        Shape::Int64 => integer("int64", i64::MIN, i64::MAX),
        Shape::Float => json!({"type": ["number", "string"], "format": "float", "pattern": NUMBER}),
        Shape::Double => json!({"type": ["number", "string"], "format": "double", "pattern": NUMBER}),
        _ => {
            let mut schema = json!({"type": ["string"]});
            set(&mut schema, "minLength", rules.required.then_some(1));
            // JSON Schema counts characters and we count bytes. No string has more characters than bytes, so this never
            // rejects a valid one.
            set(&mut schema, "maxLength", rules.bytes_max);
            if let Some(pattern) = rules.pattern {
                schema["pattern"] = if pattern == Pattern::NoControl { NO_CONTROL } else { pattern.regex() }.into();
            }
            schema
        }
    }
}

/// A pattern for an integer written as a string, with the number of digits that always fits. The gateway also accepts
/// other forms of a whole number, such as 5.0.
fn digits(min: i64, max: i64) -> String {
    let sign = if min < 0 { "-?" } else { "" };
    let more = max.to_string().len().saturating_sub(2);
    format!("^{sign}(0|[1-9][0-9]{{0,{more}}})$")
}

fn set(schema: &mut Value, name: &str, bound: Option<usize>) {
    if let Some(bound) = bound {
        schema[name] = bound.into();
    }
}

fn name_of_enum(names: &'static Enum) -> &'static str {
    ENUMS.iter().find(|described| std::ptr::eq(described.names, names)).map_or("", |described| described.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_resolve_and_comments_become_descriptions() {
        let schemas = json_schemas("#/components/schemas/");
        let mut references = 0;
        fn walk(value: &Value, each: &mut impl FnMut(&str)) {
            match value {
                Value::Object(members) => {
                    if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                        each(reference);
                    }
                    members.values().for_each(|value| walk(value, each));
                }
                Value::Array(elements) => elements.iter().for_each(|value| walk(value, each)),
                _ => {}
            }
        }
        walk(&schemas.clone().into(), &mut |reference| {
            references += 1;
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{reference}");
        });
        assert!(references > Kind::all().len() * 2, "{references}");
        let envelope = &schemas["EventEnvelope"];
        assert_eq!(envelope["oneOf"].as_array().unwrap().len(), Kind::all().len());
        assert_eq!(envelope["required"], json!(["deviceId"]));
        assert!(envelope["description"].as_str().unwrap().contains("exactly one payload"), "{envelope}");
        let idempotency_key = &envelope["properties"]["idempotencyKey"];
        assert!(idempotency_key["description"].as_str().unwrap().contains("stored once"), "{idempotency_key}");
        assert_eq!(schemas["ScrollEvent"]["properties"]["scrollDepthPercent"]["maximum"], 100);
        assert_eq!(schemas["AppStart"]["properties"]["launchDurationMs"]["minimum"], 0);
        assert_eq!(envelope["properties"]["deviceId"]["maxLength"], 256);
        assert_eq!(schemas["IngestEventBatchRequest"]["properties"]["events"]["maxItems"], 1_000);
        assert_eq!(schemas["ScreenView"]["required"], json!(["screenName"]));
    }
}
