//! Rows that the bus may have forgotten the leases of, until it is known whether their messages come again.
//!
//! When the connection to the bus breaks, or a stream is gone, what was fetched is no longer leased. Mostly it comes again,
//! and is given up here. When the stream has begun another life it never does: then these rows are all that is left of
//! events that were accepted, and they are written.
//!
//! Invariant: nothing that is kept is written before the life that its stream has now was seen. Awaits nothing.

use std::time::Instant;

use crate::bus::{LeaseState, Receipt};
use crate::warehouse::{Encoder, WarehouseError};

use super::batch::Batch;
use super::cold::Cold;
use super::lease::{DOUBT_PAUSE, Lease};

#[derive(Default)]
pub(super) struct Kept {
    batches: Vec<Batch>,
    cold: Vec<Cold>,
    looked_at: Option<Instant>,
}

impl Kept {
    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(|batch| batch.file.rows()).sum::<usize>()
            + self.cold.iter().map(Cold::rows).sum::<usize>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.memory_bytes).sum::<usize>()
            + self.cold.iter().map(Cold::memory_bytes).sum::<usize>()
    }

    /// Answers how many rows that are.
    pub(super) fn keep(&mut self, batch: Batch) -> usize {
        let rows = batch.file.rows();
        self.batches.push(batch);
        rows
    }

    pub(super) fn keep_cold(&mut self, cold: Cold) -> usize {
        let rows = cold.rows();
        self.cold.push(cold);
        rows
    }

    /// When to see whether anything is known by now.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let is_empty = self.batches.is_empty() && self.cold.is_empty();
        self.looked_at.filter(|_| !is_empty).map(|looked_at| looked_at + DOUBT_PAUSE)
    }

    /// Answers how many rows that were.
    pub(super) fn give_up_what_comes_again(&mut self, now: Instant) -> usize {
        self.looked_at = Some(Instant::now());
        let before = self.rows();
        self.batches.retain(|batch| batch.lease.state(now) != LeaseState::Lost);
        self.cold.retain(|cold| cold.lease().is_some_and(|lease| lease.state(now) != LeaseState::Lost));
        before - self.rows()
    }

    /// Rows of one partition whose messages never come again, if there are any.
    pub(super) fn orphans(
        &mut self,
        encoder: &mut Encoder,
        now: Instant,
        unreadable: &mut Vec<(Receipt, String)>,
    ) -> Result<Option<Batch>, WarehouseError> {
        let is_gone = |lease: &Lease| lease.state(now) == LeaseState::StreamGone;
        if let Some(at) = self.batches.iter().position(|batch| is_gone(&batch.lease)) {
            return Ok(Some(self.batches.swap_remove(at)));
        }
        let Some(at) = self.cold.iter().position(|cold| cold.lease().is_some_and(is_gone)) else { return Ok(None) };
        let cold = &mut self.cold[at];
        let (lease, partition) = (cold.lease().cloned(), cold.largest().into_iter().next());
        let Some((lease, partition)) = lease.zip(partition) else { return Ok(None) };
        let Some(rows) = cold.take(&partition.app_id, partition.hour) else { return Ok(None) };
        if cold.rows() == 0 {
            self.cold.swap_remove(at);
        }
        let mut batch = Batch::new(encoder, partition, lease);
        batch.fill(encoder, &rows, unreadable)?;
        Ok(Some(batch))
    }
}
