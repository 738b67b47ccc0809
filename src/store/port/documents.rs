//! Webhooks, rules and anomaly configs. A `key` is an id or a name; `as_of` is described at [`Store::replace_webhook`].

use jiff::Timestamp;
use uuid::Uuid;

use super::store::{Inner, Store};
use crate::store::documents::{
    AnomalyConfig, AppliedSet, DocumentFaults, DocumentSet, NewAnomalyConfig, NewRule, NewWebhook, Rule, Webhook,
};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    pub async fn create_webhook(&self, new: NewWebhook) -> Result<Webhook, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_webhook(new).await,
            Inner::Postgres(engine) => engine.create_webhook(new).await,
        }
    }

    pub async fn webhook(&self, key: &str) -> Result<Option<Webhook>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.webhook(key).await,
            Inner::Postgres(engine) => engine.webhook(key).await,
        }
    }

    pub async fn webhooks(&self, page: PageRequest) -> Result<Page<Webhook>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.webhooks(page).await,
            Inner::Postgres(engine) => engine.webhooks(page).await,
        }
    }

    /// Errors: `NotFound`, `NameTaken`, and `Changed` if `as_of` is not the stored `updated_at`, which every change
    /// increases: another writer changed it since it was read. A secret of `"***"` keeps the stored one.
    pub async fn replace_webhook(
        &self,
        key: &str,
        new: NewWebhook,
        as_of: Option<Timestamp>,
    ) -> Result<Webhook, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace_webhook(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace_webhook(key, new, as_of).await,
        }
    }

    /// False if there is none. `InUse` if a rule or an anomaly config uses it. Its open deliveries become `cancelled`.
    pub async fn delete_webhook(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_webhook(key).await,
            Inner::Postgres(engine) => engine.delete_webhook(key).await,
        }
    }

    /// Sets `enabled = false`, because the endpoint answered 410.
    pub async fn disable_webhook(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.disable_webhook(id, reason).await,
            Inner::Postgres(engine) => engine.disable_webhook(id, reason).await,
        }
    }

    /// `UnknownWebhooks` has the indexes into `actions.webhooks`. Names are stored as ids.
    pub async fn create_rule(&self, new: NewRule) -> Result<Rule, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_document(new).await,
            Inner::Postgres(engine) => engine.create_document(new).await,
        }
    }

    pub async fn rule(&self, key: &str) -> Result<Option<Rule>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.document::<NewRule>(key).await,
            Inner::Postgres(engine) => engine.document::<NewRule>(key).await,
        }
    }

    pub async fn rules(&self, page: PageRequest) -> Result<Page<Rule>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.documents::<NewRule>(page).await,
            Inner::Postgres(engine) => engine.documents::<NewRule>(page).await,
        }
    }

    pub async fn replace_rule(&self, key: &str, new: NewRule, as_of: Option<Timestamp>) -> Result<Rule, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace_document(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace_document(key, new, as_of).await,
        }
    }

    pub async fn delete_rule(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_document::<NewRule>(key).await,
            Inner::Postgres(engine) => engine.delete_document::<NewRule>(key).await,
        }
    }

    pub async fn create_anomaly_config(&self, new: NewAnomalyConfig) -> Result<AnomalyConfig, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create_document(new).await,
            Inner::Postgres(engine) => engine.create_document(new).await,
        }
    }

    pub async fn anomaly_config(&self, key: &str) -> Result<Option<AnomalyConfig>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.document::<NewAnomalyConfig>(key).await,
            Inner::Postgres(engine) => engine.document::<NewAnomalyConfig>(key).await,
        }
    }

    pub async fn anomaly_configs(&self, page: PageRequest) -> Result<Page<AnomalyConfig>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.documents::<NewAnomalyConfig>(page).await,
            Inner::Postgres(engine) => engine.documents::<NewAnomalyConfig>(page).await,
        }
    }

    pub async fn replace_anomaly_config(
        &self,
        key: &str,
        new: NewAnomalyConfig,
        as_of: Option<Timestamp>,
    ) -> Result<AnomalyConfig, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace_document(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace_document(key, new, as_of).await,
        }
    }

    /// Also deletes its state.
    pub async fn delete_anomaly_config(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_document::<NewAnomalyConfig>(key).await,
            Inner::Postgres(engine) => engine.delete_document::<NewAnomalyConfig>(key).await,
        }
    }

    /// Creates or replaces each document of the set by its name, atomically. The error `Set` lists the faults of all
    /// documents. A `rehearsal` stores nothing and returns the outcomes it would have.
    pub async fn apply(&self, set: DocumentSet, rehearsal: bool) -> Result<AppliedSet, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.apply(set, rehearsal).await,
            Inner::Postgres(engine) => engine.apply(set, rehearsal).await,
        }
    }

    /// Adds to the faults of rules and anomaly configs, except for those that were changed or deleted in the meantime.
    pub async fn add_faults(&self, faults: Vec<DocumentFaults>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.add_faults(faults).await,
            Inner::Postgres(engine) => engine.add_faults(faults).await,
        }
    }
}
