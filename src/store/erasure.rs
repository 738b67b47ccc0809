//! Erases a person's data from the store.
//!
//! Invariants: rows are found by their own content, each checked as a whole; a repeated call continues where the last
//! one stopped. A delivery in flight is erased too, and its outcome is then ignored.

use std::time::{Duration, Instant};

/// What one call erased.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasedRecords {
    pub deliveries: u64,
    pub anomaly_records: u64,
    /// Everything was scanned. Otherwise, the next call finds the rest.
    pub is_complete: bool,
}

/// The same for one table.
pub(super) struct ErasedRows {
    pub(super) rows: u64,
    pub(super) is_complete: bool,
}

/// How long a call may take. A call that has erased nothing yet continues, because the next one would get no further.
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
