//! Deliveries: what webhooks are and were owed.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use uuid::Uuid;

use super::Shared;
use super::query::{Key, Params};
use super::refusal::{bad_query, not_found, of_store};
use crate::http::Problem;
use crate::store::{Delivery, DeliveryFilter, Page};

pub(super) async fn list(
    State(shared): State<Arc<Shared>>,
    mut params: Params,
) -> Result<Json<Page<Delivery>>, Problem> {
    let store = &shared.state.store;
    let webhook_id = match params.text("webhook_id") {
        None => None,
        Some(key) => Some(id_or(&key, "webhook_id", store.webhook(&key).await.map_err(of_store)?.map(|w| w.id))?),
    };
    let rule_id = match params.text("rule_id") {
        None => None,
        Some(key) => Some(id_or(&key, "rule_id", store.rule(&key).await.map_err(of_store)?.map(|r| r.id))?),
    };
    let filter =
        DeliveryFilter { status: params.word("status")?, webhook_id, rule_id, event_id: params.text("event_id") };
    store.deliveries(filter, params.page()?).await.map(Json).map_err(of_store)
}

pub(super) async fn show(State(shared): State<Arc<Shared>>, Key(key): Key) -> Result<Json<Delivery>, Problem> {
    let id = Uuid::try_parse(&key).map_err(|_| not_found())?;
    shared.state.store.delivery(id).await.map_err(of_store)?.map(Json).ok_or_else(not_found)
}

pub(super) async fn delete(State(shared): State<Arc<Shared>>, Key(key): Key) -> Result<StatusCode, Problem> {
    let id = Uuid::try_parse(&key).map_err(|_| not_found())?;
    let deleted = shared.state.store.delete_delivery(id).await.map_err(of_store)?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

pub(super) async fn retry(State(shared): State<Arc<Shared>>, Key(key): Key) -> Result<Json<Delivery>, Problem> {
    let id = Uuid::try_parse(&key).map_err(|_| not_found())?;
    shared.state.store.retry_delivery(id).await.map(Json).map_err(of_store)
}

/// A filter by a document: the one that was found, or an id, whose document may be gone by now.
pub(super) fn id_or(key: &str, name: &str, found: Option<Uuid>) -> Result<Uuid, Problem> {
    found
        .or_else(|| Uuid::try_parse(key).ok())
        .ok_or_else(|| bad_query(name, "is neither an id nor the name of one that exists"))
}
