//! One endpoint's circuit breaker: after several failures in a row it is left alone, then
//! tried with a single request. As plain values: the caller brings the time.

use std::time::{Duration, Instant};

use crate::base::backoff::Backoff;

/// Failures in a row that open the circuit.
pub(super) const FAILURES_MAX: u32 = 5;

#[derive(Debug, Default)]
pub(super) struct Circuit {
    failures: u32,
    /// How often it opened without a success between.
    openings: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl Circuit {
    /// Whether a request may be sent now.
    pub(super) fn permits(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| now >= until && !self.probing)
    }

    /// When the next request may be sent, while the circuit is open and none is on its way.
    pub(super) fn reopens_at(&self) -> Option<Instant> {
        self.open_until.filter(|_| !self.probing)
    }

    /// Notes that a request was sent; true when it is the one that probes.
    pub(super) fn sent(&mut self) -> bool {
        self.probing |= self.open_until.is_some();
        self.probing
    }

    /// The endpoint answered as a living one does.
    pub(super) fn alive(&mut self) {
        *self = Self::default();
    }

    /// The endpoint asked to be left alone for so long; then one request shows whether it means it.
    pub(super) fn pause(&mut self, now: Instant, pause: Duration) {
        self.open_until = self.open_until.max(Some(now + pause));
        self.probing = false;
    }

    /// The endpoint could not be reached or is failing. What was sent before the circuit opened does not
    /// prolong it.
    pub(super) fn failed(&mut self, probe: bool, now: Instant, backoff: &Backoff, random: f64) {
        self.failures = self.failures.saturating_add(1);
        let opens = probe || (self.open_until.is_none() && self.failures >= FAILURES_MAX);
        if opens {
            self.openings = self.openings.saturating_add(1);
            self.open_until = Some(now + backoff.delay(self.openings, random));
            self.probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { initial: Duration::from_secs(1), multiplier: 2.0, max: Duration::from_secs(60) };

    #[test]
    fn opens_after_failures_in_a_row_and_probes_with_one_request() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        for _ in 1..FAILURES_MAX {
            assert!(!circuit.sent());
            circuit.failed(false, start, &BACKOFF, 1.0);
            assert!(circuit.permits(start));
        }
        circuit.alive();
        for _ in 0..FAILURES_MAX {
            assert!(circuit.permits(start));
            circuit.failed(false, start, &BACKOFF, 1.0);
        }
        assert!(!circuit.permits(start));
        // Stragglers do not prolong it.
        circuit.failed(false, start + Duration::from_millis(900), &BACKOFF, 1.0);
        let reopened = start + Duration::from_secs(1);
        assert_eq!(circuit.reopens_at(), Some(reopened));
        assert!(circuit.permits(reopened));
        assert!(circuit.sent());
        assert!(!circuit.permits(reopened));
        circuit.failed(true, reopened, &BACKOFF, 1.0);
        assert!(!circuit.permits(reopened + Duration::from_millis(1_999)));
        assert!(circuit.permits(reopened + Duration::from_secs(2)));
        assert!(circuit.sent());
        circuit.alive();
        assert!(circuit.permits(start) && !circuit.sent());
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        circuit.pause(start, Duration::from_secs(60));
        circuit.pause(start, Duration::from_secs(10));
        assert!(!circuit.permits(start + Duration::from_secs(59)));
        assert!(circuit.permits(start + Duration::from_secs(60)) && circuit.sent());
        circuit.alive();
        assert!(circuit.permits(start));
    }
}
