//! The lease of delivered messages, and whether it still holds.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::base::clock;

/// Since when, and under which conditions, messages are leased to this process for an `ack_wait`.
#[derive(Clone, Debug)]
pub struct LeaseGrant {
    /// No later than the time at which the bus leased the oldest of them.
    pub at: Instant,
    /// The epoch, which changes when the bus may have forgotten leases that have not expired, and its value when these
    /// leases were taken.
    pub(super) epochs: Option<(watch::Receiver<u64>, u64)>,
    /// The last known incarnation of the stream with the epoch in which it was seen, and the incarnation that these
    /// messages belong to.
    pub(super) stream: Option<(watch::Receiver<(String, u64)>, String)>,
}

/// The state of leased messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The bus remembers the lease. It may still have expired by the clock.
    Active,
    /// The bus may have forgotten the lease, and it is not yet known whether it still has the messages.
    InDoubt,
    /// The bus may have forgotten the lease and will redeliver unacknowledged messages.
    Lost,
    /// The stream of these messages no longer exists: they will never be redelivered.
    StreamGone,
}

impl LeaseGrant {
    /// Assumes that the bus remembers the lease until it expires by the clock.
    #[cfg(test)]
    pub(crate) fn since(at: Instant) -> Self {
        Self { at, epochs: None, stream: None }
    }

    /// The same lease, renewed at `at`.
    pub fn renewed(self, at: Instant) -> Self {
        Self { at, ..self }
    }

    /// The age of the lease, or of its renewal at `since`. Leases on a server keep running while this machine is
    /// suspended; the embedded bus is suspended with it. `now` comes from [`clock::now`].
    pub fn age(&self, since: Instant, now: Instant) -> Duration {
        if self.epochs.is_some() { clock::between(since, now) } else { now.saturating_duration_since(since) }
    }

    /// `false` once the server may have crashed: it may then redeliver the messages to another process at any time.
    pub fn is_remembered(&self) -> bool {
        self.epochs.as_ref().is_none_or(|(now, taken)| *now.borrow() == *taken)
    }

    pub fn state(&self) -> LeaseState {
        let Some((epochs, _)) = self.epochs.as_ref().filter(|_| !self.is_remembered()) else {
            return LeaseState::Active;
        };
        let Some((seen, incarnation)) = &self.stream else { return LeaseState::Lost };
        // In this order: whoever sees a new incarnation changes it before the epoch.
        let now = *epochs.borrow();
        let (seen, epoch) = &*seen.borrow();
        match seen == incarnation {
            false => LeaseState::StreamGone,
            true if *epoch == now => LeaseState::Lost,
            true => LeaseState::InDoubt,
        }
    }
}
