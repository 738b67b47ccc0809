//! The admin listener's service: health, readiness, metrics and the REST API over the
//! store and the dead letters.
//!
//! Invariants: a refused request stores nothing; a secret never leaves; an error is a
//! problem document that does not repeat the request's values. Knows nothing of how rules
//! are compiled: whether a document makes sense is asked of the checks that it is given.

mod anomaly_events;
mod apply;
mod dead_letters;
mod deliveries;
mod document;
mod documents;
mod form;
mod guard;
mod keys;
mod probes;
mod query;
mod refusal;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::routing::{any, get, post};
use serde_json::Value;

use crate::bus::Bus;
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{NewAnomalyConfig, NewRule, NewWebhook, Store};

/// The path that every resource is under.
const BASE: &str = "/api/admin";

/// What the admin API works on. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub bus: Bus,
    pub store: Store,
    pub checks: Checks,
    pub settings: Arc<Settings>,
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
}

/// The whole service of the admin listener.
pub fn router(state: State) -> Router {
    let api = Router::new()
        .merge(documents::routes::<NewWebhook>())
        .merge(documents::routes::<NewRule>())
        .merge(documents::routes::<NewAnomalyConfig>())
        .route("/apply", post(apply::apply))
        .route("/deliveries", get(deliveries::list))
        .route("/deliveries/retry", post(deliveries::retry_all))
        .route("/deliveries/{id}", get(deliveries::show).delete(deliveries::delete))
        .route("/deliveries/{id}/retry", post(deliveries::retry))
        .route("/anomaly-events", get(anomaly_events::list))
        .route("/dead-letters", get(dead_letters::list).delete(dead_letters::purge))
        .route("/dead-letters/{id}", get(dead_letters::show).delete(dead_letters::delete))
        .route("/dead-letters/{id}/replay", post(dead_letters::replay))
        .route("/keys", get(keys::list).post(keys::create))
        .route("/keys/{id}", get(keys::show).delete(keys::revoke))
        .route("/status", get(probes::status))
        .layer(from_fn_with_state(state.settings.clone(), guard::admit));
    let probes = state.probes.clone();
    Router::new()
        .nest(BASE, api)
        .with_state(Arc::new(Shared::new(state)))
        .merge(probe_routes(probes))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path."))
        // The router itself adds the Allow header.
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "This resource does not have this method.")
        })
}

/// Health, readiness and metrics alone, of a process that does not serve the API; `why` says who does.
pub fn probes_router(probes: Probes, why: &'static str) -> Router {
    let refuse = move || async move { Problem::new(StatusCode::NOT_FOUND, why) };
    Router::new()
        .merge(probe_routes(probes))
        .route(&format!("{BASE}/{{*path}}"), any(refuse))
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "There is nothing at this path."))
}

/// Of a process whose backends are not open yet; `metrics` for the admin listener alone.
pub fn starting_router(probes: Probes, metrics: bool) -> Router {
    let own = match metrics {
        true => probe_routes(probes),
        false => readiness_routes().with_state(probes),
    };
    own.fallback(async || {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The process is starting; send again later. /ready says more.")
            .with_retry_after(1)
    })
}

/// Whatever the Host header says: whoever probes comes by an address or a service's name, and reads no secrets.
fn probe_routes(probes: Probes) -> Router {
    readiness_routes().route("/metrics", get(probes::metrics)).with_state(probes)
}

fn readiness_routes() -> Router<Probes> {
    Router::new().route("/health", get(probes::health)).route("/ready", get(probes::ready))
}

/// The state, and what requests share beside it.
struct Shared {
    state: State,
    /// Held from reading a stored document to replacing it, so that requests of this process do not get in each
    /// other's way. What another process changes meanwhile, the store notices.
    patching: tokio::sync::Mutex<()>,
    /// Held while a set of documents is checked and applied: they are large, and one at a time is enough.
    applying: tokio::sync::Mutex<()>,
    /// Documents that are checked at once.
    checking: Arc<tokio::sync::Semaphore>,
}

/// Documents that are checked at once: each may keep a processor busy for a while.
const CHECKS_MAX: usize = 2;

impl Shared {
    fn new(state: State) -> Self {
        let checking = Arc::new(tokio::sync::Semaphore::new(CHECKS_MAX));
        Self { state, patching: tokio::sync::Mutex::new(()), applying: tokio::sync::Mutex::new(()), checking }
    }
}
