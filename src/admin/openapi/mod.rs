//! The OpenAPI document of the admin API, generated from the route table and the document types.
//!
//! Invariant: it lists every route with the least role that the table requires.

mod examples;
mod operations;
mod refusals;
mod schemas;

use serde_json::{Value, json};

use super::route::{Audience, RouteInfo};
use crate::openapi::{Document, Operation};

const ABOUT: &str = "\
Webhooks, rules and anomaly configs, what became of their deliveries, dead letters, API keys, tokens and the audit log.

**Tokens.** Where the API asks for a token, it is sent as `Authorization: Bearer TOKEN`. `x-least-role` of an operation \
is the least role that it asks for: a `viewer` reads, an `operator` also changes documents, deliveries and dead letters, \
an `admin` also manages keys and tokens and reads the audit log. On loopback, without `ADMIN_TOKEN`, nobody is asked.

**Documents** are JSON in snake_case. `{id}` is an id or a name. Times are RFC 3339 in UTC. Secrets read back as `***`, \
and sending that back keeps them. A document that is refused stores nothing, and the answer names all of its mistakes.

**Lists** answer `items` and `next`, the `cursor` of the next page or null. An unknown parameter of any request is refused.

`HEAD` is answered where `GET` is, as `GET` without the body. Another method than those listed is answered 405 with `Allow`, another path 404.";

/// The document of a process that serves these routes.
pub(super) fn document(routes: &[RouteInfo], requires_tokens: bool) -> Value {
    let mut document = Document::new("Causality admin API", ABOUT, refusals::ALL);
    for (name, description) in operations::TAGS {
        document.tag(name, description);
    }
    let about = "A token of the API, or the setting `ADMIN_TOKEN`.";
    document.security_schemes(json!({"token": {"type": "http", "scheme": "bearer", "description": about}}));
    refusals::add_headers(&mut document);
    schemas::add(&mut document);
    for route in routes {
        let Some(operation) = operations::of(route) else { continue };
        let method = format!("{:?}", route.verb);
        document.add(&method, &route.path, guarded(operation, route.audience, requires_tokens));
    }
    document.finish()
}

/// Adds the security and the refusals of a route's audience.
fn guarded(operation: Operation, audience: Audience, requires_tokens: bool) -> Operation {
    // Where no token is required, one may still be sent.
    let ways = if requires_tokens { json!([{"token": []}]) } else { json!([{"token": []}, {}]) };
    match audience {
        Audience::Anyone => operation.security(json!([])),
        Audience::Page => operation.security(json!([])).refused(&[403]),
        Audience::Metrics => operation.security(ways).refused(&[401, 403, 429]),
        Audience::Role(role) => {
            operation.security(ways).extension("x-least-role", role.text()).refused(&[401, 403, 429, 500])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::route::Route;
    use crate::admin::routes;

    #[test]
    fn every_route_is_documented() {
        let process_routes = routes::process_routes().iter().map(Route::info).collect::<Vec<_>>();
        let api_routes = routes::api_routes().iter().map(Route::info).collect::<Vec<_>>();
        let page_routes = routes::page_routes().iter().map(Route::info).collect::<Vec<_>>();
        let all = [process_routes, api_routes, page_routes].concat();
        let document = document(&all, true);
        for route in &all {
            let method = format!("{:?}", route.verb).to_lowercase();
            let operation = &document["paths"][&route.path][&method];
            assert!(operation.is_object(), "{method} {} is not documented", route.path);
            let role = match route.audience {
                Audience::Role(role) => json!(role.text()),
                _ => Value::Null,
            };
            assert_eq!(operation["x-least-role"], role, "{}", route.path);
        }
        let whole = document.to_string();
        for (at, _) in whole.match_indices("\"$ref\":\"#/") {
            let pointer = whole[at + "\"$ref\":\"#".len()..].split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
