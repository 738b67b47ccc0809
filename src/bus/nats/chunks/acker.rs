//! Acknowledges messages of chunks, and the chunks once all their messages are answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::in_flight::{CompletedChunk, InFlightChunks};
use crate::bus::dead_letter::DeadReason;
use crate::bus::nats::consume::acker;
use crate::bus::nats::dead_letter;
use crate::bus::trials::{FATAL, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, Receipt};

#[derive(Clone)]
pub(crate) struct ChunkAcker {
    /// Acknowledges chunks.
    pub(super) queue: acker::Acker,
    pub(super) in_flight: Arc<InFlightChunks>,
}

impl ChunkAcker {
    /// Acknowledgements that do not complete a chunk are not sent to the server yet; their messages are redelivered if
    /// this process ends.
    pub(crate) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(self.in_flight.resolve(receipts, None)).await
    }

    pub(crate) async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        let (exhausted, again) = self.queue.failed(receipts).await?;
        for receipt in exhausted {
            self.store_dead_letter(receipt, (DeadReason::Failed, reason)).await?;
        }
        self.answer(self.in_flight.resolve(&again, Some(delay))).await
    }

    pub(crate) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        self.store_dead_letter(receipt, (DeadReason::Refused, reason)).await
    }

    /// Dead-letters a message that ended the process in each trial.
    pub(super) async fn dead_letter_fatal(&self, receipt: Receipt) -> Result<(), BusError> {
        self.store_dead_letter(receipt, (DeadReason::Fatal, FATAL)).await?;
        self.queue.trials.change(|log| log.forget(0, &[receipt.sequence])).await
    }

    async fn store_dead_letter(&self, receipt: Receipt, reason: (DeadReason, &str)) -> Result<(), BusError> {
        dead_letter::store(&self.queue.shared, &self.queue.consumer.name, receipt, reason).await?;
        self.ack(&[receipt]).await
    }

    pub(crate) async fn begin_trial(&self, receipts: &[Receipt]) {
        self.queue.begin_trial(receipts).await;
    }

    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        self.queue.end_trial(end).await;
    }

    pub(crate) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let Some(chunks) = self.in_flight.chunks_of(receipts) else {
            return Err(BusError::new(BusErrorKind::LeaseLost, "renew leases"));
        };
        let requested_at = Instant::now();
        let queued: Vec<Receipt> = chunks.iter().map(|(_, receipt)| *receipt).collect();
        self.queue.renew(&queued).await?;
        self.in_flight.renewed(chunks.into_iter().map(|(key, _)| key), requested_at);
        Ok(())
    }

    /// Reports completed chunks to the server.
    pub(super) async fn answer(&self, complete: Vec<CompletedChunk>) -> Result<(), BusError> {
        let (again, done): (Vec<CompletedChunk>, Vec<CompletedChunk>) =
            complete.into_iter().partition(|chunk| chunk.redeliver_after.is_some());
        let receipts: Vec<Receipt> = done.iter().map(|chunk| chunk.receipt).collect();
        self.queue.ack(&receipts).await?;
        self.in_flight.release(&done);
        for chunk in again {
            self.queue.release(&[chunk.receipt], chunk.redeliver_after.unwrap_or_default()).await?;
            self.in_flight.release(&[chunk]);
        }
        Ok(())
    }
}
