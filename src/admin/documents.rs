//! Webhooks, rules and anomaly configs: the same methods over three kinds of documents.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::access::Acting;
use super::document::{check_name, merge, read_json, without_own};
use super::form::{Fitted, fit};
use super::query::{Key, Params};
use super::refusal::{not_found, of_store, wrong};
use super::{BASE, Checks, Shared};
use crate::base::backoff::{Backoff, random_unit};
use crate::event::FieldError;
use crate::http::Problem;
use crate::store::{
    AnomalyConfig, NewAnomalyConfig, NewRule, NewWebhook, Page, PageRequest, Rule, Store, StoreError, StoreErrorKind,
    Webhook, WebhookDocument,
};

/// Times that a patch is made anew because another process changed the document meanwhile.
const PATCH_RETRIES_MAX: u32 = 16;
/// Who waits a random while does not meet the same one again and again.
const PATCH_BACKOFF: Backoff =
    Backoff { initial: Duration::from_millis(2), multiplier: 2.0, max: Duration::from_millis(100) };

/// One kind of document, as a person writes it.
pub(super) trait Resource: Sized + Send + Sync + 'static {
    type Stored: Serialize + Send;
    /// The segment of the path.
    const PATH: &'static str;
    /// Whether one with mistakes can be asked of the store all the same: values of nobody's stand in for them, and none
    /// of them is taken for a secret.
    const REHEARSED_IN_PARTS: bool;

    fn fit(document: Value) -> Fitted<Self>;
    fn name(&self) -> &str;
    fn check(&self, checks: &Checks) -> Vec<FieldError>;
    fn id(stored: &Self::Stored) -> Uuid;
    fn updated_at(stored: &Self::Stored) -> Timestamp;

    fn create(self, store: &Store) -> impl Future<Output = Result<Self::Stored, StoreError>> + Send;
    fn find(store: &Store, key: &str) -> impl Future<Output = Result<Option<Self::Stored>, StoreError>> + Send;
    fn list(store: &Store, page: PageRequest) -> impl Future<Output = Result<Page<Self::Stored>, StoreError>> + Send;
    /// Only when it is still what `as_of` was the time of, if that is given.
    fn replace(
        self,
        store: &Store,
        key: &str,
        as_of: Option<Timestamp>,
    ) -> impl Future<Output = Result<Self::Stored, StoreError>> + Send;
    fn delete(store: &Store, key: &str) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

pub(super) async fn list<R: Resource>(State(shared): State<Arc<Shared>>, params: Params) -> Result<Response, Problem> {
    let page = R::list(&shared.state.store, params.page()?).await.map_err(of_store)?;
    Ok(Json(page).into_response())
}

pub(super) async fn create<R: Resource>(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    request: Request,
) -> Result<Response, Problem> {
    let new: R = read(read_json(request).await?, None, &shared).await?;
    let stored = new.create(&store).await.map_err(of_store)?;
    let location = format!("{BASE}/{}/{}", R::PATH, R::id(&stored));
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(stored)).into_response())
}

pub(super) async fn show<R: Resource>(State(shared): State<Arc<Shared>>, Key(key): Key) -> Result<Response, Problem> {
    let stored = R::find(&shared.state.store, &key).await.map_err(of_store)?.ok_or_else(not_found)?;
    Ok(Json(stored).into_response())
}

pub(super) async fn replace<R: Resource>(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    Key(key): Key,
    request: Request,
) -> Result<Response, Problem> {
    let document = read_json(request).await?;
    let _patching = shared.patching.lock().await;
    let id = match document.get("id") {
        None => None,
        Some(_) => {
            let stored = R::find(&shared.state.store, &key).await.map_err(of_store)?.ok_or_else(not_found)?;
            Some(R::id(&stored).to_string())
        }
    };
    let new: R = read(document, id, &shared).await?;
    Ok(Json(new.replace(&store, &key, None).await.map_err(of_store)?).into_response())
}

pub(super) async fn patch<R: Resource>(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    Key(key): Key,
    request: Request,
) -> Result<Response, Problem> {
    let patch = read_json(request).await?;
    let _patching = shared.patching.lock().await;
    let mut attempt = 0;
    loop {
        let stored = R::find(&shared.state.store, &key).await.map_err(of_store)?.ok_or_else(not_found)?;
        let id = R::id(&stored).to_string();
        let mut document = serde_json::to_value(&stored)
            .map_err(|_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The stored document cannot be written."))?;
        merge(&mut document, patch.clone());
        let new: R = read(document, Some(id.clone()), &shared).await?;
        // By id, for the patch may rename it.
        match new.replace(&store, &id, Some(R::updated_at(&stored))).await {
            // Another process was first: its change stays, and this one comes on top of it.
            Err(error) if error.kind == StoreErrorKind::Changed && attempt < PATCH_RETRIES_MAX => {
                attempt += 1;
                tokio::time::sleep(PATCH_BACKOFF.delay(attempt, random_unit())).await;
            }
            done => return Ok(Json(done.map_err(of_store)?).into_response()),
        }
    }
}

pub(super) async fn delete<R: Resource>(
    State(shared): State<Arc<Shared>>,
    Acting(store): Acting,
    Key(key): Key,
) -> Result<StatusCode, Problem> {
    let _patching = shared.patching.lock().await;
    match R::delete(&store, &key).await.map_err(of_store)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(not_found()),
    }
}

/// Reads and checks a document, which may have no other id than this one. Compiling what a person wrote may take long,
/// so it is done on threads that serve nobody, a few at once.
async fn read<R: Resource>(document: Value, id: Option<String>, shared: &Shared) -> Result<R, Problem> {
    let closed = |_| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "The process is stopping.");
    let permit = shared.checking.clone().acquire_owned().await.map_err(closed)?;
    let checks = shared.state.checks;
    let checked = tokio::task::spawn_blocking(move || {
        // Held to the end of the check, whether or not somebody still waits for it.
        let _permit = permit;
        judge(document, id.as_deref(), &checks).whole()
    });
    let failed = |_| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The document could not be checked.");
    checked.await.map_err(failed)?.map_err(wrong)
}

/// The document, and whatever is wrong with it: with its form, and with what could be read of it nevertheless.
pub(super) fn judge<R: Resource>(document: Value, id: Option<&str>, checks: &Checks) -> Fitted<R> {
    let (document, of_id) = without_own(document, id);
    // One thing to say of a name is enough, and the first check has it.
    R::fit(document)
        .check(|_| Vec::from_iter(of_id))
        .check(|new| Vec::from_iter(check_name(new.name())))
        .check(|new| new.check(checks))
}

impl Resource for NewWebhook {
    type Stored = Webhook;
    const PATH: &'static str = "webhooks";
    const REHEARSED_IN_PARTS: bool = false;

    fn fit(document: Value) -> Fitted<Self> {
        fit::<WebhookDocument>(document).map(WebhookDocument::into_webhook)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self, checks: &Checks) -> Vec<FieldError> {
        (checks.webhook)(self)
    }

    fn id(stored: &Webhook) -> Uuid {
        stored.id
    }

    fn updated_at(stored: &Webhook) -> Timestamp {
        stored.updated_at
    }

    async fn create(self, store: &Store) -> Result<Webhook, StoreError> {
        store.create_webhook(self).await
    }

    async fn find(store: &Store, key: &str) -> Result<Option<Webhook>, StoreError> {
        store.webhook(key).await
    }

    async fn list(store: &Store, page: PageRequest) -> Result<Page<Webhook>, StoreError> {
        store.webhooks(page).await
    }

    async fn replace(self, store: &Store, key: &str, as_of: Option<Timestamp>) -> Result<Webhook, StoreError> {
        store.replace_webhook(key, self, as_of).await
    }

    async fn delete(store: &Store, key: &str) -> Result<bool, StoreError> {
        store.delete_webhook(key).await
    }
}

impl Resource for NewRule {
    type Stored = Rule;
    const PATH: &'static str = "rules";
    const REHEARSED_IN_PARTS: bool = true;

    fn fit(document: Value) -> Fitted<Self> {
        fit(document)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self, checks: &Checks) -> Vec<FieldError> {
        (checks.rule)(self)
    }

    fn id(stored: &Rule) -> Uuid {
        stored.id
    }

    fn updated_at(stored: &Rule) -> Timestamp {
        stored.updated_at
    }

    async fn create(self, store: &Store) -> Result<Rule, StoreError> {
        store.create_rule(self).await
    }

    async fn find(store: &Store, key: &str) -> Result<Option<Rule>, StoreError> {
        store.rule(key).await
    }

    async fn list(store: &Store, page: PageRequest) -> Result<Page<Rule>, StoreError> {
        store.rules(page).await
    }

    async fn replace(self, store: &Store, key: &str, as_of: Option<Timestamp>) -> Result<Rule, StoreError> {
        store.replace_rule(key, self, as_of).await
    }

    async fn delete(store: &Store, key: &str) -> Result<bool, StoreError> {
        store.delete_rule(key).await
    }
}

impl Resource for NewAnomalyConfig {
    type Stored = AnomalyConfig;
    const PATH: &'static str = "anomalies";
    const REHEARSED_IN_PARTS: bool = true;

    fn fit(document: Value) -> Fitted<Self> {
        fit(document)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn check(&self, checks: &Checks) -> Vec<FieldError> {
        (checks.anomaly)(self)
    }

    fn id(stored: &AnomalyConfig) -> Uuid {
        stored.id
    }

    fn updated_at(stored: &AnomalyConfig) -> Timestamp {
        stored.updated_at
    }

    async fn create(self, store: &Store) -> Result<AnomalyConfig, StoreError> {
        store.create_anomaly_config(self).await
    }

    async fn find(store: &Store, key: &str) -> Result<Option<AnomalyConfig>, StoreError> {
        store.anomaly_config(key).await
    }

    async fn list(store: &Store, page: PageRequest) -> Result<Page<AnomalyConfig>, StoreError> {
        store.anomaly_configs(page).await
    }

    async fn replace(self, store: &Store, key: &str, as_of: Option<Timestamp>) -> Result<AnomalyConfig, StoreError> {
        store.replace_anomaly_config(key, self, as_of).await
    }

    async fn delete(store: &Store, key: &str) -> Result<bool, StoreError> {
        store.delete_anomaly_config(key).await
    }
}
