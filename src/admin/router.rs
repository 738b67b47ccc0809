//! The routers: of a process that serves the API, of one that does not, and of one that is starting.

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use serde_json::Value;

use super::access::Access;
use super::handlers::Pages;
use super::route::{Audience, BASE, Route};
use super::state::{Probes, Settings, Shared, State};
use super::{openapi, routes};
use crate::http::Problem;

/// The complete service of the admin listener.
pub fn router(state: State) -> Router {
    let (access, settings) = (state.access.clone(), state.settings.clone());
    let mut routes = probe_routes(&state.probes, &access);
    let shared = Arc::new(Shared::new(state));
    routes.extend(routes::api_routes().into_iter().map(|route| route.with_state(&shared)));
    routes::assemble(with_pages(routes, &access, &settings), &access, &settings)
}

/// Serves health, readiness, metrics and their pages, for a process without the API; `why` says which process has it.
pub fn probes_router(probes: Probes, access: &Access, settings: &Arc<Settings>, why: &'static str) -> Router {
    let refuse = move || async move { Problem::new(StatusCode::NOT_FOUND, why) };
    let routes = with_pages(probe_routes(&probes, access), access, settings);
    routes::open(routes, access, settings)
        .route(&format!("{BASE}/{{*path}}"), any(refuse))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path."))
}

/// Serves a process whose backends are not open yet; `metrics` is for the admin listener only.
pub fn starting_router(probes: Probes, access: &Access, metrics: bool) -> Router {
    let mut routes = probe_routes(&probes, access);
    routes.retain(|route| metrics || route.audience == Audience::Anyone);
    routes::open(routes, access, &Arc::default()).fallback(async || {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The process is starting; send again later. /ready says more.")
            .with_retry_after(1)
    })
}

/// The OpenAPI document of a process that serves the API and requires tokens.
pub fn document() -> Value {
    let mut all: Vec<_> = routes::process_routes().iter().map(Route::info).collect();
    all.extend(routes::api_routes().iter().map(Route::info));
    all.extend(routes::page_routes().iter().map(Route::info));
    openapi::document(&all, true)
}

fn probe_routes(probes: &Probes, access: &Access) -> Vec<Route> {
    let state = (probes.clone(), access.clone());
    routes::process_routes().into_iter().map(|route| route.with_state(&state)).collect()
}

/// Adds the pages, which document the given routes.
fn with_pages(mut routes: Vec<Route>, access: &Access, settings: &Settings) -> Vec<Route> {
    let pages = routes::page_routes();
    let listed: Vec<_> = routes.iter().map(Route::info).chain(pages.iter().map(Route::info)).collect();
    let document = openapi::document(&listed, access.requires_tokens());
    let state = Arc::new(Pages::new(&document, settings.gateway_document.as_ref()));
    routes.extend(pages.into_iter().map(|route| route.with_state(&state)));
    routes
}
