//! Why the admin API refuses requests, and the headers of its responses.

use serde_json::json;

use crate::openapi::{Document, Operation, Refusal};

pub(super) const ALL: &[Refusal] = &[
    Refusal {
        status: 400,
        name: "BadRequest",
        description: "The body or the query cannot be read; `errors` names the parameter. What is not HTTP at all is \
                      answered without a body.",
        example: "The query string is not valid.",
        headers: &[],
    },
    Refusal {
        status: 401,
        name: "Unauthorized",
        description: "There is no token, or it is unknown, revoked or expired.",
        example: "The token is not valid: it is unknown, or was revoked.",
        headers: &["WWW-Authenticate"],
    },
    Refusal {
        status: 403,
        name: "Forbidden",
        description: "The token's role is not enough; or a web page of another origin sent the request, or it came \
                      under a name that is not this machine's, or through a proxy where no token is asked for.",
        example: "This request needs a token with the role operator; this one's is viewer.",
        headers: &["WWW-Authenticate"],
    },
    Refusal {
        status: 404,
        name: "NotFound",
        description: "There is none with this id or name.",
        example: "There is none with this id or name.",
        headers: &[],
    },
    Refusal::REQUEST_TIMEOUT,
    Refusal {
        status: 409,
        name: "Conflict",
        description: "What is stored is in the way: a name is taken, a webhook is still used, there are too many, or \
                      it has changed meanwhile.",
        example: "The name is taken.",
        headers: &[],
    },
    Refusal {
        status: 413,
        name: "ContentTooLarge",
        description: "The body is too large.",
        example: "The body has at most 1 MiB.",
        headers: &[],
    },
    Refusal::URI_TOO_LONG,
    Refusal {
        status: 415,
        name: "UnsupportedMediaType",
        description: "The body is not called JSON, or has a Content-Encoding.",
        example: "Send the document as application/json.",
        headers: &["Accept-Encoding"],
    },
    Refusal {
        status: 422,
        name: "UnprocessableContent",
        description: "The document is readable and wrong: `errors` has all that is, each with its place.",
        example: "The document is not valid; nothing was stored.",
        headers: &[],
    },
    Refusal {
        status: 429,
        name: "TooManyRequests",
        description: "Too many tokens from this address were wrong.",
        example: "Too many tokens from this address were wrong; send again later.",
        headers: &["Retry-After"],
    },
    Refusal::HEADER_FIELDS_TOO_LARGE,
    Refusal::NOT_IMPLEMENTED,
    Refusal {
        status: 500,
        name: "InternalServerError",
        description: "What is stored is damaged.",
        example: "Stored data is damaged.",
        headers: &[],
    },
    Refusal {
        status: 503,
        name: "ServiceUnavailable",
        description: "The store or the bus is away or full, the process starts or stops, or there is no room for the \
                      request.",
        example: "The store cannot be reached.",
        headers: &["Retry-After"],
    },
];

/// Headers that the pages send to browsers.
const PAGE_HEADERS: [(&str, &str); 5] = [
    ("Content-Security-Policy", "The page runs its own script and sends to its own origin, and stands in no frame."),
    ("X-Content-Type-Options", "The media type is what it is called."),
    ("Referrer-Policy", "Where the page links to is not told of it."),
    ("Cross-Origin-Opener-Policy", "Other origins' windows cannot reach that of the page."),
    ("Cross-Origin-Resource-Policy", "Pages of other origins cannot load it."),
];

/// Adds these headers to the operation of a page.
pub(super) fn with_page_headers(operation: Operation) -> Operation {
    operation.headers(&[200, 304], &PAGE_HEADERS.map(|(name, _)| name))
}

pub(super) fn add_headers(document: &mut Document) {
    let text = || json!({"type": "string"});
    document.header("X-Request-ID", "Names the request, here, in the log and in the audit log.", text());
    document.header("X-Correlation-ID", "As it was sent, or the request's own id.", text());
    document.common_headers(&["X-Request-ID", "X-Correlation-ID"]);
    document.header("WWW-Authenticate", "How to send a token, or the role that is needed.", text());
    document.header(
        "Retry-After",
        "Seconds until it is worth sending again.",
        json!({"type": "integer", "minimum": 0}),
    );
    document.header("Accept-Encoding", "The content codings that are taken, where the coding was the reason.", text());
    document.header("Location", "The path of what was created.", text());
    for (name, description) in PAGE_HEADERS {
        document.header(name, description, text());
    }
}
