//! The OpenAPI document of the gateway, built from its routes and the schemas of events.
//!
//! Invariant: it covers every route, because it is built by iterating over them.

use serde_json::{Value, json};

use super::options::{DocumentOptions, EVENTS, OPENTELEMETRY, SEGMENT};
use super::{cloud_events, native, otlp, refusals, segment};
use crate::event::json_schemas;
use crate::gateway::route::Route;
use crate::openapi::{CACHE_CONTROL, Document, Operation, SCHEMAS, ServedDocument, reference};

const PROCESS: &str = "process";

const BEGINNING: &str = "Takes in app events. 2xx is said of events that are on disk.\n\n";

const KEYS: &str = "\
**Keys.** Whoever sends events needs an API key. It is sent as `X-API-Key`, as `Authorization: Bearer`, or as the user \
name of `Authorization: Basic`; in Segment's API also as `writeKey` in the body. The key says which app the events are \
of: they need not name it, and those that name another one are refused.

";

const NO_KEYS: &str = "\
**Apps.** This gateway asks for no API key, so each event has to name its app: in `appId`; in the attribute `appid` of a \
CloudEvent; in `service.namespace` or `service.name` of the resource of a log record; in the write key of Segment's API. \
A key that is sent nevertheless is ignored, unless it is that write key.

";

const ABOUT: &str = "\
**Bodies** may be compressed: `Content-Encoding` is `gzip`, `deflate`, `br` or `zstd`. What they inflate to is limited. \
A byte order mark is passed over. JSON is UTF-8.

**JSON of events** is the proto3 mapping. Names are shown in camelCase, and read in snake_case as well. An integer may be \
written in any form that is one (`5.0`, `1e3`), as a number or as text. Null stands for a field that is not there. \
Lengths are counted in bytes of UTF-8.

**Limits.** 429 and 503 come with `Retry-After`; `RateLimit` and `RateLimit-Policy` tell what is left.

**Web pages.** A preflight (`OPTIONS`) is answered on every path; which origins are allowed is a setting. A request of a \
page whose origin is not allowed is answered 403.

**Proxies.** Who is counted by address is told by `Forwarded` or `X-Forwarded-For` where a trusted proxy sets it.

Another method than those listed is answered 405 with `Allow`, another path 404.";

pub(crate) fn served(options: &DocumentOptions) -> ServedDocument {
    ServedDocument::document(&document(options))
}

/// The document of a gateway with these settings.
pub fn document(options: &DocumentOptions) -> Value {
    let about = [BEGINNING, if options.keys { KEYS } else { NO_KEYS }, ABOUT].concat();
    let mut document = Document::new("Causality gateway", &about, refusals::ALL);
    document.tag(EVENTS, "Events in JSON, JSON lines and protobuf, and as CloudEvents.");
    document.tag(SEGMENT, "Segment's HTTP API. Its SDKs send here when their host is changed.");
    document.tag(OPENTELEMETRY, "Log records as OTLP/HTTP sends them.");
    document.tag(PROCESS, "What the process says of itself.");
    document.security_schemes(json!({
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer", "description": "The API key is the token."},
        "basic": {"type": "http", "scheme": "basic", "description": "The API key is the user name; the password is not looked at."},
    }));
    refusals::add_headers(&mut document, *options);
    document.schemas(json_schemas(SCHEMAS));
    native::add_schemas(&mut document, *options);
    cloud_events::add_schemas(&mut document, *options);
    otlp::add_schemas(&mut document);
    segment::add_schemas(&mut document, *options);
    for (path, route) in Route::all() {
        for method in route.methods().split(", ") {
            document.add(method, path, operation(route, path, method, *options));
        }
    }
    document.finish()
}

fn operation(route: Route, path: &str, method: &str, options: DocumentOptions) -> Operation {
    let operation = match route {
        Route::Ingest => native::ingest(options).security(options.security()),
        Route::Batch => native::batch(options).security(options.security()),
        Route::Logs => otlp::logs(options).security(options.security()),
        Route::Segment(segment_route) => segment::operation(segment_route, path, options),
        Route::Health => health(method),
        Route::Ready => ready(method),
        Route::OpenApi => openapi(method),
    };
    ids(operation)
}

/// Request headers that every operation accepts.
fn ids(operation: Operation) -> Operation {
    let id = |name: &str, what: &str| {
        json!({
            "name": name,
            "in": "header",
            "description": format!("{what} Another one than of 1 to 128 visible ASCII characters is replaced."),
            "schema": {"type": "string"},
            "example": "7f9c24e5",
        })
    };
    operation
        .parameter(id("X-Request-ID", "Names the request in the reply and in the log; made when absent."))
        .parameter(id("X-Correlation-ID", "The same of what it belongs to; the request's id when absent."))
}

/// Distinct operation ids for `get` and `head` of one path.
fn named(tag: &'static str, method: &str, name: &str, summary: &str) -> Operation {
    let prefix = if method == "HEAD" { "head" } else { "get" };
    Operation::new(tag, &format!("{prefix}{name}"), summary).security(json!([]))
}

/// HEAD gets the answer without the body.
fn answers(operation: Operation, method: &str, status: u16, description: &str, content: Value) -> Operation {
    match method {
        "HEAD" => operation.answer_without_body(status, description),
        _ => operation.answer(status, description, content),
    }
}

fn health(method: &str) -> Operation {
    let operation = named(PROCESS, method, "Health", "Whether the process lives");
    let content = json!({"application/json": {"schema": reference("Health"), "example": {"status": "ok"}}});
    answers(operation, method, 200, "It lives.", content).headers(&[200], &[CACHE_CONTROL])
}

fn ready(method: &str) -> Operation {
    let operation = named(PROCESS, method, "Ready", "Whether events are taken in");
    let content = |example: Value| json!({"application/json": {"schema": reference("Ready"), "example": example}});
    let operation = answers(operation, method, 200, "They are.", content(json!({"status": "ready"})));
    let why = content(json!({"status": "unready"}));
    answers(operation, method, 503, "They are not; `components` says why, to those who may know.", why)
        .headers(&[200, 503], &[CACHE_CONTROL])
}

fn openapi(method: &str) -> Operation {
    let content = json!({"application/json": {"schema": {"type": "object"}}});
    named(PROCESS, method, "OpenApi", "This document").serves((method != "HEAD").then_some(content)).refused(&[429])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_documented_with_its_methods() {
        let document = document(&DocumentOptions::default());
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), Route::all().count());
        for (path, route) in Route::all() {
            let methods: Vec<_> = paths[path].as_object().unwrap().keys().map(|name| name.to_uppercase()).collect();
            assert_eq!(methods.join(", "), route.methods(), "{path}");
        }
        let whole = document.to_string();
        for (at, _) in whole.match_indices("\"$ref\":\"#/") {
            let pointer = whole[at + "\"$ref\":\"#".len()..].split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
        let ids: Vec<_> = whole.match_indices("\"operationId\":").collect();
        assert!(ids.len() > paths.len());
    }

    fn shown(keys: bool, quarantine: bool) -> Value {
        document(&DocumentOptions { keys, quarantine, batch_events_max: 7 })
    }

    #[test]
    fn the_document_shows_that_no_key_is_required() {
        let security = |keys| shown(keys, false)["paths"]["/v1/events/ingest"]["post"]["security"].clone();
        assert_eq!((security(true).as_array().unwrap().len(), security(false).as_array().unwrap().len()), (3, 4));
        for (name, member) in [
            ("EventEnvelope", "appId"),
            ("CloudEvent", "appid"),
            ("SegmentRequest", "writeKey"),
            ("SegmentBatch", "writeKey"),
        ] {
            let required = |keys| {
                let schema = shown(keys, false)["components"]["schemas"][name].clone();
                schema["required"].as_array().unwrap().contains(&member.into())
            };
            assert_eq!((required(true), required(false)), (false, true), "{name}");
        }
    }

    #[test]
    fn the_document_shows_the_quarantine() {
        let ingest = |quarantine| shown(true, quarantine)["paths"]["/v1/events/ingest"]["post"]["responses"].clone();
        for status in ["200", "400"] {
            assert!(ingest(true)[status]["headers"]["X-Quarantined"].is_object(), "{status}");
        }
        assert!(!shown(true, false).to_string().contains("X-Quarantined"));
    }
}
