//! Erasing a person's data.

use std::time::Duration;

use super::store::{Inner, Store};
use crate::event::Person;
use crate::store::erasure::{ErasedRecords, TimeBudget};
use crate::store::error::StoreError;

impl Store {
    /// Erases the deliveries, whatever became of them, the anomaly events and what is owed to the bus that are of events of
    /// this person, and the windows that are measured for them. In transactions of a bounded size, until this time is over.
    pub async fn erase_person(&self, person: &Person, time_max: Duration) -> Result<ErasedRecords, StoreError> {
        let budget = TimeBudget::new(time_max);
        match &self.0 {
            Inner::Sqlite(engine) => engine.erase_person(person, budget).await,
            Inner::Postgres(engine) => engine.erase_person(person, budget).await,
        }
    }

    /// Leaves nothing of what was erased in files of this process. False when a reader does not let it.
    pub async fn wipe(&self) -> Result<bool, StoreError> {
        match &self.0 {
            Inner::Sqlite(engine) => engine.wipe().await,
            // What is dead there is the server's to vacuum.
            Inner::Postgres(_) => Ok(true),
        }
    }
}
