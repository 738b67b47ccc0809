//! The audit log, and the store on behalf of a caller.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::store::{Inner, Store};
use crate::store::audit::{AuditEntry, AuditFilter, AuditOutcome, AuditRecord, Caller, Change};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    /// The same store; its changes are recorded as made by this caller.
    pub fn on_behalf_of(&self, caller: Caller) -> Self {
        let caller = Some(Arc::new(caller));
        Self(match &self.0 {
            Inner::Sqlite(engine) => Inner::Sqlite(engine.on_behalf_of(caller)),
            Inner::Postgres(engine) => Inner::Postgres(engine.on_behalf_of(caller)),
        })
    }

    fn caller(&self) -> Option<Arc<Caller>> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.caller(),
            Inner::Postgres(engine) => engine.caller(),
        }
    }

    /// Newest first.
    pub async fn audit(&self, filter: AuditFilter, page: PageRequest) -> Result<Page<AuditRecord>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.audit(filter, page).await,
            Inner::Postgres(engine) => engine.audit(filter, page).await,
        }
    }

    /// Records a change that is about to be made outside the store. Returns the id for [`Self::finish_audit`], or
    /// `None` without a caller.
    pub async fn begin_audit(&self, change: Change) -> Result<Option<i64>, StoreError> {
        match self.caller() {
            None => Ok(None),
            Some(caller) => self.add_audit(change.entry(&caller, AuditOutcome::Started)).await.map(Some),
        }
    }

    /// Records the outcome of such a change.
    pub async fn finish_audit(
        &self,
        id: Option<i64>,
        outcome: AuditOutcome,
        after: Option<Value>,
    ) -> Result<(), StoreError> {
        let Some(id) = id else { return Ok(()) };
        match &self.0 {
            Inner::Sqlite(engine) => engine.finish_audit(id, outcome, after).await,
            Inner::Postgres(engine) => engine.finish_audit(id, outcome, after).await,
        }
    }

    /// Adds a record that is not about a change of the store; returns its id.
    pub async fn add_audit(&self, entry: AuditEntry) -> Result<i64, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.add_audit(entry).await,
            Inner::Postgres(engine) => engine.add_audit(entry).await,
        }
    }

    /// Deletes records that are too old, and the oldest beyond the maximum; returns how many.
    pub async fn prune_audit(&self, age: Duration) -> Result<u64, StoreError> {
        let age_ms = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        match &self.0 {
            Inner::Sqlite(engine) => engine.prune_audit(age_ms).await,
            Inner::Postgres(engine) => engine.prune_audit(age_ms).await,
        }
    }
}
