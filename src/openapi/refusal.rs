//! Refusals: the error responses that operations share.

use serde_json::{Value, json};

use super::reference::{CACHE_CONTROL, PROBLEM, PROBLEM_TYPE, header_reference, headers, reference};

/// An error response that operations of a document share.
pub struct Refusal {
    pub status: u16,
    /// The name of the component.
    pub name: &'static str,
    pub description: &'static str,
    /// The `detail` of the example; empty for a response without a body.
    pub example: &'static str,
    /// Names defined with [`Document::header`](super::Document::header).
    pub headers: &'static [&'static str],
}

impl Refusal {
    /// Any listener, when a body does not arrive in time.
    pub const REQUEST_TIMEOUT: Self = Self {
        status: 408,
        name: "RequestTimeout",
        description: "The body did not arrive in time.",
        example: "The body did not arrive in time.",
        headers: &[],
    };
    /// Any listener, when the target exceeds the fixed limit.
    pub const URI_TOO_LONG: Self = Self {
        status: 414,
        name: "UriTooLong",
        description: "The path and the query have more than 65,534 bytes together. There is no body.",
        example: "",
        headers: &[],
    };
    /// Any listener, when the head is too large.
    pub const HEADER_FIELDS_TOO_LARGE: Self = Self {
        status: 431,
        name: "RequestHeaderFieldsTooLarge",
        description: "The request line and the headers are too large together. There is no body.",
        example: "",
        headers: &[],
    };
    /// Any listener, when it does not support the transfer coding.
    pub const NOT_IMPLEMENTED: Self = Self {
        status: 501,
        name: "NotImplemented",
        description: "`Transfer-Encoding` names a coding other than chunked.",
        example: "Transfer-Encoding names a coding other than chunked.",
        headers: &[],
    };

    /// The response in OpenAPI notation.
    pub(super) fn response(&self, common_headers: &[&str]) -> Value {
        let names = self.headers.iter().chain(common_headers);
        let mut response = json!({"description": self.description, "headers": headers(names)});
        if !self.example.is_empty() {
            response["content"] = json!({PROBLEM_TYPE: self.content()});
            response["headers"][CACHE_CONTROL] = header_reference(CACHE_CONTROL);
        }
        response
    }

    /// The content for the media type of problems.
    pub(super) fn content(&self) -> Value {
        let title = http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let example = json!({"type": "about:blank", "title": title, "status": self.status, "detail": self.example});
        json!({"schema": reference(PROBLEM), "example": example})
    }
}
