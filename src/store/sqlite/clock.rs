//! Deliveries wait as long as they are meant to, however the wall clock is set.
//!
//! Due times are times of the wall clock: they survive a restart, and people read them. When that clock is set back,
//! what was due in a second would be due in hours; when it is set forward, a request that is on its way seems
//! abandoned. So the writer compares the wall clock with the monotonic one before each transaction.

use rusqlite::Connection;

use super::now_ms;

/// By less nobody waits noticeably longer.
const STEP_BACK_MS_MIN: i64 = 2_000;

/// Moves due times along with the wall clock, which was set by so much. An attempt that comes early does no harm, so
/// forwards only claims move.
pub(super) fn follow(connection: &Connection, step_ms: i64) -> rusqlite::Result<()> {
    if step_ms != 0 {
        let moved = shift(connection, step_ms)?;
        tracing::info!(step_ms, moved, "the clock was set; what waits for its time waits no longer for it");
    }
    Ok(())
}

/// When the clock is behind what the last run stored, it was set back in between.
pub(super) fn follow_since_last_run(connection: &Connection) -> rusqlite::Result<()> {
    let sql = "SELECT max(max(created_at, coalesce(last_attempt_at, 0))) FROM deliveries WHERE due_at IS NOT NULL";
    let newest: Option<i64> = connection.query_row(sql, [], |row| row.get(0))?;
    let step_ms = newest.map_or(0, |newest| now_ms().saturating_sub(newest).min(0));
    if step_ms <= -STEP_BACK_MS_MIN {
        shift(connection, step_ms)?;
    }
    Ok(())
}

fn shift(connection: &Connection, step_ms: i64) -> rusqlite::Result<usize> {
    let sql = "UPDATE deliveries SET due_at = due_at + ?1
               WHERE due_at IS NOT NULL AND (?1 < 0 OR status = 'in_progress')";
    connection.execute(sql, [step_ms])
}
