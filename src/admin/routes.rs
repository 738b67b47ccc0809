//! The table of all routes of the admin listener, with their audiences.
//!
//! Invariant: the router is built from this table and nothing else, so a route without an audience cannot exist.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};

use super::access::{self, Access};
use super::guard;
use super::handlers::{
    Pages, anomaly_events, apply, audit, dead_letters, deliveries, documents, erasures, keys, pages, probes, tokens,
};
use super::input::query;
use super::resource::Resource;
use super::route::{Audience, BASE, Route, Table, Verb};
use super::state::{Probes, Settings, Shared};
use crate::http::Problem;
use crate::store::{AdminRole, NewAnomalyConfig, NewRule, NewWebhook};

/// Health, readiness and metrics of every process.
pub(super) fn process_routes() -> Vec<Route<(Probes, Access)>> {
    let mut table = Table::below("");
    table.add(Verb::Get, "/health", Audience::Anyone, probes::health);
    table.add(Verb::Get, "/ready", Audience::Anyone, probes::ready);
    table.add(Verb::Get, "/metrics", Audience::Metrics, probes::metrics);
    table.routes
}

/// The OpenAPI documents, and the page that shows them.
pub(super) fn page_routes() -> Vec<Route<Arc<Pages>>> {
    let mut table = Table::below("");
    table.add(Verb::Get, "/openapi.json", Audience::Page, pages::document);
    table.add(Verb::Get, "/docs", Audience::Page, pages::page);
    table.add(Verb::Get, "/docs/page.js", Audience::Page, pages::script);
    table.add(Verb::Get, "/docs/page.css", Audience::Page, pages::style);
    table.add(Verb::Get, "/docs/gateway.json", Audience::Page, pages::gateway_document);
    table.routes
}

/// The REST API.
pub(super) fn api_routes() -> Vec<Route<Arc<Shared>>> {
    use Verb::{Delete, Get, Post};
    const VIEWER: Audience = Audience::Role(AdminRole::Viewer);
    const OPERATOR: Audience = Audience::Role(AdminRole::Operator);
    const ADMIN: Audience = Audience::Role(AdminRole::Admin);
    let mut table = Table::below(BASE);
    document_routes::<NewWebhook>(&mut table);
    document_routes::<NewRule>(&mut table);
    document_routes::<NewAnomalyConfig>(&mut table);
    table.add_with_query(Post, "/apply", OPERATOR, apply::apply);
    table.add_with_query(Get, "/deliveries", VIEWER, deliveries::list);
    table.add(Post, "/deliveries/retry", OPERATOR, deliveries::retry_all);
    table.add(Get, "/deliveries/{id}", VIEWER, deliveries::show);
    table.add(Delete, "/deliveries/{id}", OPERATOR, deliveries::delete);
    table.add(Post, "/deliveries/{id}/retry", OPERATOR, deliveries::retry);
    table.add_with_query(Get, "/anomaly-events", VIEWER, anomaly_events::list);
    table.add_with_query(Get, "/dead-letters", VIEWER, dead_letters::list);
    table.add_with_query(Delete, "/dead-letters", OPERATOR, dead_letters::purge);
    table.add_with_query(Get, "/dead-letters/counts", VIEWER, dead_letters::counts);
    table.add(Get, "/dead-letters/{id}", VIEWER, dead_letters::show);
    table.add(Delete, "/dead-letters/{id}", OPERATOR, dead_letters::delete);
    table.add(Post, "/dead-letters/{id}/replay", OPERATOR, dead_letters::replay);
    table.add_with_query(Get, "/keys", ADMIN, keys::list);
    table.add(Post, "/keys", ADMIN, keys::create);
    table.add(Get, "/keys/{id}", ADMIN, keys::show);
    table.add(Delete, "/keys/{id}", ADMIN, keys::revoke);
    table.add_with_query(Get, "/tokens", ADMIN, tokens::list);
    table.add(Post, "/tokens", ADMIN, tokens::create);
    table.add(Get, "/tokens/{id}", ADMIN, tokens::show);
    table.add(Delete, "/tokens/{id}", ADMIN, tokens::revoke);
    table.add(Post, "/erasures", ADMIN, erasures::erase);
    table.add_with_query(Get, "/audit", ADMIN, audit::list);
    table.add(Get, "/status", VIEWER, probes::status);
    table.routes
}

/// The routes of one kind of document.
fn document_routes<R: Resource>(table: &mut Table<Arc<Shared>>) {
    let (read, write) = (Audience::Role(AdminRole::Viewer), Audience::Role(AdminRole::Operator));
    let (all, one) = (format!("/{}", R::PLURAL), format!("/{}/{{id}}", R::PLURAL));
    table.add_with_query(Verb::Get, &all, read, documents::list::<R>);
    table.add(Verb::Post, &all, write, documents::create::<R>);
    table.add(Verb::Get, &one, read, documents::show::<R>);
    table.add(Verb::Put, &one, write, documents::replace::<R>);
    table.add(Verb::Patch, &one, write, documents::patch::<R>);
    table.add(Verb::Delete, &one, write, documents::delete::<R>);
}

/// Builds the router of all routes. Unknown paths require a token, as the API does.
pub(super) fn assemble(routes: Vec<Route>, access: &Access, settings: &Arc<Settings>) -> Router {
    let mut with_role = Router::new();
    let mut without_role = Vec::new();
    for route in routes {
        match route.audience {
            Audience::Anyone | Audience::Metrics | Audience::Page => without_role.push(route),
            Audience::Role(least) => {
                let role = from_fn_with_state((access.clone(), least), access::require);
                let handler =
                    if route.has_query { route.handler } else { route.handler.route_layer(from_fn(query::no_query)) };
                with_role = with_role.route(&route.path, handler.route_layer(role));
            }
        }
    }
    let with_role = with_role
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path."))
        .method_not_allowed_fallback(no_such_method)
        .layer(from_fn_with_state(access.clone(), access::authenticate))
        .layer(from_fn_with_state(settings.clone(), guard::admit));
    // Probes are exempt from the Host check: they come by an address or a service name.
    open(without_role, access, settings).merge(with_role)
}

/// Builds the router of the routes that require no role.
pub(super) fn open(routes: Vec<Route>, access: &Access, settings: &Arc<Settings>) -> Router {
    let mut open = Router::new();
    for Route { path, audience, handler, .. } in routes {
        let handler = match audience {
            Audience::Anyone => handler,
            Audience::Page => handler.route_layer(from_fn_with_state(settings.clone(), guard::admit)),
            Audience::Metrics => handler.route_layer(from_fn_with_state(access.clone(), access::admit_to_metrics)),
            // This router does not authenticate.
            Audience::Role(_) => continue,
        };
        open = open.route(&path, handler);
    }
    open.method_not_allowed_fallback(no_such_method)
}

/// axum itself adds the Allow header.
async fn no_such_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "This resource does not have this method.")
}
