//! The content type of a request body, read from its headers. The reply has the same content type.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::http::{Problem, header_value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ContentType {
    Json,
    /// One JSON event per line. Replies are JSON.
    JsonLines,
    /// Protobuf, under the media type that the client chose.
    Binary(&'static str),
}

const BINARY_TYPES: [&str; 3] = ["application/x-protobuf", "application/protobuf", "application/octet-stream"];
/// Browser beacons can only send `text/plain`; simple clients send no content type.
const JSON_TYPES: [&str; 2] = ["application/json", "text/plain"];

/// <https://github.com/ndjson/ndjson-spec> defines the first; the others are in common use.
const JSON_LINES_TYPES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

const TYPES_HINT: &str = "Content-Type must be application/json, application/x-ndjson, application/x-protobuf, \
                          application/protobuf or application/octet-stream.";
/// The content type that `curl -d` sends by default.
const FORM_HINT: &str = "Content-Type is application/x-www-form-urlencoded, as curl -d says when it is not told \
                         otherwise. Events are JSON: add -H 'Content-Type: application/json'.";

/// The media type of `Content-Type` without its parameters; empty when the header is missing.
pub(crate) fn media_type(headers: &HeaderMap) -> &[u8] {
    let value = header_value(headers, CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii()
}

impl ContentType {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let media_type = media_type(headers);
        let is = |known: &&str| media_type.eq_ignore_ascii_case(known.as_bytes());
        if media_type.is_empty() || JSON_TYPES.iter().any(is) {
            return Ok(ContentType::Json);
        }
        if JSON_LINES_TYPES.iter().any(is) {
            return Ok(ContentType::JsonLines);
        }
        BINARY_TYPES.into_iter().find(is).map(ContentType::Binary).ok_or_else(|| {
            let sent_by_curl = media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded");
            unsupported(if sent_by_curl { FORM_HINT } else { TYPES_HINT })
        })
    }

    pub(crate) fn media_type(self) -> &'static str {
        match self {
            ContentType::Json | ContentType::JsonLines => "application/json",
            ContentType::Binary(media_type) => media_type,
        }
    }
}

/// A single event cannot be sent as JSON lines.
pub(crate) fn json_lines_need_batch() -> Problem {
    unsupported("JSON lines are taken by /v1/events/batch.")
}

fn unsupported(detail: &'static str) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content_type(name: http::HeaderName, value: &'static str) -> Option<ContentType> {
        ContentType::of(&HeaderMap::from_iter([(name, http::HeaderValue::from_static(value))])).ok()
    }

    #[test]
    fn reads_content_types() {
        assert_eq!(ContentType::of(&HeaderMap::new()).ok(), Some(ContentType::Json));
        for json in ["application/json", "Application/JSON; charset=utf-8", "text/plain;charset=UTF-8", ""] {
            assert_eq!(content_type(CONTENT_TYPE, json), Some(ContentType::Json), "{json}");
        }
        for lines in ["application/x-ndjson", "application/ndjson; charset=utf-8", "application/jsonl"] {
            assert_eq!(content_type(CONTENT_TYPE, lines), Some(ContentType::JsonLines), "{lines}");
        }
        for binary in BINARY_TYPES {
            assert_eq!(content_type(CONTENT_TYPE, binary), Some(ContentType::Binary(binary)));
        }
        for other in ["application/vnd.api+json", "text/html", "application/x-www-form-urlencoded", "json"] {
            assert_eq!(content_type(CONTENT_TYPE, other), None, "{other}");
        }
    }
}
