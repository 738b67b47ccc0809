//! One open file and the messages whose rows are in it.

use std::time::Instant;

use super::cold::ColdRows;
use crate::bus::Receipt;
use crate::event::EventRef;
use crate::sink::lease::Lease;
use crate::warehouse::{Encoder, OpenFile, Origin, Partition, WarehouseError};

pub(super) struct Batch {
    pub(super) partition: Partition,
    pub(super) file: OpenFile,
    pub(super) receipts: Vec<Receipt>,
    pub(super) lease: Lease,
    pub(super) opened_at: Instant,
    pub(super) memory_bytes: usize,
    /// Whether rows were added since `memory_bytes` was measured.
    pub(super) grown: bool,
}

impl Batch {
    pub(super) fn new(encoder: &Encoder, partition: Partition, lease: Lease) -> Self {
        Self {
            file: encoder.open(&partition.app_id),
            partition,
            receipts: Vec::new(),
            lease,
            opened_at: Instant::now(),
            memory_bytes: 0,
            grown: false,
        }
    }

    /// Adds gathered rows.
    pub(super) fn fill(
        &mut self,
        encoder: &mut Encoder,
        rows: &ColdRows,
        unreadable: &mut Vec<(Receipt, String)>,
    ) -> Result<(), WarehouseError> {
        self.opened_at = rows.since;
        self.receipts.reserve_exact(rows.len());
        for (payload, received_at_ms, receipt) in rows.each() {
            match EventRef::decode_admitted(payload) {
                Ok(event) => {
                    let origin = Origin { sequence: receipt.sequence, received_at_ms };
                    encoder.push(&mut self.file, &event, origin)?;
                    self.receipts.push(receipt);
                }
                Err(error) => unreadable.push((receipt, error.to_string())),
            }
        }
        Ok(())
    }
}
