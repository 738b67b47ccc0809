//! Opens SQLite files the same way everywhere.
//!
//! Invariants: every writing connection uses WAL mode with `synchronous=FULL`, so a committed transaction survives a power
//! cut; a file is opened only if its log still holds every committed transaction.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, ffi};

use super::log::{self, Damage, LogState, Remedy};
use super::loss;

/// How long a connection waits for a lock of another before it fails with `SQLITE_BUSY`.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The time limit for checking the pages of a file when it is opened. A larger file is checked in part.
const CHECK_TIME_MAX: Duration = Duration::from_millis(500);

/// Opens or creates a file for its single writer. The process must have no connection to it yet: closing any descriptor
/// of a file releases all locks that the process has on it.
pub fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    open_checked(path, None)
}

/// Like [`open_writer`], but a new file gets pages of this size.
pub fn open_writer_with_pages(path: &Path, page_bytes: u32) -> rusqlite::Result<Connection> {
    open_checked(path, Some(page_bytes))
}

fn open_checked(path: &Path, page_bytes: Option<u32>) -> rusqlite::Result<Connection> {
    check_log(path)?;
    let connection = create_private(path)?;
    if let Some(page_bytes) = page_bytes {
        connection.pragma_update(None, "page_size", page_bytes)?;
    }
    let connection = writer(connection)?;
    check_pages(&connection)?;
    Ok(connection)
}

/// Opens a second writing connection to a file that this process already has open.
pub(super) fn open_second_writer(path: &Path) -> rusqlite::Result<Connection> {
    writer(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?)
}

/// Fails if SQLite would not recover committed transactions from the write-ahead log.
fn check_log(path: &Path) -> rusqlite::Result<()> {
    let name = log::beside(path, "-wal");
    let name = name.display();
    let unreadable = |error: io::Error| failure(ffi::SQLITE_CANTOPEN, format!("cannot read {name}: {error}"));
    let frames = match log::examine(path).map_err(unreadable)? {
        LogState::Sound { frames } => frames,
        LogState::Truncated { frames, committed } => {
            tracing::error!(
                log = %name, frames, committed,
                "the write-ahead log ends before the last commits; what they stored is missing"
            );
            loss::note(path, frames, committed);
            frames
        }
        LogState::Damaged(Damage { offset, proof, remedy }) => {
            let advice = advice(remedy, offset, &name.to_string());
            let text = format!(
                "{name} is damaged at byte {offset} ({proof}), and committed transactions would be lost from there on: \
                 restore the directory from a snapshot{advice}"
            );
            return Err(failure(ffi::SQLITE_CORRUPT, text));
        }
    };
    let is_empty = match std::fs::metadata(path) {
        Ok(metadata) => metadata.len() == 0,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failure(ffi::SQLITE_CANTOPEN, error.to_string())),
    };
    if frames > 0 && is_empty {
        // SQLite would delete the log.
        return Err(failure(
            ffi::SQLITE_CORRUPT,
            format!(
                "the file is missing or empty, but {name} holds transactions of it: put the file back, or remove the log too"
            ),
        ));
    }
    Ok(())
}

/// What an operator without a snapshot can do.
fn advice(remedy: Remedy, offset: u64, log: &str) -> String {
    match remedy {
        Remedy::Truncate => format!(", or keep a copy of it and give them up by `truncate -s {offset} {log}`"),
        Remedy::TruncateUnverified => format!(
            "; without one, keep a copy of it and give them up by `truncate -s {offset} {log}`, but whether the database \
             has taken in later pages is not known, and with them it would be inconsistent"
        ),
        Remedy::RemoveLog => {
            format!(", or keep a copy of it and remove the log by `rm {log}`: all that it held is in the database")
        }
        Remedy::None => {
            "; the log cannot be given up, since the database holds some of its pages and not others".to_owned()
        }
    }
}

/// Fails if the tree of pages is damaged, as far as a check of [`CHECK_TIME_MAX`] finds out.
fn check_pages(connection: &Connection) -> rusqlite::Result<()> {
    let interrupt = connection.get_interrupt_handle();
    let (done, waiting) = channel::<()>();
    let checked = std::thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(CHECK_TIME_MAX) == Err(RecvTimeoutError::Timeout) {
                interrupt.interrupt();
            }
        });
        let checked = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
        drop(done);
        checked
    });
    match checked {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => Err(failure(
            ffi::SQLITE_CORRUPT,
            format!("its pages are damaged ({}): restore it from a snapshot", found.replace('\n', " ")),
        )),
        Err(rusqlite::Error::SqliteFailure(cause, _)) if cause.code == ErrorCode::OperationInterrupted => Ok(()),
        Err(error) => Err(error),
    }
}

fn failure(code: i32, text: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(code), Some(text))
}

/// Makes a new file readable for its owner only. SQLite gives its log and index the same mode. They hold events and secrets.
fn create_private(path: &Path) -> rusqlite::Result<Connection> {
    // Opening the file below reports errors better. An existing file is not opened here: closing a second descriptor
    // of it would release the locks of this process.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    Connection::open(path)
}

fn writer(connection: Connection) -> rusqlite::Result<Connection> {
    configure(&connection)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Opens a reading connection to a file that a writer has open.
pub(super) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    configure(&connection)?;
    // SQLite opens the log at the first read, by path, and creates a missing one. If the log were moved away before that,
    // this connection would read an empty log for good. So read now.
    connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
    Ok(connection)
}

fn configure(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "temp_store", "MEMORY")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_its_owner_can_read_a_new_file() {
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

    #[test]
    fn a_reader_reads_the_log_that_existed_when_it_was_opened() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let writer = open_writer(&path).unwrap();
        writer.execute_batch("CREATE TABLE t(a); INSERT INTO t VALUES (1)").unwrap();
        for file in ["a.db", "a.db-wal", "a.db-shm"] {
            let reader = open_reader(&path).unwrap();
            let (place, away) = (dir.path().join(file), dir.path().join("away"));
            std::fs::rename(&place, &away).unwrap();
            let count = reader.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, u64>(0));
            assert_eq!(count, Ok(1), "{file} is away");
            assert!(!place.exists(), "{file} was made anew");
            std::fs::rename(&away, &place).unwrap();
        }
    }
}
