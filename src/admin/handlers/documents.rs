//! Webhooks, rules and anomaly configs: the same methods for three kinds of documents.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use crate::admin::audited_store::AuditedStore;
use crate::admin::input::body::{merge, read_json};
use crate::admin::input::query::{Params, PathKey};
use crate::admin::problem::{invalid, not_found, store_problem};
use crate::admin::resource::{Resource, validate};
use crate::admin::route::BASE;
use crate::admin::state::Shared;
use crate::base::backoff::{Backoff, random_unit};
use crate::http::Problem;
use crate::store::{Audited as _, StoreErrorKind};

/// Retries of a patch whose document another process changed in the meantime.
const PATCH_RETRIES_MAX: u32 = 16;
/// The random delay keeps two processes from colliding again and again.
const PATCH_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(2), multiplier: 2.0, max: Duration::from_millis(100) };

pub(in crate::admin) async fn list<R: Resource>(
    State(shared): State<Arc<Shared>>,
    params: Params,
) -> Result<Response, Problem> {
    let page = shared.state.store.list::<R>(params.page()?).await.map_err(store_problem)?;
    Ok(Json(page).into_response())
}

pub(in crate::admin) async fn create<R: Resource>(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    request: Request,
) -> Result<Response, Problem> {
    let new: R = read(read_json(request).await?, None, &shared).await?;
    let stored = store.create(new).await.map_err(store_problem)?;
    let location = format!("{BASE}/{}/{}", R::PLURAL, stored.id());
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(stored)).into_response())
}

pub(in crate::admin) async fn show<R: Resource>(
    State(shared): State<Arc<Shared>>,
    PathKey(key): PathKey,
) -> Result<Response, Problem> {
    let stored = shared.state.store.find::<R>(&key).await.map_err(store_problem)?.ok_or_else(not_found)?;
    Ok(Json(stored).into_response())
}

pub(in crate::admin) async fn replace<R: Resource>(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
    request: Request,
) -> Result<Response, Problem> {
    let document = read_json(request).await?;
    let _patching = shared.patching.lock().await;
    let id = match document.get("id") {
        None => None,
        Some(_) => {
            let stored = shared.state.store.find::<R>(&key).await.map_err(store_problem)?.ok_or_else(not_found)?;
            Some(stored.id().to_string())
        }
    };
    let new: R = read(document, id, &shared).await?;
    Ok(Json(store.replace(&key, new, None).await.map_err(store_problem)?).into_response())
}

pub(in crate::admin) async fn patch<R: Resource>(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
    request: Request,
) -> Result<Response, Problem> {
    let patch = read_json(request).await?;
    let _patching = shared.patching.lock().await;
    let mut attempt = 0;
    loop {
        let stored = shared.state.store.find::<R>(&key).await.map_err(store_problem)?.ok_or_else(not_found)?;
        let id = stored.id().to_string();
        let mut document = serde_json::to_value(&stored)
            .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The stored document cannot be written."))?;
        merge(&mut document, patch.clone());
        let new: R = read(document, Some(id.clone()), &shared).await?;
        // By id, because the patch may change the name.
        match store.replace(&id, new, Some(R::updated_at(&stored))).await {
            // Another process was first: its change stays, and this patch is applied on top of it.
            Err(error) if error.kind == StoreErrorKind::Changed && attempt < PATCH_RETRIES_MAX => {
                attempt += 1;
                tokio::time::sleep(PATCH_BACKOFF.delay(attempt, random_unit())).await;
            }
            done => return Ok(Json(done.map_err(store_problem)?).into_response()),
        }
    }
}

pub(in crate::admin) async fn delete<R: Resource>(
    State(shared): State<Arc<Shared>>,
    AuditedStore(store): AuditedStore,
    PathKey(key): PathKey,
) -> Result<StatusCode, Problem> {
    let _patching = shared.patching.lock().await;
    match store.delete::<R>(&key).await.map_err(store_problem)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found()),
    }
}

/// Reads and checks a document, which must not carry another id than `id`. Compiling it may take long, so it runs on
/// blocking threads, a few at a time.
async fn read<R: Resource>(document: Value, id: Option<String>, shared: &Shared) -> Result<R, Problem> {
    let closed = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The process is stopping.");
    let permit = shared.checking.clone().acquire_owned().await.map_err(closed)?;
    let checks = shared.state.checks;
    let checked = tokio::task::spawn_blocking(move || {
        // Held until the check ends, even when the caller has gone away.
        let _permit = permit;
        validate(document, id.as_deref(), &checks).into_result()
    });
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The document could not be checked.");
    checked.await.map_err(failed)?.map_err(invalid)
}
