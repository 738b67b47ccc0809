//! Tokens of the admin API. A token is shown only once, when it is created.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, LOCATION};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::access::{FIRST_ADMIN, LOOPBACK};
use crate::admin::audited_store::AuditedStore;
use crate::admin::input::body::{check_name, read_json};
use crate::admin::input::decode::decode;
use crate::admin::input::query::{Params, PathKey};
use crate::admin::problem::{invalid, not_found, store_problem};
use crate::admin::route::BASE;
use crate::admin::state::Shared;
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{AdminToken, NewAdminToken, Page};

#[derive(Serialize, JsonSchema)]
pub(in crate::admin) struct Created {
    #[serde(flatten)]
    stored: AdminToken,
    token: String,
}

pub(in crate::admin) async fn list(
    State(shared): State<Arc<Shared>>,
    params: Params,
) -> Result<Json<Page<AdminToken>>, Problem> {
    shared.state.store.admin_tokens(params.page()?).await.map(Json).map_err(store_problem)
}

pub(in crate::admin) async fn show(
    State(shared): State<Arc<Shared>>,
    PathKey(key): PathKey,
) -> Result<Json<AdminToken>, Problem> {
    shared.state.store.admin_token(&key).await.map_err(store_problem)?.map(Json).ok_or_else(not_found)
}

pub(in crate::admin) async fn create(AuditedStore(store): AuditedStore, request: Request) -> Result<Response, Problem> {
    let decoded = decode::<NewAdminToken>(read_json(request).await?);
    let new = decoded.check(|new| check(new, Timestamp::now())).into_result().map_err(invalid)?;
    let (stored, token) = store.create_admin_token(new).await.map_err(store_problem)?;
    let headers = [(LOCATION, format!("{BASE}/tokens/{}", stored.id)), (CACHE_CONTROL, "no-store".to_owned())];
    Ok((StatusCode::CREATED, headers, Json(Created { stored, token })).into_response())
}

pub(in crate::admin) async fn revoke(
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<StatusCode, Problem> {
    match store.revoke_admin_token(&key).await.map_err(store_problem)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found()),
    }
}

fn check(new: &NewAdminToken, now: Timestamp) -> Vec<FieldError> {
    // The audit log uses these names for callers without a token of the store.
    let is_reserved = [FIRST_ADMIN, LOOPBACK, "-"].contains(&new.name.as_str());
    let reserved = is_reserved.then(|| FieldError::new("/name", "stands for somebody else in the audit log"));
    let past = new.expires_at.is_some_and(|at| at <= now);
    let past = past.then(|| FieldError::new("/expires_at", "must be in the future"));
    check_name(&new.name).into_iter().chain(reserved).chain(past).collect()
}
