//! The answers to messages of ranges, and to the ranges when all of theirs are answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::{Complete, Held};
use crate::bus::dead_letter::DeadReason;
use crate::bus::nats::consume::acker;
use crate::bus::nats::dead_letter;
use crate::bus::trials::{FATAL, TrialOutcome};
use crate::bus::{BusError, BusErrorKind, Receipt};

#[derive(Clone)]
pub(crate) struct RangeAcker {
    /// Answers ranges.
    pub(super) queue: acker::Acker,
    pub(super) held: Arc<Held>,
}

impl RangeAcker {
    /// What of it completes no range is not on the server yet, and comes again should this process end.
    pub(crate) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(self.held.settle(receipts, None)).await
    }

    pub(crate) async fn nak(&self, receipts: &[Receipt], delay: Duration, reason: &str) -> Result<(), BusError> {
        let (exhausted, again) = self.queue.failed(receipts).await?;
        for receipt in exhausted {
            self.bury(receipt, (DeadReason::Failed, reason)).await?;
        }
        self.answer(self.held.settle(&again, Some(delay))).await
    }

    pub(crate) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        self.bury(receipt, (DeadReason::Refused, reason)).await
    }

    /// Gives up what ended the process each time.
    pub(super) async fn bury_fatal(&self, receipt: Receipt) -> Result<(), BusError> {
        self.bury(receipt, (DeadReason::Fatal, FATAL)).await?;
        self.queue.record.change(|book| book.forget(0, &[receipt.sequence])).await
    }

    async fn bury(&self, receipt: Receipt, reason: (DeadReason, &str)) -> Result<(), BusError> {
        dead_letter::bury(&self.queue.shared, &self.queue.consumer.name, receipt, reason).await?;
        self.ack(&[receipt]).await
    }

    pub(crate) async fn begin_trial(&self, receipts: &[Receipt]) {
        self.queue.begin_trial(receipts).await;
    }

    pub(crate) async fn end_trial(&self, end: TrialOutcome) {
        self.queue.end_trial(end).await;
    }

    pub(crate) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        let Some(ranges) = self.held.ranges_of(receipts) else {
            return Err(BusError::new(BusErrorKind::LeaseLost, "renew leases"));
        };
        let asked_at = Instant::now();
        let queued: Vec<Receipt> = ranges.iter().map(|(_, receipt)| *receipt).collect();
        self.queue.renew(&queued).await?;
        self.held.renewed(ranges.into_iter().map(|(key, _)| key), asked_at);
        Ok(())
    }

    /// Tells the server of ranges that are complete.
    pub(super) async fn answer(&self, complete: Vec<Complete>) -> Result<(), BusError> {
        let (again, done): (Vec<Complete>, Vec<Complete>) =
            complete.into_iter().partition(|range| range.again.is_some());
        let receipts: Vec<Receipt> = done.iter().map(|range| range.receipt).collect();
        self.queue.ack(&receipts).await?;
        self.held.release(&done);
        for range in again {
            self.queue.give_back(&[range.receipt], range.again.unwrap_or_default()).await?;
            self.held.release(&[range]);
        }
        Ok(())
    }
}
