//! The lease of delivered messages, and whether it still holds.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::base::clock;

/// Since when, and under what condition, messages are ours for an `ack_wait`.
#[derive(Clone, Debug)]
pub struct LeaseGrant {
    /// No later than the moment at which the bus leased the oldest of them.
    pub at: Instant,
    /// Moves when the bus may have forgotten leases that have not lapsed; with the value that they were taken at.
    pub(super) epochs: Option<(watch::Receiver<u64>, u64)>,
    /// The life of the stream that was seen last and the epoch in which it was; with the one that they are of.
    pub(super) stream: Option<(watch::Receiver<(String, u64)>, String)>,
}

/// What is known of messages that were leased.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// The bus remembers the lease; the clock may have ended it.
    Active,
    /// The bus may have forgotten the lease, and nobody has seen since whether it still has the messages.
    InDoubt,
    /// The bus may have forgotten the lease, and will deliver what was not acknowledged again.
    Lost,
    /// The stream that had them is no more: they never come again.
    StreamGone,
}

impl LeaseGrant {
    /// Takes the clock's word for it that the bus remembers.
    #[cfg(test)]
    pub(crate) fn since(at: Instant) -> Self {
        Self { at, epochs: None, stream: None }
    }

    /// The same lease, renewed at that moment.
    pub fn renewed(self, at: Instant) -> Self {
        Self { at, ..self }
    }

    /// How long ago the bus leased, or renewed at `since`. A server's leases end while this machine is suspended; the
    /// embedded bus is suspended with it. `now` is of [`clock::now`].
    pub fn age(&self, since: Instant, now: Instant) -> Duration {
        if self.epochs.is_some() { clock::between(since, now) } else { now.saturating_duration_since(since) }
    }

    /// False once the server may have crashed since: it may deliver the messages to somebody else at any time.
    pub fn is_remembered(&self) -> bool {
        self.epochs.as_ref().is_none_or(|(now, taken)| *now.borrow() == *taken)
    }

    pub fn state(&self) -> LeaseState {
        let Some((epochs, _)) = self.epochs.as_ref().filter(|_| !self.is_remembered()) else {
            return LeaseState::Active;
        };
        let Some((seen, life)) = &self.stream else { return LeaseState::Lost };
        // In this order: who sees another life moves the epoch after it.
        let now = *epochs.borrow();
        let (seen, epoch) = &*seen.borrow();
        match seen == life {
            false => LeaseState::StreamGone,
            true if *epoch == now => LeaseState::Lost,
            true => LeaseState::InDoubt,
        }
    }
}
