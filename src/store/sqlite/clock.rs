//! Deliveries wait as long as intended, however the wall clock is set.
//!
//! Due times use the wall clock: they survive a restart, and people read them. When it is set back, a delivery due in a
//! second would be due in hours; when it is set forward, a request in flight seems abandoned. So the writer compares
//! the wall clock with the monotonic one before each transaction.
//!
//! Invariant: a due time in the past is never moved. It tells how long a delivery has waited for a disabled webhook,
//! and each step or restart would add to that age.

use jiff::Timestamp;
use rusqlite::Connection;

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Moves due times with the wall clock, which was set by `step_ms` and now shows `now_ms`. An early attempt does no
/// harm, so a forward step moves only claims.
pub(super) fn shift_due_times(connection: &Connection, now_ms: i64, step_ms: i64) -> rusqlite::Result<()> {
    let moved = match step_ms {
        0 => return Ok(()),
        1.. => {
            let sql = "UPDATE deliveries SET due_at = due_at + ?1 WHERE due_at IS NOT NULL AND status = 'in_progress'";
            connection.execute(sql, [step_ms])?
        }
        _ => {
            let sql = "UPDATE deliveries SET due_at = max(?1, due_at + ?2), last_attempt_at = min(?1, last_attempt_at)
                       WHERE due_at > ?1";
            connection.execute(sql, [now_ms, step_ms])?
        }
    };
    tracing::info!(step_ms, moved, "the clock was set; what waits for its time waits no longer for it");
    Ok(())
}

/// The same for a clock that was set back while no process ran. Future times tell how far: an untried delivery is due
/// since it was created, and a retry is due a known time after its attempt. Idempotent.
pub(super) fn shift_due_times_since_last_run(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "UPDATE deliveries SET last_attempt_at = min(?1, last_attempt_at),
                   due_at = min(due_at, ?1 + CASE WHEN attempts = 0 THEN 0 ELSE max(0, due_at - last_attempt_at) END)
               WHERE due_at > ?1 AND status = 'pending' AND (attempts = 0 OR last_attempt_at > ?1)";
    let moved = connection.execute(sql, [now_ms()])?;
    if moved > 0 {
        tracing::info!(
            moved,
            "the clock was set back since the last run; what waits for its time waits no longer for it"
        );
    }
    Ok(())
}
