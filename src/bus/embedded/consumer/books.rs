//! The rows of what is on record about suspects, one a consumer. Knows nothing of what they say.

use rusqlite::{Connection, OptionalExtension};

use crate::bus::trials::Book;

/// Files of earlier versions have no such table.
pub(crate) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("CREATE TABLE IF NOT EXISTS books(consumer TEXT PRIMARY KEY, book BLOB NOT NULL) STRICT")
}

pub(crate) fn store(connection: &Connection, consumer: &str, book: &[u8]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO books(consumer, book) VALUES (?1, ?2)
                   ON CONFLICT(consumer) DO UPDATE SET book = excluded.book";
    connection.prepare_cached(sql)?.execute((consumer, book)).map(drop)
}

/// None when the row is damaged.
pub(crate) fn read(connection: &Connection, consumer: &str) -> rusqlite::Result<Option<Book>> {
    let select = "SELECT book FROM books WHERE consumer = ?1";
    let stored: Option<Vec<u8>> = connection.query_row(select, [consumer], |row| row.get(0)).optional()?;
    Ok(stored.map_or_else(|| Some(Book::default()), |stored| Book::read(&stored)))
}
