//! Errors as `application/problem+json` (RFC 9457).
//!
//! A problem says what is wrong and where; it never repeats the client's input.

use std::borrow::Cow;

use axum::response::IntoResponse;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::event::FieldError;

/// `Retry-After` for requests refused for lack of room.
const RETRY_AFTER_SECONDS: u32 = 2;

/// An error reply.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<FieldError>,
    retry_after_seconds: Option<u32>,
    allow: Option<&'static str>,
    headers: Vec<(HeaderName, HeaderValue)>,
    close: bool,
}

impl Problem {
    /// The memory of all requests is used up.
    pub fn short_of_memory() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "Requests hold all the memory that they may; send again later.")
            .with_retry_after(RETRY_AFTER_SECONDS)
            .closing()
    }

    /// The maximum number of requests are in flight.
    pub fn too_many_requests_in_flight() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "There are too many requests in flight; send again later.")
            .with_retry_after(RETRY_AFTER_SECONDS)
            .closing()
    }

    /// The body arrived slowly while other requests needed its memory.
    pub fn too_slow() -> Self {
        let detail = "The body came too slowly while memory was short; send again later.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER_SECONDS).closing()
    }

    /// `detail` is one sentence for the person who reads the client's log.
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
            allow: None,
            headers: Vec::new(),
            close: false,
        }
    }

    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    pub fn with_retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// The methods of the resource, for 405.
    pub fn with_allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Adds a header to the reply, in addition to others of that name.
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Announces that the connection closes after this reply; no effect in HTTP/2.
    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    pub fn into_reply(self) -> Response<Full<Bytes>> {
        let document = Document {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        // Strings and numbers always serialize.
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut reply = Response::new(Full::new(Bytes::from(body)));
        *reply.status_mut() = self.status;
        let headers = reply.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(methods) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(methods));
        }
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        reply
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> axum::response::Response {
        self.into_reply().map(axum::body::Body::new)
    }
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn carries_pointers_and_headers() {
        let reply = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The bus is full.")
            .with_errors(vec![FieldError::new("/event/deviceId", "is required")])
            .with_retry_after(5)
            .into_reply();
        assert_eq!(reply.status(), 503);
        assert_eq!(reply.headers()["content-type"], "application/problem+json");
        assert_eq!(reply.headers()["retry-after"], "5");
        let body = reply.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
            serde_json::json!({"type": "about:blank", "title": "Service Unavailable", "status": 503,
                "detail": "The bus is full.", "errors": [{"pointer": "/event/deviceId", "detail": "is required"}]})
        );
    }
}
