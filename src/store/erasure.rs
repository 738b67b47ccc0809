//! What the store holds of a person, erased.
//!
//! Invariants: what goes is found by what the rows themselves say, each row judged whole; a call that is repeated goes on
//! where one before was cut off. A delivery that is being sent just now goes too, and its outcome is of nothing then.

use std::time::{Duration, Instant};

use super::{Inner, Store, StoreError};
use crate::event::Person;

/// What a call erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedRecords {
    pub deliveries: u64,
    pub anomaly_records: u64,
    /// All were looked at. Otherwise the next call finds the rest.
    pub is_whole: bool,
}

/// The same of one table.
pub(super) struct ErasedOfTable {
    pub(super) rows: u64,
    pub(super) is_whole: bool,
}

/// How long a call erases. One that has not erased anything goes on: the next one would come no farther.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    began: Instant,
    time_max: Duration,
}

impl Patience {
    pub(super) fn is_over(self, erased: u64) -> bool {
        erased > 0 && self.began.elapsed() >= self.time_max
    }
}

impl Store {
    /// Erases the deliveries, whatever became of them, the anomaly events and what is owed to the bus that are of events of
    /// this person, and the windows that are measured for them. In transactions of a bounded size, until this time is over.
    pub async fn erase_person(&self, person: &Person, time_max: Duration) -> Result<ErasedRecords, StoreError> {
        let patience = Patience { began: Instant::now(), time_max };
        match &self.0 {
            Inner::Sqlite(engine) => engine.erase_person(person, patience).await,
            Inner::Postgres(engine) => engine.erase_person(person, patience).await,
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
