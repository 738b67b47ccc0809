//! The stored trial logs, one row per consumer. Knows nothing of their contents.

use rusqlite::{Connection, OptionalExtension};

use crate::bus::trials::TrialLog;

/// Files of earlier versions do not have this table.
pub(crate) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TABLE IF NOT EXISTS books(consumer TEXT PRIMARY KEY, book BLOB NOT NULL) STRICT")
}

pub(crate) fn store(connection: &Connection, consumer: &str, log: &[u8]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO books(consumer, book) VALUES (?1, ?2)
                   ON CONFLICT(consumer) DO UPDATE SET book = excluded.book";
    connection.prepare_cached(sql)?.execute((consumer, log)).map(drop)
}

/// None when the row is damaged.
pub(crate) fn read(connection: &Connection, consumer: &str) -> rusqlite::Result<Option<TrialLog>> {
    let select = "SELECT book FROM books WHERE consumer = ?1";
    let stored: Option<Vec<u8>> = connection.query_row(select, [consumer], |row| row.get(0)).optional()?;
    Ok(stored.map_or_else(|| Some(TrialLog::default()), |stored| TrialLog::read(&stored)))
}
