//! Webhooks, rules and anomaly configs as the API sees them: reading, checking and storing one kind of document.

use std::future::Future;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::input::body::{check_name, without_own};
use super::input::decode::{Decoded, decode};
use super::state::Checks;
use crate::event::FieldError;
use crate::store::{
    AnomalyConfig, NewAnomalyConfig, NewRule, NewWebhook, Page, PageRequest, Rule, Store, StoreError, Webhook,
    WebhookDocument,
};

/// One kind of document, as a person writes it.
pub(super) trait Resource: Sized + Send + Sync + 'static {
    type Stored: Serialize + Send;
    /// Its path segment.
    const PATH: &'static str;
    /// Whether a document with mistakes may still take part in a dry run: its replacement values must not be mistaken
    /// for secrets.
    const REHEARSED_IN_PARTS: bool;

    fn decode(document: Value) -> Decoded<Self>;
    fn name(&self) -> &str;
    fn check(&self, checks: &Checks) -> Vec<FieldError>;
    fn id(stored: &Self::Stored) -> Uuid;
    fn updated_at(stored: &Self::Stored) -> Timestamp;

    fn create(self, store: &Store) -> impl Future<Output = Result<Self::Stored, StoreError>> + Send;
    fn find(store: &Store, key: &str) -> impl Future<Output = Result<Option<Self::Stored>, StoreError>> + Send;
    fn list(store: &Store, page: PageRequest) -> impl Future<Output = Result<Page<Self::Stored>, StoreError>> + Send;
    /// Replaces the document. If `as_of` is given, only while it is still the stored version.
    fn replace(
        self,
        store: &Store,
        key: &str,
        as_of: Option<Timestamp>,
    ) -> impl Future<Output = Result<Self::Stored, StoreError>> + Send;
    fn delete(store: &Store, key: &str) -> impl Future<Output = Result<bool, StoreError>> + Send;
}

/// Decodes and checks a document, and collects all errors of what could be decoded.
pub(super) fn validate<R: Resource>(document: Value, id: Option<&str>, checks: &Checks) -> Decoded<R> {
    let (document, of_id) = without_own(document, id);
    // One error about a name is enough; the first check reports it.
    R::decode(document)
        .check(|_| Vec::from_iter(of_id))
        .check(|new| Vec::from_iter(check_name(new.name())))
        .check(|new| new.check(checks))
}

impl Resource for NewWebhook {
    type Stored = Webhook;
    const PATH: &'static str = "webhooks";
    const REHEARSED_IN_PARTS: bool = false;

    fn decode(document: Value) -> Decoded<Self> {
        decode::<WebhookDocument>(document).map(WebhookDocument::into_webhook)
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

    fn decode(document: Value) -> Decoded<Self> {
        decode(document)
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

    fn decode(document: Value) -> Decoded<Self> {
        decode(document)
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
