//! The OpenAPI documents, and a page to read them and try the API.
//!
//! Invariants: nothing here is secret, so a browser can load it before a token is entered; the page runs only its own
//! script, sends only to its own origin, and cannot be framed.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::Value;

use crate::http::Problem;
use crate::openapi::ServedDocument;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";
const CROSS_ORIGIN_OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The files that are served.
pub(in crate::admin) struct Pages {
    document: ServedDocument,
    gateway_document: Option<ServedDocument>,
    page: ServedDocument,
    script: ServedDocument,
    style: ServedDocument,
}

impl Pages {
    pub(in crate::admin) fn new(document: &Value, gateway_document: Option<&Value>) -> Self {
        let file = |text: &'static str, media_type: &'static str| {
            ServedDocument::new(text.into(), HeaderValue::from_static(media_type))
        };
        Self {
            document: ServedDocument::document(document),
            gateway_document: gateway_document.map(ServedDocument::document),
            page: file(include_str!("../page/page.html"), "text/html; charset=utf-8"),
            script: file(include_str!("../page/page.js"), "text/javascript; charset=utf-8"),
            style: file(include_str!("../page/page.css"), "text/css; charset=utf-8"),
        }
    }
}

pub(in crate::admin) async fn document(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    reply(&pages.document, &headers)
}

pub(in crate::admin) async fn gateway_document(
    State(pages): State<Arc<Pages>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let none = || Problem::new(StatusCode::NOT_FOUND, "This process does not know the gateway's document.");
    pages.gateway_document.as_ref().map(|document| reply(document, &headers)).ok_or_else(none)
}

pub(in crate::admin) async fn page(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    reply(&pages.page, &headers)
}

pub(in crate::admin) async fn script(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    reply(&pages.script, &headers)
}

pub(in crate::admin) async fn style(State(pages): State<Arc<Pages>>, headers: HeaderMap) -> Response {
    reply(&pages.style, &headers)
}

fn reply(served: &ServedDocument, request: &HeaderMap) -> Response {
    let mut reply = served.reply(request).map(Body::new);
    let headers = reply.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CROSS_ORIGIN_OPENER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, HeaderValue::from_static("same-origin"));
    reply
}
