//! Effects of events, anomalies, and the outbox of bus messages.

use uuid::Uuid;

use super::store::{Inner, Store};
use crate::store::documents::{AnomalyEvent, AnomalyState};
use crate::store::effects::{Cause, Effects, OutboxMessage, RecordOutcome};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    /// Which of these messages the consumer has already committed effects for, in order.
    pub async fn consumed(&self, consumer: &str, causes: &[Cause]) -> Result<Vec<Cause>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.consumed(consumer, causes).await,
            Inner::Postgres(engine) => engine.consumed(consumer, causes).await,
        }
    }

    /// Commits the effects of one batch. Refuses them all if those of any cause are already committed, or if any window
    /// changed since it was read.
    pub async fn record_effects(&self, effects: Effects) -> Result<RecordOutcome, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.record_effects(effects).await,
            Inner::Postgres(engine) => engine.record_effects(effects).await,
        }
    }

    pub async fn anomaly_states(&self, configs: &[Uuid]) -> Result<Vec<AnomalyState>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.anomaly_states(configs).await,
            Inner::Postgres(engine) => engine.anomaly_states(configs).await,
        }
    }

    pub async fn anomaly_events(
        &self,
        config: Option<Uuid>,
        app_id: Option<&str>,
        since_ms: Option<i64>,
        page: PageRequest,
    ) -> Result<Page<AnomalyEvent>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.anomaly_events(config, app_id, since_ms, page).await,
            Inner::Postgres(engine) => engine.anomaly_events(config, app_id, since_ms, page).await,
        }
    }

    pub async fn outbox(&self, limit: usize) -> Result<Vec<OutboxMessage>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.outbox(limit).await,
            Inner::Postgres(engine) => engine.outbox(limit).await,
        }
    }

    pub async fn remove_from_outbox(&self, ids: &[Uuid]) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.remove_from_outbox(ids).await,
            Inner::Postgres(engine) => engine.remove_from_outbox(ids).await,
        }
    }

    /// Deletes states that were not updated since then, and expired records: delivered deliveries after 7 days, others
    /// after 30, anomaly events after 90.
    pub async fn delete_expired(&self, before_ms: i64) -> Result<u64, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_expired(before_ms).await,
            Inner::Postgres(engine) => engine.delete_expired(before_ms).await,
        }
    }
}
