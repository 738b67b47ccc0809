//! Opening SQLite files the one way this product does, and telling its failures apart.
//!
//! Invariant: every writing connection is in WAL mode with `synchronous=FULL`, so a
//! committed transaction survives a power cut. Knows nothing of events or rules.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

/// How long a connection waits for another one's lock before `SQLITE_BUSY`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Opens (and creates) a file for its single writer.
pub fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    writer(create_private(path)?)
}

/// The same; a file that is new gets pages of this size.
pub fn open_writer_with_pages(path: &Path, page_bytes: u32) -> rusqlite::Result<Connection> {
    let connection = create_private(path)?;
    connection.pragma_update(None, "page_size", page_bytes)?;
    writer(connection)
}

/// A file that is new is for its owner alone, and what SQLite puts beside it too: they hold events and secrets.
fn create_private(path: &Path) -> rusqlite::Result<Connection> {
    // An error is told better by what opens the file next. A file that exists is not touched: closing a second
    // descriptor of it would end the locks of this process.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    Connection::open(path)
}

fn writer(connection: Connection) -> rusqlite::Result<Connection> {
    configure(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Opens an existing file for reading beside its writer.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

/// What a SQLite error means for the one who has to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No room: nothing was stored; the same write succeeds when there is room again.
    Full,
    /// An fsync failed: what the kernel holds is unknown, so the process must end.
    Fsync,
    /// The file is damaged: never guess, stop with its name.
    Corrupt,
    /// Another process holds the file.
    Busy,
    /// A unique or foreign key constraint refused the write.
    Constraint,
    /// Anything else of the disk or of SQLite.
    Other,
}

/// Sorts an error by what has to be done about it.
pub fn fault(error: &rusqlite::Error) -> Fault {
    let rusqlite::Error::SqliteFailure(cause, _) = error else { return Fault::Other };
    match (cause.code, cause.extended_code) {
        (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => Fault::Fsync,
        (ErrorCode::DiskFull, _) => Fault::Full,
        // A write that fails midway and the creation of the shared-memory file both
        // surface as I/O errors when the disk is full.
        (_, ffi::SQLITE_IOERR_WRITE | ffi::SQLITE_IOERR_SHMSIZE | ffi::SQLITE_IOERR_TRUNCATE) => Fault::Full,
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Fault::Corrupt,
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Fault::Busy,
        (ErrorCode::ConstraintViolation, _) => Fault::Constraint,
        _ => Fault::Other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new.db");
        let writer = open_writer(&path).unwrap();
        writer.execute_batch("CREATE TABLE t(a)").unwrap();
        let modes: Vec<u32> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().permissions().mode() & 0o777)
            .collect();
        assert_eq!(modes, [0o600; 3], "the file, its log and its index");
    }
}
