//! The stored dead letters.
//!
//! Knows nothing of when a message is dead-lettered.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};

use super::group::Group;
use crate::bus::DeadLetter;

const COLUMNS: &str = "id, consumer, subject, sequence, reason, delivery_count, published_at_ms, dead_at_ms, payload";
/// Stored characters of a reason.
const REASON_CHARS_MAX: usize = 2_000;
/// Dead letters deleted in one transaction, so that publishers do not wait longer than that.
const PURGE_ROWS_MAX: i64 = 1_000;

/// Stored in addition to the message.
pub(crate) struct DeadLetterDetails<'a> {
    pub(super) consumer: &'a str,
    pub(super) reason: &'a str,
    pub(super) delivery_count: u32,
    pub(super) dead_at_ms: i64,
}

/// Copies a message of a group. Returns `false` when the group does not contain it.
pub(super) fn insert(
    connection: &Connection,
    group: &Group,
    sequence: u64,
    details: &DeadLetterDetails<'_>,
) -> rusqlite::Result<bool> {
    let Some(layout) = group.layout(sequence) else { return Ok(false) };
    let reason: String = details.reason.chars().take(REASON_CHARS_MAX).collect();
    let subject = String::from_utf8_lossy(&group.data()[layout.subject]);
    let mut insert = connection.prepare_cached(
        "INSERT INTO dead_letters(consumer, subject, sequence, reason, delivery_count, published_at_ms, dead_at_ms,
            payload) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?;
    insert.execute((
        details.consumer,
        &subject,
        sequence,
        &reason,
        details.delivery_count,
        group.published_at_ms,
        details.dead_at_ms,
        &group.data()[layout.payload],
    ))?;
    tracing::warn!(consumer = details.consumer, sequence, %subject, reason, "message goes to the dead letters");
    Ok(true)
}

/// Newest first, ids below `before`.
pub(super) fn list(connection: &Connection, before: Option<u64>, limit: usize) -> rusqlite::Result<Vec<DeadLetter>> {
    let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id < ?1 ORDER BY id DESC LIMIT ?2");
    let before = before.map_or(i64::MAX, |before| i64::try_from(before).unwrap_or(i64::MAX));
    let mut statement = connection.prepare_cached(&sql)?;
    let rows = statement.query_map((before, i64::try_from(limit).unwrap_or(i64::MAX)), read)?;
    rows.collect()
}

pub(super) fn find(connection: &Connection, id: u64) -> rusqlite::Result<Option<DeadLetter>> {
    let sql = format!("SELECT {COLUMNS} FROM dead_letters WHERE id = ?1");
    let id = i64::try_from(id).unwrap_or(i64::MAX);
    connection.prepare_cached(&sql)?.query_row([id], read).optional()
}

pub(super) fn count(connection: &Connection) -> rusqlite::Result<u64> {
    connection.query_row("SELECT count(*) FROM dead_letters", [], |row| row.get(0))
}

/// Returns `false` when there is none.
pub(super) fn delete(connection: &Connection, id: u64) -> rusqlite::Result<bool> {
    let id = i64::try_from(id).unwrap_or(i64::MAX);
    Ok(connection.prepare_cached("DELETE FROM dead_letters WHERE id = ?1")?.execute([id])? > 0)
}

/// Deletes the oldest, up to [`PURGE_ROWS_MAX`]. Returns how many were deleted.
pub(super) fn delete_some_before(connection: &Connection, dead_at_ms: i64) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM dead_letters WHERE id IN
                   (SELECT id FROM dead_letters WHERE dead_at_ms < ?1 ORDER BY dead_at_ms LIMIT ?2)";
    connection.prepare_cached(sql)?.execute([dead_at_ms, PURGE_ROWS_MAX])
}

/// Returns how many were deleted.
pub(super) fn delete_before(connection: &Connection, dead_at_ms: i64) -> rusqlite::Result<usize> {
    connection.prepare_cached("DELETE FROM dead_letters WHERE dead_at_ms < ?1")?.execute([dead_at_ms])
}

fn read(row: &Row<'_>) -> rusqlite::Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.get(0)?,
        consumer: row.get(1)?,
        subject: row.get(2)?,
        sequence: row.get(3)?,
        reason: row.get(4)?,
        delivery_count: row.get(5)?,
        published_at_ms: row.get(6)?,
        dead_at_ms: row.get(7)?,
        payload: Bytes::from(row.get::<_, Vec<u8>>(8)?),
    })
}
