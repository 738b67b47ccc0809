//! Deliveries wait as long as intended, however the server's clock is set.
//!
//! Due times use the server's clock. When it is set back, or a standby that is behind takes over, a delivery due in a
//! second would be due in hours. So each process compares that clock with its own monotonic one and moves back due
//! times that no current process could have written. Several processes may do so concurrently and repeatedly.
//!
//! Invariant: a due time in the past is never moved. It tells how long a delivery has waited for a disabled webhook.

use std::time::Instant;

use super::engine::Engine;
use super::error::failed;
use crate::store::error::StoreError;

/// Deliveries moved in one statement, so that others do not wait long for it.
const ROWS_MAX: i64 = 5_000;

/// Records what the server's clock showed after `asked_at`. True if due times had to be moved.
pub(super) async fn observe(engine: &Engine, now_ms: i64, requested_at: Instant) -> bool {
    let clock = &engine.0.clock;
    let mut moved = 0;
    if clock.is_behind(now_ms, requested_at) {
        match move_due_times_back(engine).await {
            Ok(rows) => moved = rows,
            Err(error) => {
                // The next observation tries again.
                tracing::warn!(%error, "the database's clock may have been set back; retries may come late");
                return false;
            }
        }
    }
    clock.record(now_ms);
    if moved > 0 {
        tracing::info!(moved, "the database's clock was set back; what waits for its time waits no longer for it");
    }
    moved > 0
}

/// Future times tell how far the clock was set back: an untried delivery is due since it was created, a retry is due a
/// known time after its attempt, and no claim outlasts the lease.
async fn move_due_times_back(engine: &Engine) -> Result<u64, StoreError> {
    let context = "follow the database's clock";
    let sql = "
        WITH ahead AS MATERIALIZED (
            SELECT seq FROM deliveries, causality_now_ms() now
            WHERE due_at > now AND CASE status WHEN 'pending' THEN attempts = 0 OR last_attempt_at > now
                                               ELSE due_at - now > $1 END
            LIMIT $2 FOR UPDATE OF deliveries SKIP LOCKED)
        UPDATE deliveries d SET last_attempt_at = CASE WHEN last_attempt_at > now THEN now ELSE last_attempt_at END,
            due_at = least(due_at, now + CASE WHEN status = 'in_progress' THEN $1 WHEN attempts = 0 THEN 0
                                              ELSE greatest(0, due_at - last_attempt_at) END)
        FROM causality_now_ms() now WHERE d.seq IN (SELECT seq FROM ahead)";
    let lease_ms = match engine.0.clock.lease_ms() {
        0 => i64::MAX / 4,
        lease_ms => lease_ms,
    };
    let mut moved = 0;
    loop {
        let count = engine
            .run(context, async |client| {
                let count = client.execute(sql, &[&lease_ms, &ROWS_MAX]).await.map_err(failed(context))?;
                Ok(count)
            })
            .await?;
        moved += count;
        if count == 0 {
            return Ok(moved);
        }
    }
}
