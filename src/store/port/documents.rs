//! Documents: webhooks, rules and anomaly configs. A `key` is an id or a name.

use jiff::Timestamp;
use uuid::Uuid;

use super::store::{Inner, Store};
use crate::store::documents::{AppliedSet, Document, DocumentFaults, DocumentSet};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    /// Errors: `NameTaken`, `NoSecretToKeep`, and `UnknownWebhooks` with the indexes into `actions.webhooks`, which are
    /// stored as ids.
    pub(crate) async fn create<D: Document>(&self, new: D) -> Result<D::Stored, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.create(new).await,
            Inner::Postgres(engine) => engine.create(new).await,
        }
    }

    pub(crate) async fn find<D: Document>(&self, key: &str) -> Result<Option<D::Stored>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.find::<D>(key).await,
            Inner::Postgres(engine) => engine.find::<D>(key).await,
        }
    }

    pub(crate) async fn list<D: Document>(&self, page: PageRequest) -> Result<Page<D::Stored>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.list::<D>(page).await,
            Inner::Postgres(engine) => engine.list::<D>(page).await,
        }
    }

    /// Errors: those of [`Self::create`], `NotFound`, and `Changed` if `as_of` is not the stored `updated_at`, which every
    /// change increases: another writer changed it since it was read. A secret of `"***"` keeps the stored one.
    pub(crate) async fn replace<D: Document>(
        &self,
        key: &str,
        new: D,
        as_of: Option<Timestamp>,
    ) -> Result<D::Stored, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.replace(key, new, as_of).await,
            Inner::Postgres(engine) => engine.replace(key, new, as_of).await,
        }
    }

    /// False if there is none. `InUse` if other documents call the webhook. Open deliveries of a webhook become
    /// `cancelled`; the state of an anomaly config is deleted.
    pub(crate) async fn delete<D: Document>(&self, key: &str) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete::<D>(key).await,
            Inner::Postgres(engine) => engine.delete::<D>(key).await,
        }
    }

    /// Sets `enabled = false`, because the endpoint answered 410.
    pub async fn disable_webhook(&self, id: Uuid, reason: &str) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.disable_webhook(id, reason).await,
            Inner::Postgres(engine) => engine.disable_webhook(id, reason).await,
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
