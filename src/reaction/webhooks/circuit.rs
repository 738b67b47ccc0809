//! The circuit breaker of one endpoint: after several consecutive failures it pauses, then probes with a single
//! request. A plain value: the caller passes the time.

use std::time::{Duration, Instant};

use crate::base::backoff::Backoff;

/// Consecutive failures that open the circuit.
pub(super) const FAILURES_MAX: u32 = 5;

#[derive(Debug, Default)]
pub(super) struct Circuit {
    failures: u32,
    /// How often it has opened since the last success.
    openings: u32,
    open_until: Option<Instant>,
    probing: bool,
}

impl Circuit {
    /// Whether a request may be sent now.
    pub(super) fn permits(&self, now: Instant) -> bool {
        self.open_until.is_none_or(|until| now >= until && !self.probing)
    }

    /// When the next request may be sent, while the circuit is open and no probe is outstanding.
    pub(super) fn reopens_at(&self) -> Option<Instant> {
        self.open_until.filter(|_| !self.probing)
    }

    /// Records a sent request. Returns `true` when it is the probe.
    pub(super) fn sent(&mut self) -> bool {
        self.probing |= self.open_until.is_some();
        self.probing
    }

    /// The endpoint responded and did not fail.
    pub(super) fn responded(&mut self) {
        *self = Self::default();
    }

    /// The endpoint asked for a pause; afterwards one request probes it.
    pub(super) fn pause(&mut self, now: Instant, pause: Duration) {
        self.open_until = self.open_until.max(Some(now + pause));
        self.probing = false;
    }

    /// The endpoint was unreachable or failed. Requests sent before the circuit opened do not prolong it.
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
        circuit.responded();
        for _ in 0..FAILURES_MAX {
            assert!(circuit.permits(start));
            circuit.failed(false, start, &BACKOFF, 1.0);
        }
        assert!(!circuit.permits(start));
        // Late failures do not prolong it.
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
        circuit.responded();
        assert!(circuit.permits(start) && !circuit.sent());
    }

    #[test]
    fn requested_pauses_are_kept() {
        let start = Instant::now();
        let mut circuit = Circuit::default();
        circuit.pause(start, Duration::from_secs(60));
        circuit.pause(start, Duration::from_secs(10));
        assert!(!circuit.permits(start + Duration::from_secs(59)));
        assert!(circuit.permits(start + Duration::from_secs(60)) && circuit.sent());
        circuit.responded();
        assert!(circuit.permits(start));
    }
}
