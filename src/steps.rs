//! When the wall clock is set: a look at it beside the monotonic one, which nobody sets.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Differences below this are slewing, scheduling or a leap second.
const STEP_MS_MIN: u64 = 2_000;

/// Both clocks, as of the last look.
#[derive(Clone, Copy, Debug)]
pub struct ClockSteps {
    wall_ms: i64,
    at: Instant,
}

impl Default for ClockSteps {
    fn default() -> Self {
        Self { wall_ms: unix_ms(), at: Instant::now() }
    }
}

impl ClockSteps {
    /// What the wall clock showed at the last look.
    pub fn last_ms(&self) -> i64 {
        self.wall_ms
    }

    /// What the wall clock shows now, and by how much it was set since the last look. A machine that was suspended
    /// looks like one whose clock was set forward.
    pub fn look(&mut self) -> (i64, i64) {
        let now = Self::default();
        let elapsed_ms = i64::try_from(now.at.duration_since(self.at).as_millis()).unwrap_or(i64::MAX);
        let step_ms = now.wall_ms.saturating_sub(self.wall_ms).saturating_sub(elapsed_ms);
        *self = now;
        (now.wall_ms, if step_ms.unsigned_abs() >= STEP_MS_MIN { step_ms } else { 0 })
    }
}

/// Milliseconds since the Unix epoch.
pub fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}
