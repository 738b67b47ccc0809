//! The answers to messages of ranges, and to the ranges when all of theirs are answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::held::{Complete, Held};
use crate::bus::nats::{acker, dead_letter};
use crate::bus::{BusError, BusErrorKind, Receipt};

#[derive(Clone)]
pub(in crate::bus) struct RangeAcker {
    /// Answers ranges.
    pub(super) queue: acker::Acker,
    pub(super) held: Arc<Held>,
    pub(super) max_deliver: u32,
}

impl RangeAcker {
    /// What of it completes no range is not on the server yet, and comes again should this process end.
    pub(in crate::bus) async fn ack(&self, receipts: &[Receipt]) -> Result<(), BusError> {
        self.answer(self.held.settle(receipts, None)).await
    }

    pub(in crate::bus) async fn nak(
        &self,
        receipts: &[Receipt],
        delay: Duration,
        reason: &str,
    ) -> Result<(), BusError> {
        let (exhausted, again) = acker::exhausted(receipts, self.max_deliver);
        for receipt in exhausted {
            self.dead_letter(receipt, reason).await?;
        }
        self.answer(self.held.settle(&again, Some(delay))).await
    }

    pub(in crate::bus) async fn dead_letter(&self, receipt: Receipt, reason: &str) -> Result<(), BusError> {
        dead_letter::bury(&self.queue.shared, &self.queue.consumer.name, receipt, reason).await?;
        self.ack(&[receipt]).await
    }

    pub(in crate::bus) async fn renew(&self, receipts: &[Receipt]) -> Result<(), BusError> {
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
            self.queue.nak(&[range.receipt], range.again.unwrap_or_default(), "messages are given back").await?;
            self.held.release(&[range]);
        }
        Ok(())
    }
}
