//! API keys. A key is shown only once, when it is created.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::audited_store::AuditedStore;
use crate::admin::input::body::{check_name, read_json};
use crate::admin::input::decode::decode;
use crate::admin::input::query::{Params, PathKey};
use crate::admin::problem::{invalid, not_found, store_problem};
use crate::admin::route::BASE;
use crate::admin::state::Shared;
use crate::event::{FieldError, is_app_id};
use crate::http::Problem;
use crate::store::{ApiKey, NewApiKey, Page};

/// The range of a key's own rate limits.
const LIMITS: RangeInclusive<u32> = 1..=1_000_000;

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Created {
    #[serde(flatten)]
    stored: ApiKey,
    key: String,
}

pub(in crate::admin) async fn list(
    State(shared): State<Arc<Shared>>,
    params: Params,
) -> Result<Json<Page<ApiKey>>, Problem> {
    shared.state.store.keys(params.page()?).await.map(Json).map_err(store_problem)
}

pub(in crate::admin) async fn show(
    State(shared): State<Arc<Shared>>,
    PathKey(key): PathKey,
) -> Result<Json<ApiKey>, Problem> {
    shared.state.store.key(&key).await.map_err(store_problem)?.map(Json).ok_or_else(not_found)
}

pub(in crate::admin) async fn create(AuditedStore(store): AuditedStore, request: Request) -> Result<Response, Problem> {
    let decoded = decode::<NewApiKey>(read_json(request).await?).check(|new| {
        let wrong_app = !is_app_id(&new.app_id);
        let of_app = || FieldError::new("/app_id", "must match [A-Za-z0-9][A-Za-z0-9._-]{0,127}");
        check_name(&new.name).into_iter().chain(wrong_app.then(of_app)).chain(check_use(new)).collect()
    });
    let new = decoded.into_result().map_err(invalid)?;
    let (stored, key) = store.create_key(new).await.map_err(store_problem)?;
    let headers = [(LOCATION, format!("{BASE}/keys/{}", stored.id)), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::CREATED, headers, Json(Created { stored, key })).into_response())
}

/// Checks the expiry and the rate limits of a new key.
fn check_use(new: &NewApiKey) -> Vec<FieldError> {
    let past = new.expires_at.is_some_and(|at| at <= Timestamp::now());
    let of_expiry = past.then(|| FieldError::new("/expires_at", "must be in the future"));
    let limits = [("/requests_per_second", new.requests_per_second), ("/burst", new.burst)];
    let wrong = limits.into_iter().filter(|(_, limit)| limit.is_some_and(|limit| !LIMITS.contains(&limit)));
    let of_limits = wrong.map(|(pointer, _)| FieldError::new(pointer, "must be from 1 to 1000000"));
    of_expiry.into_iter().chain(of_limits).collect()
}

pub(in crate::admin) async fn revoke(
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<StatusCode, Problem> {
    match store.revoke_key(&key).await.map_err(store_problem)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found()),
    }
}
