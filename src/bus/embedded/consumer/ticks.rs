//! Time in ticks since the engine's start.

use std::time::Duration;

/// The unit of deadlines: 2.7 years fit.
const TICK: Duration = Duration::from_millis(20);
/// The tick of a moment that lies `since_start` after the engine's start.
pub(crate) fn tick(since_start: Duration) -> u32 {
    u32::try_from(since_start.as_millis() / TICK.as_millis()).unwrap_or(u32::MAX - 1)
}

/// The moment at which a tick has begun, since the engine's start.
pub(crate) fn moment(tick: u32) -> Duration {
    TICK * tick
}

/// The first tick at which `wait` is over for certain.
pub(super) fn after(now: u32, wait: Duration) -> u32 {
    now.saturating_add(tick(wait)).saturating_add(if wait.is_zero() { 0 } else { 2 }).min(u32::MAX - 1)
}
