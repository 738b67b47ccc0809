//! Why requests are refused: the responses that operations share.

use serde_json::{Value, json};

use super::reference::{CACHE_CONTROL, PROBLEM, PROBLEM_TYPE, header_reference, headers, reference};

/// Why a request may be refused, for all operations of a document.
pub struct Refusal {
    pub status: u16,
    /// Of the component.
    pub name: &'static str,
    pub description: &'static str,
    /// The `detail` of an example; empty for one that comes without a body.
    pub example: &'static str,
    /// Named in [`Document::header`](super::Document::header).
    pub headers: &'static [&'static str],
}

impl Refusal {
    /// What every listener says of a body that does not come.
    pub const REQUEST_TIMEOUT: Self = Self {
        status: 408,
        name: "RequestTimeout",
        description: "The body did not arrive in time.",
        example: "The body did not arrive in time.",
        headers: &[],
    };
    /// The same of a target that no head may have, however large it may be.
    pub const URI_TOO_LONG: Self = Self {
        status: 414,
        name: "UriTooLong",
        description: "The path and the query have more than 65,534 bytes together. There is no body.",
        example: "",
        headers: &[],
    };
    /// The same of a head that is too large.
    pub const HEADER_FIELDS_TOO_LARGE: Self = Self {
        status: 431,
        name: "RequestHeaderFieldsTooLarge",
        description: "The request line and the headers are too large together. There is no body.",
        example: "",
        headers: &[],
    };
    /// The same of a body that it cannot take out of its coding.
    pub const NOT_IMPLEMENTED: Self = Self {
        status: 501,
        name: "NotImplemented",
        description: "`Transfer-Encoding` names a coding other than chunked.",
        example: "Transfer-Encoding names a coding other than chunked.",
        headers: &[],
    };

    /// As OpenAPI has it.
    pub(super) fn response(&self, common_headers: &[&str]) -> Value {
        let names = self.headers.iter().chain(common_headers);
        let mut response = json!({"description": self.description, "headers": headers(names)});
        if !self.example.is_empty() {
            response["content"] = json!({PROBLEM_TYPE: self.content()});
            response["headers"][CACHE_CONTROL] = header_reference(CACHE_CONTROL);
        }
        response
    }

    /// Of the media type of problems.
    pub(super) fn content(&self) -> Value {
        let title = http::StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let example = json!({"type": "about:blank", "title": title, "status": self.status, "detail": self.example});
        json!({"schema": reference(PROBLEM), "example": example})
    }
}
