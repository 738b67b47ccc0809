//! Reading a request's JSON document so that whatever is wrong in it has its pointer.

use std::time::Duration;

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use serde_path_to_error::Segment;

use super::refusal::wrong;
use crate::event::{FieldError, Unique};
use crate::http::{BodyError, Problem, read_body};

/// The largest document.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Some editors begin UTF-8 with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// From the headers to the last byte.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest name of a document, in characters.
const NAME_CHARS_MAX: usize = 200;
/// What the product writes into a document. A client may send it back, as it got it; it changes nothing.
const READ_ONLY: [&str; 6] = ["id", "created_at", "updated_at", "disabled_reason", "deliveries_given_up", "faults"];

/// Reads the body as any JSON: what cannot be read is 400, 408, 413 or 415.
pub(super) async fn read_json(request: Request) -> Result<Value, Problem> {
    read_json_within(request, BODY_BYTES_MAX).await
}

/// The same of a body that may have so many bytes.
pub(super) async fn read_json_within(request: Request, bytes_max: usize) -> Result<Value, Problem> {
    if let Some(content_type) = request.headers().get(CONTENT_TYPE)
        && !content_type.to_str().is_ok_and(is_json)
    {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the document as application/json."));
    }
    let body = read_body(request.into_body(), bytes_max, BODY_TIMEOUT).await;
    let body = body.map_err(|error| unread(error, bytes_max))?;
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&body);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read: Result<Unique, _> = serde_path_to_error::deserialize(&mut reader);
    let read = read.map_err(|error| (pointer(error.path()), error.into_inner()));
    let whole = reader.end().map_err(|error| (String::new(), error));
    read.and_then(|Unique(value)| whole.map(|()| value)).map_err(|(pointer, error)| {
        if error.is_data() {
            let message = error.to_string();
            let detail = message.split(" at line ").next().unwrap_or_default();
            return wrong(vec![FieldError::new(pointer, detail)]);
        }
        // Only where: the parser's own words may repeat the input.
        let place = format!("The body is not JSON: line {}, column {}.", error.line(), error.column());
        Problem::new(StatusCode::BAD_REQUEST, place)
    })
}

fn unread(error: BodyError, bytes_max: usize) -> Problem {
    match error {
        BodyError::TooLarge => {
            let detail = format!("The body has at most {} MiB.", bytes_max >> 20);
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).closing()
        }
        BodyError::Timeout => Problem::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time.").closing(),
        BodyError::Broken => Problem::new(StatusCode::BAD_REQUEST, "The body broke off.").closing(),
        BodyError::Busy => Problem::short_of_memory(),
        BodyError::Slow => Problem::too_slow(),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Applies a merge patch (RFC 7396).
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Takes out what the product itself writes; another id than the stored one is refused.
pub(super) fn without_read_only(mut document: Value, id: Option<&str>) -> Result<Value, Problem> {
    if let Some(members) = document.as_object_mut() {
        for field in READ_ONLY {
            let sent = members.remove(field);
            if let (Some(sent), Some(id), "id") = (sent, id, field)
                && sent != id
            {
                return Err(wrong(vec![FieldError::new("/id", "cannot be changed")]));
            }
        }
    }
    Ok(document)
}

/// Reads a document of a known form; what does not fit it is 422 with its pointer.
pub(super) fn parse<T: DeserializeOwned>(document: Value) -> Result<T, Vec<FieldError>> {
    match lists_in_place_of_objects(&document) {
        errors if errors.is_empty() => fit(document),
        errors => Err(errors),
    }
}

/// serde takes a list for the fields of a struct in their order; nobody who writes a document means that.
fn lists_in_place_of_objects(document: &Value) -> Vec<FieldError> {
    let conditions = document.get("conditions").and_then(Value::as_array).into_iter().flatten();
    let conditions = conditions.enumerate().map(|(index, item)| (format!("/conditions/{index}"), item));
    let members = ["actions", "auth_config"].into_iter();
    let members = members.filter_map(|field| document.get(field).map(|value| (format!("/{field}"), value)));
    std::iter::once((String::new(), document))
        .chain(members)
        .chain(conditions)
        .filter(|(_, value)| value.is_array())
        .map(|(pointer, _)| FieldError::new(pointer, "must be an object"))
        .collect()
}

/// Reads a value of a known form.
pub(super) fn fit<T: DeserializeOwned>(document: Value) -> Result<T, Vec<FieldError>> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let pointer = pointer(error.path());
        let message = error.inner().to_string();
        if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next()) {
            return vec![FieldError::new(format!("{pointer}/{field}"), "is required")];
        }
        vec![FieldError::new(pointer, reworded(&message))]
    })
}

/// RFC 6901.
fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.push_str(&format!("/{index}")),
            Segment::Map { key } => pointer.push_str(&format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// The parser's message without the value that it quotes.
fn reworded(message: &str) -> String {
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expected);
    if message.starts_with("unknown field") {
        let fields = expected.map_or_else(String::new, |fields| format!("; the fields here are {}", listed(fields)));
        return format!("is not a known field{fields}");
    }
    let Some(expected) = expected else { return "is not valid here".to_owned() };
    let wanted = match expected {
        "a map" => "an object",
        "a sequence" => "an array",
        // What serde calls a word of a few.
        "string or map" => "a string",
        "i64" | "u64" | "u32" => "an integer",
        _ if expected.starts_with("struct ") => "an object",
        _ => listed(expected),
    };
    if message.starts_with("unknown variant") {
        format!("must be one of {wanted}")
    } else {
        format!("must be {wanted}")
    }
}

fn listed(expected: &str) -> &str {
    expected.strip_prefix("one of ").unwrap_or(expected)
}

/// A name can stand in a path and in a list of ids, and reads the same everywhere.
pub(super) fn check_name(name: &str) -> Option<FieldError> {
    let detail = if name.trim().is_empty() {
        "must not be empty"
    } else if name.trim() != name {
        "must not begin or end with a space"
    } else if name.chars().count() > NAME_CHARS_MAX {
        "must have at most 200 characters"
    } else if name.chars().any(char::is_control) {
        "must not have control characters"
    } else if matches!(name, "." | "..") {
        "must not be a step in a path"
    } else if uuid::Uuid::try_parse(name).is_ok() {
        "must not look like an id"
    } else {
        return None;
    };
    Some(FieldError::new("/name", detail))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::{NewApiKey, NewRule, WebhookDocument};

    #[test]
    fn merges_as_the_examples_of_the_standard() {
        for (mut target, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "foo"}), json!(null), json!(null)),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            merge(&mut target, patch);
            assert_eq!(target, expected);
        }
    }

    #[test]
    fn what_is_wrong_has_a_pointer_and_does_not_repeat_the_value() {
        let rule = |document: Value| parse::<NewRule>(document).unwrap_err().remove(0);
        let cases = [
            (json!({}), "/name", "is required"),
            (json!(["n"]), "", "must be an object"),
            (json!({"name": "n", "actions": [["ops"]]}), "/actions", "must be an object"),
            (
                json!({"name": "n", "conditions": [{"path": "$", "operator": "eq"}, ["$", "eq"]]}),
                "/conditions/1",
                "must be an object",
            ),
            (json!("hunter2, expected hunter2"), "", "must be an object"),
            (json!({"name": 5}), "/name", "must be a string"),
            (json!({"name": "n", "prioritty": "hunter2"}), "/prioritty", "is not a known field; the fields here are"),
            (json!({"name": "n", "priority": "hunter2"}), "/priority", "must be an integer"),
            (json!({"name": "n", "actions": {"a/b~c": 1}}), "/actions/a~1b~0c", "is not a known field"),
            (json!({"name": "n", "actions": {"webhooks": ["a", 2]}}), "/actions/webhooks/1", "must be a string"),
            (json!({"name": "n", "conditions": {}}), "/conditions", "must be an array"),
            (
                json!({"name": "n", "conditions": [{"path": "$", "operator": "hunter2"}]}),
                "/conditions/0/operator",
                "must be one of `eq`, `ne`, `gt`",
            ),
            (json!({"name": "n", "conditions": [{"path": "$"}]}), "/conditions/0/operator", "is required"),
        ];
        for (document, pointer, detail) in cases {
            let error = rule(document.clone());
            assert_eq!(error.pointer, pointer, "{document} {error}");
            assert!(error.detail.starts_with(detail), "{document} {error}");
            assert!(!error.detail.contains("hunter2"), "{error}");
        }
        let auth = json!({"name": "n", "url": "u", "auth_config": {"secret": ["hunter2"]}});
        let error = parse::<WebhookDocument>(auth).err().unwrap().remove(0);
        assert_eq!(error, FieldError::new("/auth_config/secret", "must be a string"));
        let error = parse::<NewApiKey>(json!({"name": "n", "app_id": null})).unwrap_err().remove(0);
        assert_eq!(error, FieldError::new("/app_id", "must be a string"));
    }

    #[test]
    fn names_that_would_be_ambiguous_are_refused() {
        for name in ["ops", "big purchase", "größer/kleiner?"] {
            assert_eq!(check_name(name), None, "{name}");
        }
        let id = uuid::Uuid::now_v7().to_string();
        for name in ["", " ", " ops", "a\nb", "..", &id, &"x".repeat(201)] {
            assert!(check_name(name).is_some(), "{name:?}");
        }
    }
}
