//! How long the messages of a batch are certainly ours.
//!
//! Invariants: what will not come again is never taken for lapsed ([`Lease::state`]); [`Lease::holds`] is false before the bus may deliver any of the messages to
//! somebody else, with a quarter of the acknowledgement wait to spare; also once the bus may
//! have forgotten the lease in a crash.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use crate::base::clock;
use crate::bus::{Acker, BusErrorKind, LeaseGrant, LeaseState, Receipt};

/// The least time between two looks at what became of messages in doubt.
pub(super) const DOUBT_PAUSE: Duration = Duration::from_millis(200);

/// When the oldest of some deliveries was leased; shared with whoever is about to act on them.
#[derive(Clone, Debug)]
pub(super) struct Lease {
    since: Arc<Mutex<Option<Instant>>>,
    leased: LeaseGrant,
    ack_wait: Duration,
}

/// The messages may be somebody else's by now: they will come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lapsed;

impl Lease {
    pub(super) fn new(leased: LeaseGrant, ack_wait: Duration) -> Self {
        Self { since: Arc::new(Mutex::new(Some(leased.at))), leased, ack_wait }
    }

    /// `now` is of [`clock::now`], which notices when this machine stood still and the bus did not.
    pub(super) fn holds(&self, now: Instant) -> bool {
        let safe = self.ack_wait - self.ack_wait / 4;
        self.leased.is_remembered() && self.since().is_some_and(|since| self.leased.age(since, now) < safe)
    }

    /// `Lost` when the lease has ended by the clock alone, too.
    pub(super) fn state(&self, now: Instant) -> LeaseState {
        match self.leased.state() {
            LeaseState::Active if !self.holds(now) => LeaseState::Lost,
            state => state,
        }
    }

    /// Whether the messages are to be kept although they are not leased: it may be that nobody else ever gets them.
    pub(super) fn is_kept(&self, now: Instant) -> bool {
        matches!(self.state(now), LeaseState::InDoubt | LeaseState::StreamGone)
    }

    pub(super) fn ack_wait(&self) -> Duration {
        self.ack_wait
    }

    /// When to renew: early enough for a slow bus to be asked twice more.
    pub(super) fn renew_at(&self) -> Option<Instant> {
        self.since().map(|since| since + self.ack_wait / 4)
    }

    /// Takes in messages that were leased at `since`, in the same life of the bus's connection or a later one.
    pub(super) fn include(&self, since: Instant) {
        let mut oldest = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *oldest = oldest.map(|oldest| oldest.min(since));
    }

    /// Renews the leases of `receipts`, which are all that this lease is about.
    pub(super) async fn renew(&self, acker: &Acker, receipts: &[Receipt]) -> Result<(), Lapsed> {
        let asked_at = clock::now();
        if self.is_kept(asked_at) {
            return Err(Lapsed);
        }
        if !self.holds(asked_at) {
            return Err(self.lapse());
        }
        match acker.renew(receipts).await {
            Ok(()) => {
                *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked_at);
                Ok(())
            }
            // The bus has begun anew meanwhile.
            Err(_) if self.is_kept(clock::now()) => Err(Lapsed),
            Err(error) if error.kind == BusErrorKind::LeaseLost => Err(self.lapse()),
            Err(error) => {
                warn!(%error, "leases could not be renewed");
                if self.holds(clock::now()) { Ok(()) } else { Err(self.lapse()) }
            }
        }
    }

    /// Runs `work`, renewing as often as it takes; also while what became of the messages is in doubt, or when they
    /// will not come again.
    pub(super) async fn keep<T>(
        &self,
        acker: &Acker,
        receipts: &[Receipt],
        work: impl Future<Output = T>,
    ) -> Result<T, Lapsed> {
        tokio::pin!(work);
        loop {
            if self.is_kept(clock::now()) {
                tokio::select! {
                    done = &mut work => return Ok(done),
                    () = tokio::time::sleep(DOUBT_PAUSE) => continue,
                }
            }
            let Some(renew_at) = self.renew_at() else { return Err(Lapsed) };
            // A renewal that fails for now is tried again a little later.
            let renew_at = renew_at.max(Instant::now() + self.ack_wait / 16);
            tokio::select! {
                done = &mut work => return Ok(done),
                () = tokio::time::sleep_until(renew_at.into()) => {
                    let renewed = self.renew(acker, receipts).await;
                    if renewed.is_err() && !self.is_kept(clock::now()) {
                        return Err(Lapsed);
                    }
                }
            }
        }
    }

    /// As it is after renewals; none when the lease lapsed.
    pub(super) fn leased(&self) -> Option<LeaseGrant> {
        Some(self.leased.clone().renewed(self.since()?))
    }

    fn lapse(&self) -> Lapsed {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Lapsed
    }

    fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_given_up_before_the_bus_takes_it_back() {
        let start = Instant::now();
        let lease = Lease::new(LeaseGrant::since(start + Duration::from_secs(8)), Duration::from_secs(40));
        lease.include(start);
        assert!(lease.holds(start + Duration::from_secs(29)));
        assert!(!lease.holds(start + Duration::from_secs(30)));
        assert_eq!(lease.renew_at(), Some(start + Duration::from_secs(10)));
        lease.lapse();
        lease.include(start + Duration::from_secs(50));
        assert!(!lease.holds(start), "what lapsed once never holds again");
    }
}
