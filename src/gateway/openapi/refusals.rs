//! The refusals of the gateway, and the headers of its replies.

use serde_json::json;

use super::options::{DocumentOptions, QUARANTINED};
use crate::openapi::{Document, Refusal};

pub(super) const ALL: &[Refusal] = &[
    Refusal {
        status: 400,
        name: "BadRequest",
        description: "The request is not valid: `errors` says where. What is not HTTP at all is answered without a body.",
        example: "The event is not valid.",
        headers: &[],
    },
    Refusal {
        status: 401,
        name: "Unauthorized",
        description: "There is no valid API key: none was sent, or it is unknown, revoked or expired, or two differ.",
        example: "The API key is unknown or was revoked.",
        headers: &["WWW-Authenticate"],
    },
    Refusal {
        status: 403,
        name: "Forbidden",
        description: "The event belongs to another app than the API key, or a web page of an origin that is not \
                      allowed sent the request.",
        example: "The event belongs to another app than the API key.",
        headers: &[],
    },
    Refusal::REQUEST_TIMEOUT,
    Refusal {
        status: 413,
        name: "ContentTooLarge",
        description: "The body is too large, as sent or inflated, or the event is too large for the bus.",
        example: "The body is too large.",
        headers: &[],
    },
    Refusal::URI_TOO_LONG,
    Refusal {
        status: 415,
        name: "UnsupportedMediaType",
        description: "The body is of another content type or coding than the path takes.",
        example: "Content-Encoding must be gzip, deflate, br, zstd or identity.",
        headers: &["Accept-Encoding"],
    },
    Refusal {
        status: 429,
        name: "TooManyRequests",
        description: "Too many requests or events, of this caller or of all together.",
        example: "There are too many requests with this API key; send again later.",
        headers: &["Retry-After", "X-RateLimit-Reset"],
    },
    Refusal::HEADER_FIELDS_TOO_LARGE,
    Refusal::NOT_IMPLEMENTED,
    Refusal {
        status: 503,
        name: "ServiceUnavailable",
        description: "Nothing was stored: the bus is full or away, the process starts or stops, or there is no room \
                      for the request.",
        example: "The event store is unavailable; send again later, with the same idempotency key.",
        headers: &["Retry-After"],
    },
];

const COMMON_HEADERS: &[&str] = &[
    "X-Request-ID",
    "X-Correlation-ID",
    "RateLimit",
    "RateLimit-Policy",
    "Vary",
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Expose-Headers",
];
pub(super) fn add_headers(document: &mut Document, options: DocumentOptions) {
    let text = || json!({"type": "string"});
    let seconds = || json!({"type": "integer", "minimum": 0});
    for (name, description, schema) in [
        ("X-Request-ID", "Names the request, here and in the log.", text()),
        ("X-Correlation-ID", "Names what it belongs to.", text()),
        (
            "RateLimit",
            "What is left of each limit (draft-ietf-httpapi-ratelimit-headers), where there are any.",
            text(),
        ),
        ("RateLimit-Policy", "The limits.", text()),
        ("Retry-After", "Seconds until it is worth sending again.", seconds()),
        ("X-RateLimit-Reset", "The same, for older clients.", seconds()),
        ("WWW-Authenticate", "How to send a key.", text()),
        ("Accept-Encoding", "The content codings that are taken, where the coding was the reason.", text()),
        ("Vary", "Which headers of the request the reply depends on.", text()),
        ("Access-Control-Allow-Origin", "To pages of an allowed origin: that origin, or `*`.", text()),
        (
            "Access-Control-Allow-Credentials",
            "To the same pages, where they may send credentials.",
            json!({"type": "string", "const": "true"}),
        ),
        ("Access-Control-Expose-Headers", "The headers of the reply that these pages may read.", text()),
    ] {
        document.header(name, description, schema);
    }
    if options.quarantine {
        let about = "How many events of the request were refused and kept with the dead letters.";
        document.header(QUARANTINED, about, json!({"type": "integer", "minimum": 1}));
    }
    document.common_headers(COMMON_HEADERS);
}
