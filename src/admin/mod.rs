//! The admin listener's service: health, readiness, metrics and the REST API over the
//! store and the dead letters.
//!
//! Invariants: a refused request stores nothing; a secret never leaves; an error is a
//! problem document that does not repeat the request's values. Knows nothing of how rules
//! are compiled: whether a document makes sense is asked of the checks that it is given.

mod access;
mod anomaly_events;
mod apply;
mod attempts;
mod audit;
mod dead_letters;
mod deliveries;
mod document;
mod documents;
mod erasures;
mod form;
mod guard;
mod keys;
mod openapi;
mod pages;
mod probes;
mod query;
mod refusal;
mod refused;
mod routes;
mod service;
#[cfg(test)]
mod tests;
mod tokens;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use serde_json::Value;

use crate::bus::Bus;
use crate::event::FieldError;
use crate::http::Problem;
use crate::quarantine::ReadSettings;
use crate::store::{NewAnomalyConfig, NewRule, NewWebhook, Store};

use pages::Pages;
use routes::Route;

pub use access::{Access, AccessSettings};
pub use service::AdminService;

/// The path that every resource is under.
const BASE: &str = "/api/admin";

/// What the admin API works on. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub bus: Bus,
    pub store: Store,
    pub checks: Checks,
    pub settings: Arc<Settings>,
    pub access: Access,
    pub probes: Probes,
}

/// What the process says of itself. Cheap to clone.
#[derive(Clone)]
pub struct Probes {
    /// Whether the process takes traffic, and the document that says why.
    pub ready: Arc<dyn Fn() -> (bool, Value) + Send + Sync>,
    /// All metrics as Prometheus text.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
    /// Version, roles, uptime, backends, open batches: an object.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
}

/// What makes a readable document wrong, by those who will have to work with it.
#[derive(Clone, Copy)]
pub struct Checks {
    pub rule: fn(&NewRule) -> Vec<FieldError>,
    pub anomaly: fn(&NewAnomalyConfig) -> Vec<FieldError>,
    pub webhook: fn(&NewWebhook) -> Vec<FieldError>,
}

#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The listener is bound to loopback: only names of this machine are answered, so that a web page
    /// whose name resolves to 127.0.0.1 is not.
    pub loopback: bool,
    /// Host names, without port, that are answered and may send requests from their pages all the same.
    pub allowed_hosts: Vec<String>,
    /// The OpenAPI document of the gateway, for the page that shows it beside that of this API.
    pub gateway_document: Option<Value>,
    /// By which refused input is read again.
    pub replays: ReadSettings,
}

/// The whole service of the admin listener.
pub fn router(state: State) -> Router {
    let (access, settings) = (state.access.clone(), state.settings.clone());
    let mut routes = of_process(&state.probes, &access);
    let shared = Arc::new(Shared::new(state));
    routes.extend(routes::of_api().into_iter().map(|route| route.over(&shared)));
    routes::assemble(with_pages(routes, &access, &settings), &access, &settings)
}

/// Health, readiness and metrics, and the pages about them, of a process that does not serve the API; `why` says who
/// does.
pub fn probes_router(probes: Probes, access: &Access, settings: &Arc<Settings>, why: &'static str) -> Router {
    let refuse = move || async move { Problem::new(StatusCode::NOT_FOUND, why) };
    let routes = with_pages(of_process(&probes, access), access, settings);
    routes::open(routes, access, settings)
        .route(&format!("{BASE}/{{*path}}"), any(refuse))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path."))
}

/// Of a process whose backends are not open yet; `metrics` for the admin listener alone.
pub fn starting_router(probes: Probes, access: &Access, metrics: bool) -> Router {
    let mut routes = of_process(&probes, access);
    routes.retain(|route| metrics || route.least == routes::Least::Anyone);
    routes::open(routes, access, &Arc::default()).fallback(async || {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The process is starting; send again later. /ready says more.")
            .with_retry_after(1)
    })
}

/// The OpenAPI document of a process that serves the API and asks for tokens.
pub fn document() -> Value {
    let mut all: Vec<_> = routes::of_process().iter().map(Route::listed).collect();
    all.extend(routes::of_api().iter().map(Route::listed));
    all.extend(routes::of_pages().iter().map(Route::listed));
    openapi::document(&all, true)
}

fn of_process(probes: &Probes, access: &Access) -> Vec<Route> {
    let state = (probes.clone(), access.clone());
    routes::of_process().into_iter().map(|route| route.over(&state)).collect()
}

/// Adds the pages, which tell of the routes that there are.
fn with_pages(mut routes: Vec<Route>, access: &Access, settings: &Settings) -> Vec<Route> {
    let pages = routes::of_pages();
    let listed: Vec<_> = routes.iter().map(Route::listed).chain(pages.iter().map(Route::listed)).collect();
    let document = openapi::document(&listed, access.asks_for_tokens());
    let state = Arc::new(Pages::new(&document, settings.gateway_document.as_ref()));
    routes.extend(pages.into_iter().map(|route| route.over(&state)));
    routes
}

/// The state, and what requests share beside it.
struct Shared {
    state: State,
    /// Held from reading a stored document to replacing it, so that requests of this process do not get in each
    /// other's way. What another process changes meanwhile, the store notices.
    patching: tokio::sync::Mutex<()>,
    /// Held while a set of documents is checked and applied: they are large, and one at a time is enough.
    applying: tokio::sync::Mutex<()>,
    /// Held while somebody's data is looked for and erased, which reads all that there is.
    erasing: tokio::sync::Mutex<()>,
    /// Documents that are checked at once.
    checking: Arc<tokio::sync::Semaphore>,
}

/// Documents that are checked at once: each may keep a processor busy for a while.
const CHECKS_MAX: usize = 2;

impl Shared {
    fn new(state: State) -> Self {
        let checking = Arc::new(tokio::sync::Semaphore::new(CHECKS_MAX));
        let one = || tokio::sync::Mutex::new(());
        Self { state, patching: one(), applying: one(), erasing: one(), checking }
    }
}
