//! Time in ticks since the start of the engine.

use std::time::Duration;

/// The unit of deadlines. A `u32` covers 2.7 years.
const TICK: Duration = Duration::from_millis(20);
/// The tick at `since_start` after the start of the engine.
pub(crate) fn tick(since_start: Duration) -> u32 {
    u32::try_from(since_start.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX - 1)
}

/// When a tick begins, since the start of the engine.
pub(crate) fn time_of(tick: u32) -> Duration {
    TICK * tick
}

/// The first tick at which `wait` is certainly over.
pub(super) fn after(now: u32, wait: Duration) -> u32 {
    now.saturating_add(tick(wait)).saturating_add(if wait.is_zero() { 0 } else { 2 }).min(u32::MAX - 1)
}
