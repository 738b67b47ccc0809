//! Refused input among the dead letters: its rows and their total size.

use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::queue::{Publish, Reply};
use super::shared::{Shared, keys_of};
use crate::bus::input::{KeptInput, OVERHEAD_BYTES, REFUSED_BY, RefusedInput};
use crate::bus::{Batch, BusError, BusErrorKind};

/// Tracks the bytes of stored inputs; never too low.
pub(crate) struct InputBytes {
    known: u64,
    /// Some may have been deleted since the last count.
    stale: bool,
}

impl InputBytes {
    /// Nothing has been counted yet.
    pub(super) fn unknown() -> Self {
        Self { known: u64::MAX, stale: true }
    }

    pub(super) fn changed(&mut self) {
        self.stale = true;
    }

    /// Stores inputs in order while there is room.
    pub(super) fn keep(
        &mut self,
        connection: &Connection,
        inputs: &[RefusedInput],
        bytes_max: u64,
        dead_at_ms: i64,
    ) -> rusqlite::Result<KeptInput> {
        let incoming = inputs.iter().map(RefusedInput::stored_bytes).sum();
        if self.stale && self.known.saturating_add(incoming) > bytes_max {
            self.known = bytes(connection)?;
            self.stale = false;
        }
        let mut kept = 0;
        for input in inputs {
            let after = self.known.saturating_add(input.stored_bytes());
            if after > bytes_max {
                return Ok(KeptInput { kept, full: true });
            }
            insert(connection, input, dead_at_ms)?;
            self.known = after;
            kept += 1;
        }
        Ok(KeptInput { kept, full: false })
    }
}

fn insert(connection: &Connection, input: &RefusedInput, dead_at_ms: i64) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO dead_letters(consumer, subject, sequence, reason, delivery_count, published_at_ms, dead_at_ms,
            payload) VALUES (?1, ?2, 0, ?3, 0, ?4, ?5, ?6)";
    let RefusedInput { subject, reason, received_at_ms, payload } = input;
    let values = params![REFUSED_BY, subject, reason, received_at_ms, dead_at_ms, &payload[..]];
    connection.prepare_cached(sql)?.execute(values).map(drop)
}

/// Sums as [`RefusedInput::stored_bytes`] does. The lengths are in the rows themselves, so no payload is read.
fn bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let sql =
        "SELECT coalesce(sum(length(CAST(subject AS BLOB)) + length(CAST(reason AS BLOB)) + length(payload) + ?1), 0)
        FROM dead_letters WHERE sequence = 0";
    connection.prepare_cached(sql)?.query_row([OVERHEAD_BYTES], |row| row.get(0))
}

/// Returns `false` when there is none.
pub(super) fn amend(connection: &Connection, id: u64, input: &RefusedInput) -> rusqlite::Result<bool> {
    let sql = "UPDATE dead_letters SET subject = ?2, reason = ?3, payload = ?4 WHERE id = ?1 AND sequence = 0";
    let id = i64::try_from(id).unwrap_or(i64::MAX);
    let values = params![id, input.subject, input.reason, &input.payload[..]];
    Ok(connection.prepare_cached(sql)?.execute(values)? > 0)
}

pub(super) fn counts(connection: &Connection, subjects_max: usize) -> rusqlite::Result<Vec<(String, u64)>> {
    let sql = "SELECT subject, count(*) AS kept FROM dead_letters WHERE sequence = 0
        GROUP BY subject ORDER BY kept DESC, subject LIMIT ?1";
    let mut statement = connection.prepare_cached(sql)?;
    let rows =
        statement.query_map([i64::try_from(subjects_max).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

/// A batch for the writer, all of whose messages can be stored. Its reply is not used.
pub(super) async fn queued(shared: &Shared, batch: Batch) -> Result<Publish, BusError> {
    let parts = batch.into_parts();
    if parts.refused > 0 {
        return Err(BusError::new(BusErrorKind::Invalid, "publish message"));
    }
    let keys = keys_of(&parts.records, parts.keyed);
    let room = shared.room(parts.records.len()).await?;
    let (reply, _): (Reply<_>, _) = oneshot::channel();
    Ok(Publish {
        records: parts.records,
        ends: parts.ends,
        subject_prefix: parts.subject_prefix,
        keys,
        reply,
        _room: room,
    })
}
