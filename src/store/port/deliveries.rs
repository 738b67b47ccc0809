//! Deliveries: claiming, finishing, listing and retrying them.

use uuid::Uuid;

use super::store::{Inner, Store};
use crate::metrics;
use crate::store::delivery::{
    AbandonedDeliveries, BacklogLimits, ClaimLimits, Delivery, DeliveryFilter, DeliveryOutcome, RetryFilter,
};
use crate::store::error::StoreError;
use crate::store::page::{Page, PageRequest};

impl Store {
    /// Takes due deliveries of enabled webhooks as `in_progress` until the lease ends; a lease that ended makes a
    /// delivery due again. Each webhook's oldest come first, and every webhook has its first before any has its second.
    pub async fn claim_due_deliveries(&self, limits: ClaimLimits) -> Result<Vec<Delivery>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.claim_due_deliveries(limits).await,
            Inner::Postgres(engine) => engine.claim_due_deliveries(limits).await,
        }
    }

    /// When the earliest pending delivery becomes due, or an in-progress one's lease ends, milliseconds since the epoch;
    /// of enabled webhooks that are not in `skip`.
    pub async fn next_due_ms(&self, skip: &[Uuid]) -> Result<Option<i64>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.next_due_ms(skip).await,
            Inner::Postgres(engine) => engine.next_due_ms(skip).await,
        }
    }

    /// Gives claimed deliveries back that were not sent: they are due at once, and their attempts are not counted.
    pub async fn release_deliveries(&self, ids: Vec<Uuid>) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.release_deliveries(ids).await,
            Inner::Postgres(engine) => engine.release_deliveries(ids).await,
        }
    }

    /// Gives up what waits too long or too much for webhooks that are disabled: what is too many is deleted, what is
    /// too old becomes `cancelled`; both count. Answers how many.
    pub async fn trim_backlog(&self, bounds: BacklogLimits) -> Result<u64, StoreError> {
        let given_up = match &self.0 {
            Inner::Sqlite(engine) => engine.trim_backlog(bounds).await,
            Inner::Postgres(engine) => engine.trim_backlog(bounds).await,
        }?;
        metrics::store_given_up(given_up);
        Ok(given_up)
    }

    /// Disabled webhooks that have lost deliveries since they were disabled.
    pub async fn abandoned_deliveries(&self) -> Result<Vec<AbandonedDeliveries>, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.abandoned_deliveries().await,
            Inner::Postgres(engine) => engine.abandoned_deliveries().await,
        }
    }

    /// Records what became of attempts; group-committed.
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

    /// Makes a failed, dead or cancelled delivery due now, its attempts counted anew. `NotFound`; `NotRetryable` otherwise.
    pub async fn retry_delivery(&self, id: Uuid) -> Result<Delivery, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.retry_delivery(id).await,
            Inner::Postgres(engine) => engine.retry_delivery(id).await,
        }
    }

    /// Makes up to [`RETRIES_MAX`] of the failed and dead deliveries that match due now, the oldest first, their
    /// attempts counted anew; answers how many. Those whose webhook is gone are left alone.
    pub async fn retry_deliveries(&self, filter: RetryFilter) -> Result<u64, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.retry_deliveries(filter).await,
            Inner::Postgres(engine) => engine.retry_deliveries(filter).await,
        }
    }

    /// Forgets a delivery; one that is owed is not sent any more. False when there is none.
    pub async fn delete_delivery(&self, id: Uuid) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.delete_delivery(id).await,
            Inner::Postgres(engine) => engine.delete_delivery(id).await,
        }
    }
}
