//! Tries messages in isolation whose earlier deliveries may have crashed the process.
//!
//! Invariant: while they are looked up and encoded, nothing else in this sink is in flight, and the bus has
//! recorded that the trial is running. They are stored immediately; a failure of the warehouse is not held against them.

use std::time::Instant;

use tracing::{info, warn};

use super::error::SinkError;
use super::fetch;
use super::isolated::Isolated;
use super::lease::Lease;
use super::open::OpenBatches;
use super::pipeline::{Boxed, Sink};
use super::upload::UploadOutcome;
use crate::base::clock;
use crate::bus::{Delivery, LeaseGrant, Receipt, TrialOutcome};
use crate::metrics;

impl Sink {
    /// Advances the trial if nothing that has to finish first is in flight.
    pub(super) fn advance_isolated(&mut self) {
        if self.isolated.is_none() || self.job.is_some() || self.chunks() > 0 {
            return;
        }
        if self.batches.as_ref().is_some_and(|batches| !batches.is_empty()) {
            if self.has_room_to_write() {
                self.start_job(OpenBatches::close_all);
            }
            return;
        }
        let isolated = match self.isolated.take() {
            Some(Isolated::Tried) => {
                let acker = self.acker.clone();
                self.uploads.push(Box::pin(async move {
                    acker.end_trial(TrialOutcome::Survived).await;
                    UploadOutcome { file_bytes: 0, result: Ok(()) }
                }));
                Some(Isolated::Stored)
            }
            isolated if !self.uploads.is_empty() => isolated,
            Some(Isolated::Waiting { deliveries, lease, leased }) => {
                self.look_ups.push_back(self.try_isolated(deliveries, lease, leased));
                Some(Isolated::Tried)
            }
            Some(Isolated::Stored) | None => None,
        };
        self.isolated = isolated;
    }

    fn try_isolated(
        &self,
        deliveries: Vec<Delivery>,
        lease: Lease,
        leased: LeaseGrant,
    ) -> Boxed<Result<fetch::Chunk, SinkError>> {
        info!(messages = deliveries.len(), "messages that may have ended the process are tried apart from others");
        let (acker, ack_wait) = (self.acker.clone(), self.settings.ack_wait);
        let stored_in = (self.warehouse.clone(), self.status.clone());
        // The look-up notices a lapsed lease.
        let leased = lease.leased().unwrap_or(leased);
        Box::pin(fetch::look_up(deliveries, leased, ack_wait, acker, stored_in))
    }

    /// Renews the leases of messages that wait for their trial.
    pub(super) async fn renew_isolated(&mut self) {
        let Some(Isolated::Waiting { deliveries, lease, .. }) = &self.isolated else { return };
        if lease.renew_at().is_some_and(|renew_at| Instant::now() < renew_at) {
            return;
        }
        let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt).collect();
        if lease.renew(&self.acker, &receipts).await.is_err() && !lease.must_keep(clock::now()) {
            warn!(messages = receipts.len(), "messages given up: their leases lapsed while they waited to be tried");
            metrics::sink_lapsed_rows(receipts.len() as u64);
            self.isolated = None;
        }
    }
}
