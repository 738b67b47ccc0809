//! What may leave the file: groups that every durable consumer has acknowledged, oldest first, and old dead
//! letters.
//!
//! Invariant: a group that holds one message that one consumer has not acknowledged stays; with no consumer
//! everything stays. The newest group always stays: it carries the sequence over a restart. A group whose
//! deduplication keys are still needed goes only together with their move into a run. Decides; the writer commits.

use rusqlite::Connection;

use super::dedup::Dedup;

/// Usage of `bytes_max` from which acknowledged groups are purged whatever their age.
const PURGED_FROM_PERCENT: u64 = 80;
/// Usage from which keys are moved into a run early, so that their groups can go.
const PRESSING_FROM_PERCENT: u64 = 90;
/// Bytes that one step deletes, so that a long purge does not hold up commits.
const STEP_BYTES_MAX: u64 = 64 << 20;

/// Why and how far to purge.
pub(crate) struct Needs {
    /// Every consumer has acknowledged up to here.
    pub(super) acknowledged_to: u64,
    pub(super) used_bytes: u64,
    pub(super) bytes_max: u64,
    /// Bytes that are to be stored next.
    pub(super) incoming_bytes: u64,
    /// The last message was refused for want of room: whatever may go, goes.
    pub(super) is_full: bool,
    /// Groups from before this time go whatever the usage.
    pub(super) published_before_ms: i64,
    pub(super) now_s: u32,
}

/// What one step found to purge.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Step {
    /// The first sequence of the last group to go.
    pub(super) upto: Option<u64>,
    pub(super) messages: u64,
    /// There is more after this step.
    pub(super) more: bool,
    /// Their keys have to be moved into a run in the same transaction.
    pub(super) uncovered: bool,
}

impl Needs {
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

/// Looks for the groups of the next step.
pub(super) fn plan(connection: &Connection, dedup: &Dedup, needs: &Needs) -> rusqlite::Result<Step> {
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
            published_at_ms < needs.published_before_ms || needs.is_over(needs.used_bytes.saturating_sub(bytes));
        if last > needs.acknowledged_to || !wanted {
            break;
        }
        if keys > 0 && !dedup.covers(last, published_at_ms, needs.now_s) {
            if !needs.is_pressing() || last > dedup.coverable() {
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
