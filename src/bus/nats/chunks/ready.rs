//! Messages that were read and not handed out yet.

use std::time::Instant;

use async_nats::Message;
use bytes::Bytes;

use super::in_flight::ChunkKey;
use crate::bus::buffers::{self, Buffer};
use crate::bus::nats::consume::pull::{delivery, write_record};
use crate::bus::{Delivery, Receipt};

/// Messages handed out together share one buffer, since they are dropped together: allocating each message and freeing
/// it on another thread costs more than copying it.
#[derive(Default)]
pub(crate) struct Ready {
    /// Still without their records.
    deliveries: Vec<Delivery>,
    records: Option<Buffer>,
    /// The end of each record.
    ends: Vec<usize>,
    /// The bytes handed out last.
    last_bytes: usize,
    /// When the oldest of their leases began; `None` when one is not known to hold.
    leased_at: Option<Instant>,
    /// The chunk of the last message.
    chunk: Option<ChunkKey>,
}

impl Ready {
    pub(super) fn len(&self) -> usize {
        self.deliveries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.deliveries.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.records.as_ref().map_or(0, |records| records.len())
    }

    pub(super) fn leased_at(&self) -> Option<Instant> {
        self.leased_at
    }

    /// `leased_at` is called once per run of messages of the same chunk.
    pub(super) fn push(
        &mut self,
        message: &Message,
        receipt: Receipt,
        published_at_ms: i64,
        redelivery_horizon: u64,
        leased_at: impl FnOnce() -> Option<Instant>,
    ) {
        let key = receipt.consumer_sequence;
        if self.chunk.replace(key) != Some(key) {
            let leased_at = leased_at();
            self.leased_at = match self.deliveries.is_empty() {
                true => leased_at,
                false => self.leased_at.min(leased_at),
            };
        }
        let records = self.records.get_or_insert_with(|| buffers::GROUPS.take(self.last_bytes));
        write_record(records, message);
        self.ends.push(records.len());
        self.deliveries.push(delivery(Bytes::new(), receipt, published_at_ms, redelivery_horizon));
    }

    pub(super) fn clear(&mut self) {
        *self = Self { last_bytes: self.last_bytes, ..Self::default() };
    }

    pub(super) fn take(&mut self) -> Vec<Delivery> {
        let Some(records) = self.records.take() else { return Vec::new() };
        self.last_bytes = records.len();
        let records = Bytes::from_owner(records);
        let mut start = 0;
        for (delivery, end) in self.deliveries.iter_mut().zip(self.ends.drain(..)) {
            delivery.record = records.slice(start..end);
            start = end;
        }
        (self.leased_at, self.chunk) = (None, None);
        std::mem::take(&mut self.deliveries)
    }
}
