//! Overwrites the free pages of the file, which still hold purged data.
//!
//! SQLite reuses free pages before it adds new ones. So a table is filled with zeros until no page is free, and then
//! emptied, in steps. Invariant: the size of the table counts as free room; a table left by a crash is dropped on
//! opening. Knows nothing of what the pages held.

use rusqlite::Connection;

use super::file;

/// Bytes overwritten in one step, so that commits do not wait long.
const STEP_BYTES_MAX: u64 = 16 << 20;
/// Rows deleted in one step.
const STEP_ROWS: u64 = 4;

pub(crate) struct Wiper {
    /// Pages have been freed without being overwritten.
    needed: bool,
    /// No page was free: the table is being emptied.
    emptying: bool,
    /// The size of the table.
    pub(super) bytes: u64,
}

/// The change made by a step, applied once it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Filled(u64),
    Emptied(u64),
    Done,
}

/// Files of earlier processes may contain the table.
pub(super) fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("DROP TABLE IF EXISTS wiped")
}

impl Wiper {
    /// It is unknown what earlier processes have freed.
    pub(super) fn new() -> Self {
        Self { needed: true, emptying: false, bytes: 0 }
    }

    pub(super) fn freed(&mut self) {
        self.needed = true;
    }

    pub(super) fn is_needed(&self) -> bool {
        self.needed
    }

    /// Runs within an open transaction.
    pub(super) fn step(&self, connection: &Connection) -> rusqlite::Result<Step> {
        let free = file::free_bytes(connection)?;
        if !self.emptying && free > 0 {
            connection.execute_batch("CREATE TABLE IF NOT EXISTS wiped(data BLOB NOT NULL) STRICT")?;
            let bytes = free.min(STEP_BYTES_MAX);
            connection.prepare_cached("INSERT INTO wiped(data) VALUES (zeroblob(?1))")?.execute([bytes])?;
            return Ok(Step::Filled(bytes));
        }
        if self.bytes == 0 {
            prepare(connection)?;
            return Ok(Step::Done);
        }
        let select = "SELECT coalesce(sum(length(data)), 0) FROM (SELECT data FROM wiped ORDER BY rowid LIMIT ?1)";
        let bytes = connection.query_row(select, [STEP_ROWS], |row| row.get(0))?;
        let delete = "DELETE FROM wiped WHERE rowid IN (SELECT rowid FROM wiped ORDER BY rowid LIMIT ?1)";
        connection.execute(delete, [STEP_ROWS])?;
        Ok(Step::Emptied(bytes))
    }

    pub(super) fn committed(&mut self, step: Step) {
        match step {
            Step::Filled(bytes) => self.bytes += bytes,
            Step::Emptied(bytes) => {
                self.emptying = true;
                self.bytes = self.bytes.saturating_sub(bytes);
            }
            Step::Done => *self = Self { needed: false, emptying: false, bytes: 0 },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deleted_data_is_in_no_page() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let connection = Connection::open(&path).unwrap();
        connection.pragma_update(None, "page_size", 16 << 10).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        file::erasing(&connection, false).unwrap();
        connection.execute_batch("CREATE TABLE t(a)").unwrap();
        let secret = "what was purged ".repeat(10_000);
        for _ in 0..40 {
            connection.execute("INSERT INTO t VALUES (?1)", [&secret]).unwrap();
        }
        connection.execute("DELETE FROM t WHERE rowid > 1", []).unwrap();
        let holds = || {
            connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
            let bytes = std::fs::read(&path).unwrap();
            memchr::memmem::find_iter(&bytes, b"what was purged").count()
        };
        let kept = 10_000;
        assert!(holds() > 2 * kept, "free pages keep what they held");
        let pages = || connection.query_row("PRAGMA page_count", [], |row| row.get::<_, u64>(0)).unwrap();
        let (mut wiper, before, mut steps) = (Wiper::new(), pages(), 0);
        while wiper.is_needed() {
            connection.execute_batch("BEGIN").unwrap();
            let step = wiper.step(&connection).unwrap();
            connection.execute_batch("COMMIT").unwrap();
            wiper.committed(step);
            steps += 1;
            assert!(steps < 100);
        }
        assert!(holds() <= kept, "the row that is left, and nothing else");
        assert!(pages() <= before + 4, "the file does not grow for it");
        assert_eq!(connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u64>(0)), Ok(1));
    }
}
