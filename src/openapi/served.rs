//! Serves a static document with an `ETag`, and describes that operation.

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

use super::operation::Operation;
use super::reference;

/// Bytes of the hash that the `ETag` contains.
const TAG_BYTES: usize = 16;

#[derive(Clone, Debug)]
pub struct ServedDocument {
    body: Bytes,
    media_type: HeaderValue,
    etag: HeaderValue,
}

impl ServedDocument {
    pub fn document(document: &Value) -> Self {
        Self::new(document.to_string().into(), HeaderValue::from_static("application/json"))
    }

    pub fn new(body: Bytes, media_type: HeaderValue) -> Self {
        let hash = digest(&SHA256, &body);
        // Hexadecimal digits in quotes are valid header values.
        let etag = HeaderValue::try_from(format!("\"{}\"", HEXLOWER.encode(&hash.as_ref()[..TAG_BYTES])))
            .unwrap_or_else(|_| HeaderValue::from_static("\"\""));
        Self { body, media_type, etag }
    }

    /// Answers 304 if the client has the current version (RFC 9110, 13.1.2).
    pub fn reply(&self, request: &HeaderMap) -> Response<Full<Bytes>> {
        let same = |value: &HeaderValue| {
            let tags = value.as_bytes().split(|byte| *byte == b',').map(|tag| tag.trim_ascii());
            let mut tags = tags.map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag));
            tags.any(|tag| tag == b"*" || tag == self.etag.as_bytes())
        };
        let unchanged = request.get_all(IF_NONE_MATCH).iter().any(same);
        let mut reply = Response::new(Full::new(if unchanged { Bytes::new() } else { self.body.clone() }));
        if unchanged {
            *reply.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            reply.headers_mut().insert(CONTENT_TYPE, self.media_type.clone());
        }
        let headers = reply.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        reply
    }
}

impl Operation {
    /// Describes an operation that serves a document with these media types; HEAD gets no body.
    pub fn serves(self, content: Option<Value>) -> Self {
        let mut response = json!({"description": "The content."});
        if let Some(content) = content {
            response["content"] = content;
        }
        self.parameter(json!({
            "name": "If-None-Match",
            "in": "header",
            "description": "The ETag of what the client has.",
            "schema": {"type": "string"},
        }))
        .answer_with(200, response)
        .answer_without_body(304, "The client has it already.")
        .headers(&[200, 304], &[reference::ETAG, reference::CACHE_CONTROL])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn current_clients_get_304() {
        let served = ServedDocument::document(&serde_json::json!({"openapi": "3.1.0"}));
        let status = |value: Option<&str>| {
            let headers = value.map(|value| (IF_NONE_MATCH, HeaderValue::from_str(value).unwrap()));
            served.reply(&headers.into_iter().collect()).status()
        };
        let tag = served.etag.to_str().unwrap();
        assert_eq!(status(None), 200);
        assert_eq!(status(Some("\"other\"")), 200);
        for same in [tag, &format!("W/{tag}"), &format!("\"a\", {tag}"), "*"] {
            assert_eq!(status(Some(same)), 304, "{same}");
        }
    }
}
