//! Messages that are tried apart from others, since earlier deliveries of them may have ended the process.
//!
//! Invariant: while they are looked up and encoded nothing else of this sink is under way, and the bus has it on
//! record that they are encoded. They are stored at once. What the warehouse does with the file is no longer their doing.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::batches::OpenBatches;
use super::error::SinkError;
use super::fetch;
use super::lease::Lease;
use super::upload::Uploaded;
use super::{Boxed, Sink};
use crate::base::clock;
use crate::bus::{Acker, Delivery, LeaseGrant, Receipt, TrialOutcome};
use crate::metrics;

/// How long a sink that ends waits until it is on record that what it tried is not to blame.
const WITHDRAW_MAX: Duration = Duration::from_secs(2);

/// How far they are.
#[expect(clippy::large_enum_variant, reason = "there is one of them at a time")]
pub(super) enum Alone {
    /// Everything that was fetched before them is written out first.
    Waiting { deliveries: Vec<Delivery>, lease: Lease, leased: LeaseGrant },
    /// They are looked up and encoded.
    Tried,
    /// They are on their way into the warehouse.
    Stored,
}

impl Alone {
    pub(super) fn new(deliveries: Vec<Delivery>, leased: LeaseGrant, ack_wait: Duration) -> Self {
        let lease = Lease::new(leased.clone(), ack_wait);
        Self::Waiting { deliveries, lease, leased }
    }

    pub(super) fn renew_at(&self) -> Option<Instant> {
        match self {
            Self::Waiting { lease, .. } => lease.renew_at(),
            Self::Tried | Self::Stored => None,
        }
    }
}

/// To be called when a sink ends that has met with trouble outside the messages.
pub(super) async fn withdraw(acker: &Acker) {
    let _ = tokio::time::timeout(WITHDRAW_MAX, acker.end_trial(TrialOutcome::Withdrawn)).await;
}

impl Sink {
    /// Takes the next step with them, when nothing that comes first is under way.
    pub(super) fn go_on_alone(&mut self) {
        if self.alone.is_none() || self.job.is_some() || self.chunks() > 0 {
            return;
        }
        if self.batches.as_ref().is_some_and(|batches| !batches.is_empty()) {
            if self.has_room_to_write() {
                self.start_job(OpenBatches::close_all);
            }
            return;
        }
        let alone = match self.alone.take() {
            Some(Alone::Tried) => {
                let acker = self.acker.clone();
                self.uploads.push(Box::pin(async move {
                    acker.end_trial(TrialOutcome::Survived).await;
                    Uploaded { file_bytes: 0, result: Ok(()) }
                }));
                Some(Alone::Stored)
            }
            alone if !self.uploads.is_empty() => alone,
            Some(Alone::Waiting { deliveries, lease, leased }) => {
                self.looks.push_back(self.try_alone(deliveries, lease, leased));
                Some(Alone::Tried)
            }
            Some(Alone::Stored) | None => None,
        };
        self.alone = alone;
    }

    fn try_alone(
        &self,
        deliveries: Vec<Delivery>,
        lease: Lease,
        leased: LeaseGrant,
    ) -> Boxed<Result<fetch::Chunk, SinkError>> {
        info!(messages = deliveries.len(), "messages that may have ended the process are tried apart from others");
        let (acker, ack_wait) = (self.acker.clone(), self.settings.ack_wait);
        let stored_in = (self.warehouse.clone(), self.status.clone());
        // A lease that has lapsed is noticed in the look-up.
        let leased = lease.leased().unwrap_or(leased);
        Box::pin(fetch::look_up(deliveries, leased, ack_wait, acker, stored_in))
    }

    /// Renews their leases while they wait.
    pub(super) async fn renew_alone(&mut self) {
        let Some(Alone::Waiting { deliveries, lease, .. }) = &self.alone else { return };
        if lease.renew_at().is_some_and(|renew_at| Instant::now() < renew_at) {
            return;
        }
        let receipts: Vec<Receipt> = deliveries.iter().map(|delivery| delivery.receipt).collect();
        if lease.renew(&self.acker, &receipts).await.is_err() && !lease.is_kept(clock::now()) {
            warn!(messages = receipts.len(), "messages given up: their leases lapsed while they waited to be tried");
            metrics::sink_lapsed_rows(receipts.len() as u64);
            self.alone = None;
        }
    }
}
