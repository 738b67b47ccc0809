//! Health, readiness, metrics and status of the process.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::admin::access::Access;
use crate::admin::access::peer_of;
use crate::admin::state::{Probes, Shared};

pub(in crate::admin) async fn health() -> Response {
    uncached(StatusCode::OK, json!({"status": "ok"}))
}

/// Unauthenticated callers learn whether the process is ready but not why: server names and failures help an attacker.
pub(in crate::admin) async fn ready(State((probes, access)): State<(Probes, Access)>, request: Request) -> Response {
    let (ready, mut document) = (probes.ready)();
    if !access.shows_details(request.headers(), peer_of(request.extensions())).await {
        document = json!({"status": document["status"]});
    }
    uncached(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, document)
}

pub(in crate::admin) async fn metrics(State((probes, _)): State<(Probes, Access)>) -> Response {
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], (probes.metrics)()).into_response()
}

/// Reports as much as is known: a port that fails is reported with its error.
pub(in crate::admin) async fn status(State(shared): State<Arc<Shared>>) -> Response {
    let mut document = (shared.state.probes.status)();
    let (bus, store) = tokio::join!(shared.state.bus.status(), shared.state.store.status());
    if let Some(members) = document.as_object_mut() {
        let mut bus = status_or_error(bus);
        let consumers = bus.as_object_mut().and_then(|bus| bus.remove("consumers"));
        members.insert("bus".to_owned(), bus);
        members.insert("store".to_owned(), status_or_error(store));
        members.insert("consumers".to_owned(), consumers.unwrap_or_default());
    }
    uncached(StatusCode::OK, document)
}

fn status_or_error<T: serde::Serialize, E: std::fmt::Display>(status: Result<T, E>) -> Value {
    match status {
        Ok(status) => serde_json::to_value(status).unwrap_or_default(),
        Err(error) => json!({"error": error.to_string()}),
    }
}

fn uncached(status: StatusCode, document: Value) -> Response {
    (status, [(CACHE_CONTROL, "no-store")], Json(document)).into_response()
}
