//! The server's clock as it was last seen, compared with the monotonic clock of this process.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

/// Smaller steps are clock slewing or a busy server, and delay nothing noticeably.
const STEP_BACK_MS_MIN: i64 = 2_000;

/// The server's clock as last observed.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    seen: Mutex<Option<(i64, Instant)>>,
    /// The longest lease that this process has claimed with.
    lease_ms: AtomicI64,
}

impl ServerClock {
    pub(super) fn record_lease(&self, lease_ms: i64) {
        self.lease_ms.fetch_max(lease_ms, Ordering::Relaxed);
    }

    /// The longest lease that this process has claimed with; 0 before its first claim.
    pub(super) fn lease_ms(&self) -> i64 {
        self.lease_ms.load(Ordering::Relaxed)
    }

    /// Whether the clock was set back, or may have been before the first observation. It showed `now_ms` after
    /// `asked_at`.
    pub(super) fn is_behind(&self, now_ms: i64, requested_at: Instant) -> bool {
        let seen = *self.seen.lock();
        let expected = |(seen_ms, seen_at): (i64, Instant)| {
            seen_ms.saturating_add(requested_at.saturating_duration_since(seen_at).as_millis() as i64)
        };
        seen.is_none_or(|seen| now_ms.saturating_add(STEP_BACK_MS_MIN) < expected(seen))
    }

    pub(super) fn record(&self, now_ms: i64) {
        *self.seen.lock() = Some((now_ms, Instant::now()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_slow_response_is_not_a_step_back() {
        let (clock, start) = (ServerClock::default(), Instant::now());
        assert!(clock.is_behind(1_000_000, start), "what was before the first look is not known");
        clock.record(1_000_000);
        let later = start + Duration::from_secs(60);
        assert!(!clock.is_behind(1_060_000, later));
        assert!(!clock.is_behind(1_090_000, later), "forwards, or answered late");
        assert!(!clock.is_behind(1_059_000, later));
        assert!(clock.is_behind(1_050_000, later));
    }
}
