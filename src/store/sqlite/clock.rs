//! Deliveries wait as long as they are meant to, however the wall clock is set.
//!
//! Due times are times of the wall clock: they survive a restart, and people read them. When that clock is set back,
//! what was due in a second would be due in hours; when it is set forward, a request that is on its way seems
//! abandoned. So the writer compares the wall clock with the monotonic one before each transaction.
//!
//! Invariant: no due time that has passed is moved. It tells how long a disabled webhook has been owed the delivery, and
//! each step and each restart would add to that age.

use jiff::Timestamp;
use rusqlite::Connection;

/// Milliseconds since the Unix epoch.
pub(super) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// Moves due times along with the wall clock, which was set by `step_ms` and shows `now_ms`. An attempt that comes early
/// does no harm, so forwards only claims move.
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

/// The same for a clock that was set back while nothing ran. What lies in the future tells by how much: a delivery that
/// was not tried is due since it is owed, and a retry is due so long after the attempt. Does nothing the second time.
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
