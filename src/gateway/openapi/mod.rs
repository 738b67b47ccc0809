//! The OpenAPI document of the gateway, made from its routes and the schemas of events.
//!
//! Invariant: every route is in it, since it is made by going through them.

mod cloud_events;
mod native;
mod otlp;
mod refusals;
mod segment;

use serde_json::{Value, json};

use super::route::Route;
use super::{Access, Settings};
use crate::event::json_schemas;
use crate::openapi::{Document, Operation, SCHEMAS, Served, reference};

const EVENTS: &str = "events";
const SEGMENT: &str = "segment";
const OPENTELEMETRY: &str = "opentelemetry";
const PROCESS: &str = "process";

const ABOUT: &str = "\
Takes in app events. 2xx is said of events that are on disk.

**Keys.** Where the gateway asks for an API key, it is sent as `X-API-Key`, as `Authorization: Bearer`, or as the user \
name of `Authorization: Basic`. A gateway that listens on loopback asks for none, unless it is set up otherwise.

**Bodies** may be compressed: `Content-Encoding` is `gzip`, `deflate`, `br` or `zstd`. What they inflate to is limited. \
A byte order mark is passed over. JSON is UTF-8.

**JSON of events** is the proto3 mapping. Names are shown in camelCase, and read in snake_case as well. An integer may be \
written in any form that is one (`5.0`, `1e3`), as a number or as text. Null stands for a field that is not there. \
Lengths are counted in bytes of UTF-8.

**Limits.** 429 and 503 come with `Retry-After`; `RateLimit` and `RateLimit-Policy` tell what is left.

**Web pages.** A preflight (`OPTIONS`) is answered on every path; which origins are allowed is a setting. A request of a \
page whose origin is not allowed is answered 403.

Another method than those listed is answered 405 with `Allow`, another path 404.";

/// What a document says of the settings.
#[derive(Clone, Copy, Debug)]
pub struct Shown {
    /// Whether a key is asked for.
    pub keys: bool,
    pub batch_events_max: usize,
}

impl Shown {
    pub(super) fn of(settings: &Settings) -> Self {
        Self { keys: matches!(settings.access, Access::Keys(_)), batch_events_max: settings.batch_events_max }
    }

    /// Where no key is asked for, one may be sent all the same.
    fn security(self) -> Value {
        let mut ways = vec![json!({"apiKey": []}), json!({"bearer": []}), json!({"basic": []})];
        if !self.keys {
            ways.push(json!({}));
        }
        ways.into()
    }
}

impl Default for Shown {
    /// Of a gateway that faces the world.
    fn default() -> Self {
        Self { keys: true, ..Self::of(&Settings::default()) }
    }
}

pub(super) fn served(shown: &Shown) -> Served {
    Served::document(&document(shown))
}

/// The document of a gateway with these settings.
pub fn document(shown: &Shown) -> Value {
    let mut document = Document::new("Causality gateway", ABOUT, refusals::ALL);
    document.tag(EVENTS, "Events in JSON, JSON lines and protobuf, and as CloudEvents.");
    document.tag(SEGMENT, "Segment's HTTP API. Its SDKs send here when their host is changed.");
    document.tag(OPENTELEMETRY, "Log records as OTLP/HTTP sends them.");
    document.tag(PROCESS, "What the process says of itself.");
    document.security_schemes(json!({
        "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer", "description": "The API key is the token."},
        "basic": {"type": "http", "scheme": "basic", "description": "The API key is the user name; the password is not looked at."},
    }));
    refusals::add_headers(&mut document);
    document.schemas(json_schemas(SCHEMAS));
    native::add_schemas(&mut document, shown.batch_events_max);
    cloud_events::add_schemas(&mut document, shown.batch_events_max);
    otlp::add_schemas(&mut document);
    segment::add_schemas(&mut document, shown.batch_events_max);
    for (path, route) in Route::all() {
        for method in route.methods().split(", ") {
            document.add(method, path, operation(route, path, method, *shown));
        }
    }
    document.finish()
}

fn operation(route: Route, path: &str, method: &str, shown: Shown) -> Operation {
    let operation = match route {
        Route::Ingest => native::ingest().security(shown.security()),
        Route::Batch => native::batch().security(shown.security()),
        Route::Logs => otlp::logs().security(shown.security()),
        Route::Segment(asked) => segment::operation(asked, path, shown),
        Route::Health => health(method),
        Route::Ready => ready(method),
        Route::OpenApi => openapi(method),
    };
    if method == "POST" { ids(operation) } else { operation }
}

/// Headers of requests that are taken up.
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

/// `get` and `head` of one path have different names.
fn named(tag: &'static str, method: &str, name: &str, summary: &str) -> Operation {
    let prefix = if method == "HEAD" { "head" } else { "get" };
    Operation::new(tag, &format!("{prefix}{name}"), summary).security(json!([]))
}

/// HEAD answers without the body.
fn answers(operation: Operation, method: &str, status: u16, description: &str, content: Value) -> Operation {
    match method {
        "HEAD" => operation.answer_without_body(status, description),
        _ => operation.answer(status, description, content),
    }
}

fn health(method: &str) -> Operation {
    let operation = named(PROCESS, method, "Health", "Whether the process lives");
    let content = json!({"application/json": {"schema": reference("Health"), "example": {"status": "ok"}}});
    answers(operation, method, 200, "It lives.", content).refused(&[400, 431])
}

fn ready(method: &str) -> Operation {
    let operation = named(PROCESS, method, "Ready", "Whether events are taken in");
    let content = |example: Value| json!({"application/json": {"schema": reference("Ready"), "example": example}});
    let operation = answers(operation, method, 200, "They are.", content(json!({"status": "ready"})));
    let why = content(json!({"status": "unready"}));
    answers(operation, method, 503, "They are not; `components` says why, to those who may know.", why)
        .refused(&[400, 431])
}

fn openapi(method: &str) -> Operation {
    let operation = named(PROCESS, method, "OpenApi", "This document")
        .parameter(json!({
            "name": "If-None-Match",
            "in": "header",
            "description": "The ETag of a document that the client has.",
            "schema": {"type": "string"},
        }))
        .answer_without_body(304, "The client has it already.");
    let content = json!({"application/json": {"schema": {"type": "object"}}});
    answers(operation, method, 200, "The document.", content).refused(&[400, 429, 431, 503])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_documented_with_its_methods() {
        let document = document(&Shown::default());
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

    #[test]
    fn a_gateway_that_asks_for_no_key_says_so() {
        let security = |keys| {
            let shown = Shown { keys, batch_events_max: 7 };
            document(&shown)["paths"]["/v1/events/ingest"]["post"]["security"].as_array().unwrap().len()
        };
        assert_eq!((security(true), security(false)), (3, 4));
    }
}
