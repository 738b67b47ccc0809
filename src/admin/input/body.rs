//! Reads a request's body as JSON, before it is decoded into a document.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use serde::de::DeserializeSeed as _;
use serde_json::{Map, Value};

use crate::admin::input::decode::pointer;
use crate::admin::problem::invalid;
use crate::event::{FieldError, UniqueKeysSeed};
use crate::http::{BodyError, Coding, Problem, read_body};
use crate::store::OWN_MEMBERS;

/// The largest document, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// JSON values in a document. A rule of 64 conditions with 1,000 choices each has about two thirds of them.
const VALUES_MAX: usize = 100_000;
/// Some editors put it at the start of UTF-8 files.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// From the headers to the last byte, unless the listener sets another.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest name of a document, in characters.
const NAME_CHARS_MAX: usize = 200;

/// The listener's limit from the headers of a request to the last byte of its body.
#[derive(Clone, Copy, Debug)]
pub(in crate::admin) struct BodyTimeout(pub(in crate::admin) Duration);

/// Reads the body as JSON: 400, 408, 413 or 415 when it cannot be read, 422 when it has too many values.
pub(in crate::admin) async fn read_json(request: Request) -> Result<Value, Problem> {
    let body = read_text(request, BODY_BYTES_MAX).await?;
    parse_json(&body, VALUES_MAX)
}

/// Reads a JSON body as text, up to `bytes_max` bytes.
pub(in crate::admin) async fn read_text(request: Request, bytes_max: usize) -> Result<Bytes, Problem> {
    check_coding(request.headers())?;
    if let Some(content_type) = request.headers().get(CONTENT_TYPE)
        && !content_type.to_str().is_ok_and(is_json)
    {
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the document as application/json."));
    }
    let timeout = request.extensions().get().map_or(BODY_TIMEOUT, |BodyTimeout(timeout)| *timeout);
    let body = read_body(request.into_body(), bytes_max, timeout).await;
    body.map_err(|error| unread(error, bytes_max))
}

/// Documents are small and sent uncompressed; ignoring a content coding would make them unreadable.
fn check_coding(headers: &HeaderMap) -> Result<(), Problem> {
    if matches!(Coding::of(headers), Ok(Coding::Identity)) {
        return Ok(());
    }
    let detail = "The admin API takes bodies without Content-Encoding.";
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail);
    Err(problem.with_header(ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// Parses JSON of at most `values_max` values.
pub(in crate::admin) fn parse_json(body: &[u8], values_max: usize) -> Result<Value, Problem> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    let read = UniqueKeysSeed::with_values_max(values_max).deserialize(tracked);
    let read = read.map_err(|error| (pointer(&track.path()), error));
    let whole = reader.end().map_err(|error| (String::new(), error));
    read.and_then(|value| whole.map(|()| value)).map_err(|(pointer, error)| {
        if error.is_data() {
            let message = error.to_string();
            let detail = message.split(" at line ").next().unwrap_or_default();
            return invalid(vec![FieldError::new(pointer, detail)]);
        }
        // Reports only the position: the parser's message may repeat the input.
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
        other => other.into(),
    }
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// Applies a merge patch (RFC 7396).
pub(in crate::admin) fn merge(target: &mut Value, patch: Value) {
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

/// Removes the members that the product itself writes, which a client may send back unchanged. An id other than the
/// stored one is an error.
pub(in crate::admin) fn without_own(mut document: Value, id: Option<&str>) -> (Value, Option<FieldError>) {
    let mut error = None;
    if let Some(members) = document.as_object_mut() {
        for field in OWN_MEMBERS {
            let sent = members.remove(field);
            if let (Some(sent), Some(id), "id") = (sent, id, field)
                && sent != id
            {
                error = Some(FieldError::new("/id", "cannot be changed"));
            }
        }
    }
    (document, error)
}

/// A name must fit into a path and a list of ids, and read the same everywhere.
pub(in crate::admin) fn check_name(name: &str) -> Option<FieldError> {
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

    #[test]
    fn merges_match_the_examples_of_rfc_7396() {
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
    fn ambiguous_names_are_refused() {
        for name in ["ops", "big purchase", "größer/kleiner?"] {
            assert_eq!(check_name(name), None, "{name}");
        }
        let id = uuid::Uuid::now_v7().to_string();
        for name in ["", " ", " ops", "a\nb", "..", &id, &"x".repeat(201)] {
            assert!(check_name(name).is_some(), "{name:?}");
        }
    }
}
