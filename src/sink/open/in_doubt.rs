//! Rows whose leases the bus may have lost, kept until it is known whether their messages will be redelivered.
//!
//! When the connection to the bus breaks or a stream disappears, fetched messages are no longer leased. Usually they are
//! redelivered, and the rows here are dropped. If the stream was created anew, they never are: these rows are then the only
//! copy of accepted events, and are stored.
//!
//! Invariant: these rows are not stored before the current incarnation of their stream is known. Awaits nothing.

use std::time::Instant;

use super::batch::Batch;
use super::cold::ColdPartitions;
use crate::bus::{LeaseState, Receipt};
use crate::sink::lease::{DOUBT_PAUSE, Lease};
use crate::warehouse::{Encoder, WarehouseError};

#[derive(Default)]
pub(super) struct InDoubt {
    batches: Vec<Batch>,
    cold: Vec<ColdPartitions>,
    looked_at: Option<Instant>,
}

impl InDoubt {
    pub(super) fn rows(&self) -> usize {
        self.batches.iter().map(|batch| batch.file.rows()).sum::<usize>()
            + self.cold.iter().map(ColdPartitions::rows).sum::<usize>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.batches.iter().map(|batch| batch.memory_bytes).sum::<usize>()
            + self.cold.iter().map(ColdPartitions::memory_bytes).sum::<usize>()
    }

    /// Returns the number of rows.
    pub(super) fn add(&mut self, batch: Batch) -> usize {
        let rows = batch.file.rows();
        self.batches.push(batch);
        rows
    }

    pub(super) fn add_cold(&mut self, cold: ColdPartitions) -> usize {
        let rows = cold.rows();
        self.cold.push(cold);
        rows
    }

    /// When to check again whether the messages will be redelivered.
    pub(super) fn look_at(&self) -> Option<Instant> {
        let is_empty = self.batches.is_empty() && self.cold.is_empty();
        self.looked_at.filter(|_| !is_empty).map(|looked_at| looked_at + DOUBT_PAUSE)
    }

    /// Drops the rows of messages that will be redelivered, and returns their number.
    pub(super) fn drop_redelivered(&mut self, now: Instant) -> usize {
        self.looked_at = Some(Instant::now());
        let before = self.rows();
        self.batches.retain(|batch| batch.lease.state(now) != LeaseState::Lost);
        self.cold.retain(|cold| cold.lease().is_some_and(|lease| lease.state(now) != LeaseState::Lost));
        before - self.rows()
    }

    /// Rows of one partition whose messages will never be redelivered, if there are any.
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
