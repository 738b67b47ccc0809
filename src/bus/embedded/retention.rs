//! Decides what to purge: groups that every durable consumer has acknowledged, oldest first, and old dead letters.
//!
//! Invariant: a group with a message that any consumer has not acknowledged stays; without consumers everything stays.
//! The newest group always stays, since it carries the sequence over a restart. A group whose deduplication keys are
//! still needed is deleted only together with moving them into a run. Decides; the writer commits.

use rusqlite::Connection;

use super::dedup::Dedup;

/// Usage of `bytes_max` above which acknowledged groups are purged regardless of their age.
const PURGED_FROM_PERCENT: u64 = 80;
/// Usage above which keys are moved into a run early, so that their groups can be purged.
const PRESSING_FROM_PERCENT: u64 = 90;
/// Bytes deleted in one step, so that a long purge does not delay commits.
const STEP_BYTES_MAX: u64 = 64 << 20;

/// Why and how far to purge.
pub(crate) struct PurgeRequest {
    /// Every consumer has acknowledged the messages up to here.
    pub(super) acknowledged_to: u64,
    pub(super) used_bytes: u64,
    pub(super) bytes_max: u64,
    /// Bytes about to be stored.
    pub(super) incoming_bytes: u64,
    /// The last message was refused for lack of room: purge everything that may go.
    pub(super) is_full: bool,
    /// Older groups are purged regardless of the usage.
    pub(super) published_before_ms: i64,
    pub(super) now_s: u32,
}

/// The groups to purge in one step.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// The first sequence of the last group to purge.
    pub(super) upto: Option<u64>,
    pub(super) messages: u64,
    /// More remains after this step.
    pub(super) more: bool,
    /// Their keys must be moved into a run in the same transaction.
    pub(super) uncovered: bool,
}

impl PurgeRequest {
    fn is_over(&self, used_bytes: u64) -> bool {
        self.is_full
            || used_bytes.saturating_mul(100) > self.bytes_max.saturating_mul(PURGED_FROM_PERCENT)
            || used_bytes.saturating_add(self.incoming_bytes) > self.bytes_max
    }

    fn is_pressing(&self) -> bool {
        self.is_full
            || self.used_bytes.saturating_mul(100) > self.bytes_max.saturating_mul(PRESSING_FROM_PERCENT)
            || self.used_bytes.saturating_add(self.incoming_bytes) > self.bytes_max
    }
}

/// Plans the next step.
pub(super) fn plan(connection: &Connection, dedup: &Dedup, request: &PurgeRequest) -> rusqlite::Result<Step> {
    let mut statement = connection.prepare_cached(
        "SELECT first_sequence, count, published_at_ms, length(keys), length(data) FROM groups
         WHERE first_sequence < (SELECT max(first_sequence) FROM groups) ORDER BY first_sequence",
    )?;
    let mut rows = statement.query([])?;
    let mut step = Step::default();
    let mut bytes = 0;
    while let Some(row) = rows.next()? {
        let (first, count, published_at_ms): (u64, u64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (keys, data): (u64, u64) = (row.get(3)?, row.get(4)?);
        let last = first + count - 1;
        let wanted =
            published_at_ms < request.published_before_ms || request.is_over(request.used_bytes.saturating_sub(bytes));
        if last > request.acknowledged_to || !wanted {
            break;
        }
        if keys > 0 && !dedup.covers(last, published_at_ms, request.now_s) {
            if !request.is_pressing() || last > dedup.coverable() {
                step.more = step.uncovered;
                break;
            }
            step.uncovered = true;
        }
        step.upto = Some(first);
        step.messages += count;
        bytes += keys + data;
        if bytes >= STEP_BYTES_MAX {
            step.more = true;
            break;
        }
    }
    Ok(step)
}

pub(super) fn delete_groups(connection: &Connection, upto: u64) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM groups WHERE first_sequence <= ?1")?.execute([upto])?;
    Ok(())
}
