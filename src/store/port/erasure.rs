//! Erasing a person's data.

use std::time::Duration;

use super::store::{Inner, Store};
use crate::event::Person;
use crate::store::erasure::{ErasedRecords, TimeBudget};
use crate::store::error::StoreError;

impl Store {
    /// Erases the person's deliveries in any status, anomaly events, outbox messages and windows. It uses transactions
    /// of a bounded size and stops when `time_max` is over.
    pub async fn erase_person(&self, person: &Person, time_max: Duration) -> Result<ErasedRecords, StoreError> {
        let budget = TimeBudget::new(time_max);
        match &self.0 {
            Inner::Sqlite(engine) => engine.erase_person(person, budget).await,
            Inner::Postgres(engine) => engine.erase_person(person, budget).await,
        }
    }

    /// Removes leftovers of erased rows from files of this process. False if a reader prevents it.
    pub async fn wipe(&self) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.wipe().await,
            // The server vacuums dead rows itself.
            Inner::Postgres(_) => Ok(true),
        }
    }
}
