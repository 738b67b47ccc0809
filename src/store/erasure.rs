//! What the store holds of a person, erased.
//!
//! Invariants: what goes is found by what the rows themselves say, each row judged whole; a call that is repeated goes on
//! where one before was cut off. A delivery that is being sent just now goes too, and its outcome is of nothing then.

use std::time::{Duration, Instant};

/// What a call erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedRecords {
    pub deliveries: u64,
    pub anomaly_records: u64,
    /// All were looked at. Otherwise the next call finds the rest.
    pub is_complete: bool,
}

/// The same of one table.
pub(super) struct ErasedRows {
    pub(super) rows: u64,
    pub(super) is_complete: bool,
}

/// How long a call erases. One that has not erased anything goes on: the next one would come no farther.
#[derive(Clone, Copy)]
pub(super) struct TimeBudget {
    began: Instant,
    time_max: Duration,
}

impl TimeBudget {
    pub(super) fn new(time_max: Duration) -> Self {
        Self { began: Instant::now(), time_max }
    }

    pub(super) fn is_exhausted(self, erased: u64) -> bool {
        erased > 0 && self.began.elapsed() >= self.time_max
    }
}
