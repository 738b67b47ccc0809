//! Deliveries to webhooks: list, show, retry and delete.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::admin::audited_store::AuditedStore;
use crate::admin::input::body::read_json;
use crate::admin::input::decode::decode;
use crate::admin::input::query::{self, Params, PathKey};
use crate::admin::problem::{bad_query, invalid, not_found, store_problem};
use crate::admin::state::Shared;
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{Delivery, DeliveryFilter, DeliveryStatus, NewRule, NewWebhook, Page, RETRIES_MAX, RetryFilter};

pub(in crate::admin) async fn list(
    State(shared): State<Arc<Shared>>,
    mut params: Params,
) -> Result<Json<Page<Delivery>>, Problem> {
    let store = &shared.state.store;
    let webhook_id = match params.text("webhook_id") {
        None => None,
        Some(key) => {
            Some(id_or(&key, "webhook_id", store.find::<NewWebhook>(&key).await.map_err(store_problem)?.map(|w| w.id))?)
        }
    };
    let rule_id = match params.text("rule_id") {
        None => None,
        Some(key) => {
            Some(id_or(&key, "rule_id", store.find::<NewRule>(&key).await.map_err(store_problem)?.map(|r| r.id))?)
        }
    };
    let filter =
        DeliveryFilter { status: params.word("status")?, webhook_id, rule_id, event_id: params.text("event_id") };
    store.deliveries(filter, params.page()?).await.map(Json).map_err(store_problem)
}

pub(in crate::admin) async fn show(
    State(shared): State<Arc<Shared>>,
    PathKey(key): PathKey,
) -> Result<Json<Delivery>, Problem> {
    let id = Uuid::try_parse(&key).map_err(|_| not_found())?;
    shared.state.store.delivery(id).await.map_err(store_problem)?.map(Json).ok_or_else(not_found)
}

pub(in crate::admin) async fn delete(
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<StatusCode, Problem> {
    let id = Uuid::try_parse(&key).map_err(|_| not_found())?;
    let deleted = store.delete_delivery(id).await.map_err(store_problem)?;
    if deleted { Ok(StatusCode::NO_CONTENT) } else { Err(not_found()) }
}

pub(in crate::admin) async fn retry(
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<Json<Delivery>, Problem> {
    let id = Uuid::try_parse(&key).map_err(|_| not_found())?;
    store.retry_delivery(id).await.map(Json).map_err(store_problem)
}

/// Selects the deliveries to retry, as written by a person.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::admin) struct RetryRequest {
    /// Deliveries created since then.
    since: String,
    /// Deliveries created before then; now when absent.
    until: Option<String>,
    /// `failed` and `dead_letter` when absent.
    status: Option<DeliveryStatus>,
    webhook_id: Option<String>,
    rule_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Retried {
    retried: u64,
    /// There may be more deliveries than one call retries.
    more: bool,
}

pub(in crate::admin) async fn retry_all(
    AuditedStore(store): AuditedStore,
    request: Request,
) -> Result<Json<Retried>, Problem> {
    let (request, mut errors) =
        decode::<RetryRequest>(read_json(request).await?).check(RetryRequest::check).into_parts();
    let Some(request) = request else { return Err(invalid(errors)) };
    let mut found = |field: &str, key: &str, found: Option<Uuid>| {
        let id = found.or_else(|| Uuid::try_parse(key).ok());
        if id.is_none() && errors.iter().all(|error| error.pointer != field) {
            errors.push(FieldError::new(field, "is neither an id nor the name of one that exists"));
        }
        id
    };
    let webhook_id = match &request.webhook_id {
        None => None,
        Some(key) => {
            let webhook = store.find::<NewWebhook>(key).await.map_err(store_problem)?;
            found("/webhook_id", key, webhook.map(|webhook| webhook.id))
        }
    };
    let rule_id = match &request.rule_id {
        None => None,
        Some(key) => {
            found("/rule_id", key, store.find::<NewRule>(key).await.map_err(store_problem)?.map(|rule| rule.id))
        }
    };
    if !errors.is_empty() {
        return Err(invalid(errors));
    }
    let filter = RetryFilter {
        since_ms: query::time_ms(&request.since).unwrap_or(i64::MAX),
        until_ms: request.until.as_deref().and_then(query::time_ms).unwrap_or(i64::MAX),
        statuses: request
            .status
            .map_or(vec![DeliveryStatus::Failed, DeliveryStatus::DeadLetter], |status| vec![status]),
        webhook_id,
        rule_id,
    };
    let retried = store.retry_deliveries(filter).await.map_err(store_problem)?;
    Ok(Json(Retried { retried, more: retried == RETRIES_MAX }))
}

impl RetryRequest {
    fn check(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let since = query::time_ms(&self.since);
        let until = self.until.as_deref().map(query::time_ms);
        if since.is_none() {
            errors.push(FieldError::new("/since", query::invalid_time()));
        }
        match (since, until) {
            (_, Some(None)) => errors.push(FieldError::new("/until", query::invalid_time())),
            (Some(since), Some(Some(until))) if until < since => {
                errors.push(FieldError::new("/until", "must be after `since`: no delivery was created between them"));
            }
            _ => {}
        }
        if self.status.is_some_and(|status| !status.is_retryable()) {
            errors.push(FieldError::new("/status", "must be failed, dead_letter or cancelled"));
        }
        errors
    }
}

/// Resolves a filter by document: the id of the document that was found, or the given id, whose document may be gone.
pub(in crate::admin) fn id_or(key: &str, name: &str, found: Option<Uuid>) -> Result<Uuid, Problem> {
    found
        .or_else(|| Uuid::try_parse(key).ok())
        .ok_or_else(|| bad_query(name, "is neither an id nor the name of one that exists"))
}
