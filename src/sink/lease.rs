//! How long the messages of a batch are certainly leased to this process.
//!
//! Invariants: messages that will not be redelivered are never treated as lapsed ([`Lease::state`]); [`Lease::holds`] turns
//! false before the bus may deliver any of the messages to another consumer, with a quarter of the
//! acknowledgement wait to spare, and also once the bus may have lost the lease in a crash.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use crate::base::clock;
use crate::bus::{Acker, BusErrorKind, LeaseGrant, LeaseState, Receipt};

/// The minimum interval between checks of messages whose redelivery is in doubt.
pub(super) const DOUBT_PAUSE: Duration = Duration::from_millis(200);

/// When the oldest of some deliveries was leased. Clones share the state.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    since: Arc<Mutex<Option<Instant>>>,
    leased: LeaseGrant,
    ack_wait: Duration,
}

/// The lease has lapsed: the messages will be redelivered, possibly to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lapsed;

impl Lease {
    pub(super) fn new(leased: LeaseGrant, ack_wait: Duration) -> Self {
        Self { since: Arc::new(Mutex::new(Some(leased.at))), leased, ack_wait }
    }

    /// Whether the messages are still leased. `now` comes from [`clock::now`], which accounts for time in which this
    /// machine was suspended and the bus was not.
    pub(super) fn holds(&self, now: Instant) -> bool {
        let safe = self.ack_wait - self.ack_wait / 4;
        self.leased.is_remembered() && self.since().is_some_and(|since| self.leased.age(since, now) < safe)
    }

    /// The state of the lease. It is `Lost` as well once the lease has ended by the clock.
    pub(super) fn state(&self, now: Instant) -> LeaseState {
        match self.leased.state() {
            LeaseState::Active if !self.holds(now) => LeaseState::Lost,
            state => state,
        }
    }

    /// Whether to keep the messages although they are not leased, because they may never be redelivered.
    pub(super) fn must_keep(&self, now: Instant) -> bool {
        matches!(self.state(now), LeaseState::InDoubt | LeaseState::StreamGone)
    }

    pub(super) fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// When to renew: early enough for two more attempts if the bus is slow.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        self.since().map(|since| since + self.ack_wait / 4)
    }

    /// Includes messages that were leased at `since`, in the same epoch of the bus connection or a later one.
    pub(super) fn include(&self, since: Instant) {
        let mut oldest = self.since.lock();
        *oldest = oldest.map(|oldest| oldest.min(since));
    }

    /// Renews the leases of `receipts`, which must be all messages of this lease.
    pub(super) async fn renew(&self, acker: &Acker, receipts: &[Receipt]) -> Result<(), Lapsed> {
        let asked_at = clock::now();
        if self.must_keep(asked_at) {
            return Err(Lapsed);
        }
        if !self.holds(asked_at) {
            return Err(self.lapse());
        }
        match acker.renew(receipts).await {
            Ok(()) => {
                *self.since.lock() = Some(asked_at);
                Ok(())
            }
            // The bus has restarted meanwhile.
            Err(_) if self.must_keep(clock::now()) => Err(Lapsed),
            Err(error) if error.kind == BusErrorKind::LeaseLost => Err(self.lapse()),
            Err(error) => {
                warn!(%error, "leases could not be renewed");
                if self.holds(clock::now()) { Ok(()) } else { Err(self.lapse()) }
            }
        }
    }

    /// Runs `work`, renewing the lease as often as needed. Continues while redelivery is in doubt, and when the messages
    /// will never be redelivered.
    pub(super) async fn keep<T>(
        &self,
        acker: &Acker,
        receipts: &[Receipt],
        work: impl Future<Output = T>,
    ) -> Result<T, Lapsed> {
        tokio::pin!(work);
        loop {
            if self.must_keep(clock::now()) {
                tokio::select! {
                    done = &mut work => return Ok(done),
                    () = tokio::time::sleep(DOUBT_PAUSE) => continue,
                }
            }
            let Some(renew_at) = self.renew_at() else { return Err(Lapsed) };
            // Retry a failed renewal a little later.
            let renew_at = renew_at.max(Instant::now() + self.ack_wait / 16);
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(renew_at.into()) => {
                    let renewed = self.renew(acker, receipts).await;
                    if renewed.is_err() && !self.must_keep(clock::now()) {
                        return Err(Lapsed);
                    }
                }
            }
        }
    }

    /// The lease as of its last renewal; `None` if it lapsed.
    pub(super) fn leased(&self) -> Option<LeaseGrant> {
        Some(self.leased.clone().renewed(self.since()?))
    }

    fn lapse(&self) -> Lapsed {
        *self.since.lock() = None;
        Lapsed
    }

    fn since(&self) -> Option<Instant> {
        *self.since.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lapses_before_the_bus_redelivers() {
        let start = Instant::now();
        let lease = Lease::new(LeaseGrant::since(start + Duration::from_secs(8)), Duration::from_secs(40));
        lease.include(start);
        assert!(lease.holds(start + Duration::from_secs(29)));
        assert!(!lease.holds(start + Duration::from_secs(30)));
        assert_eq!(lease.renew_at(), Some(start + Duration::from_secs(10)));
        lease.lapse();
        lease.include(start + Duration::from_secs(50));
        assert!(!lease.holds(start), "a lapsed lease never holds again");
    }
}
