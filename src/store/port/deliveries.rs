//! Deliveries: claim, finish, list and retry.

use uuid::Uuid;

use super::store::{Inner, Store};
use crate::metrics;
use crate::store::delivery::{
    AbandonedDeliveries, BacklogLimits, ClaimLimits, Delivery, DeliveryFilter, DeliveryOutcome, RetryFilter,
};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    /// Claims due deliveries of enabled webhooks: they are `in_progress` until the lease expires, and then due again.
    /// Each webhook's oldest come first, and every webhook gets its first delivery before any gets its second.
    pub async fn claim_due_deliveries(&self, limits: ClaimLimits) -> Result<Vec<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.claim_due_deliveries(limits).await,
            Inner::Postgres(engine) => engine.claim_due_deliveries(limits).await,
        }
    }

    /// When the next pending delivery becomes due or the next lease expires, in milliseconds since the epoch, among
    /// enabled webhooks that are not in `skip`.
    pub async fn next_due_ms(&self, skip: &[Uuid]) -> Result<Option<i64>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.next_due_ms(skip).await,
            Inner::Postgres(engine) => engine.next_due_ms(skip).await,
        }
    }

    /// Releases claimed deliveries that were not sent: they are due immediately, and the attempt is not counted.
    pub async fn release_deliveries(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.release_deliveries(ids).await,
            Inner::Postgres(engine) => engine.release_deliveries(ids).await,
        }
    }

    /// Enforces the backlog limits of disabled webhooks: deliveries beyond the count are deleted, those that are too
    /// old become `cancelled`. Both are counted as abandoned; returns how many.
    pub async fn trim_backlog(&self, bounds: BacklogLimits) -> Result<u64, StoreError> {
        let abandoned = match &self.0 {
            Inner::Sqlite(engine) => engine.trim_backlog(bounds).await,
            Inner::Postgres(engine) => engine.trim_backlog(bounds).await,
        }?;
        metrics::store_given_up(abandoned);
        Ok(abandoned)
    }

    /// Disabled webhooks that have lost deliveries since they were disabled.
    pub async fn abandoned_deliveries(&self) -> Result<Vec<AbandonedDeliveries>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.abandoned_deliveries().await,
            Inner::Postgres(engine) => engine.abandoned_deliveries().await,
        }
    }

    /// Records the outcomes of attempts; group-committed.
    pub async fn finish_deliveries(&self, outcomes: Vec<DeliveryOutcome>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.finish_deliveries(outcomes).await,
            Inner::Postgres(engine) => engine.finish_deliveries(outcomes).await,
        }
    }

    pub async fn delivery(&self, id: Uuid) -> Result<Option<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delivery(id).await,
            Inner::Postgres(engine) => engine.delivery(id).await,
        }
    }

    /// Newest first.
    pub async fn deliveries(&self, filter: DeliveryFilter, page: PageRequest) -> Result<Page<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.deliveries(filter, page).await,
            Inner::Postgres(engine) => engine.deliveries(filter, page).await,
        }
    }

    /// Makes a failed, dead-lettered or cancelled delivery due now and resets its attempts. Errors: `NotFound`,
    /// `NotRetryable`.
    pub async fn retry_delivery(&self, id: Uuid) -> Result<Delivery, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.retry_delivery(id).await,
            Inner::Postgres(engine) => engine.retry_delivery(id).await,
        }
    }

    /// Makes up to [`RETRIES_MAX`] matching failed and dead-lettered deliveries due now, oldest first, and resets their
    /// attempts; returns how many. Skips those whose webhook was deleted.
    pub async fn retry_deliveries(&self, filter: RetryFilter) -> Result<u64, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.retry_deliveries(filter).await,
            Inner::Postgres(engine) => engine.retry_deliveries(filter).await,
        }
    }

    /// Deletes a delivery; a pending one is no longer sent. False if there is none.
    pub async fn delete_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_delivery(id).await,
            Inner::Postgres(engine) => engine.delete_delivery(id).await,
        }
    }
}
