//! Messages that are tried in isolation, and the stage of the trial.

use std::time::{Duration, Instant};

use super::lease::Lease;
use crate::bus::{Acker, Delivery, LeaseGrant, TrialOutcome};

/// How long an ending sink waits for the bus to record that the messages it tried are not to blame.
const WITHDRAW_MAX: Duration = Duration::from_secs(2);

/// The stage of a trial.
#[expect(clippy::large_enum_variant, reason = "there is one of them at a time")]
pub(super) enum Isolated {
    /// Everything that was fetched before is stored first.
    Waiting { deliveries: Vec<Delivery>, lease: Lease, leased: LeaseGrant },
    /// The messages are looked up and encoded.
    Tried,
    /// The messages are being stored in the warehouse.
    Stored,
}

impl Isolated {
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

/// Withdraws the trial. Call it when a sink ends because of a failure that the messages did not cause.
pub(super) async fn withdraw(acker: &Acker) {
    let _ = tokio::time::timeout(WITHDRAW_MAX, acker.end_trial(TrialOutcome::Withdrawn)).await;
}
