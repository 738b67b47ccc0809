//! Classifies the errors of SQLite by what the caller has to do about them.

use std::io;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};

/// What a SQLite error means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The disk is full. Nothing was stored; the same write succeeds when there is room again.
    Full,
    /// An fsync failed. The state of the disk is unknown, so the process must end.
    Fsync,
    /// The file is damaged. Never guess: stop and name the file.
    Corrupt,
    /// A stored value is not of its column's type.
    Malformed,
    /// Another process holds the file.
    Busy,
    /// A unique or foreign key constraint refused the write.
    Constraint,
    /// The engine is closed.
    Closed,
    /// Any other error of the disk or of SQLite.
    Other,
}

/// A failure of a database file.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct FileError {
    pub fault: Fault,
    pub text: String,
}

impl FileError {
    /// Call it right after the error and on the same thread: SQLite leaves the system's error in `errno`.
    pub fn of(error: &rusqlite::Error) -> Self {
        let fault = fault(error);
        Self { fault, text: explain(error) }
    }

    pub fn other(text: impl std::fmt::Display) -> Self {
        Self { fault: Fault::Other, text: text.to_string() }
    }

    /// Names the file.
    pub fn in_file(self, path: &Path) -> Self {
        Self { text: format!("{}: {}", path.display(), self.text), ..self }
    }
}

/// Classifies an error by what the caller has to do about it.
pub(super) fn fault(error: &rusqlite::Error) -> Fault {
    let cause = match error {
        rusqlite::Error::SqliteFailure(cause, _) => cause,
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::IntegralValueOutOfRange(..) => return Fault::Malformed,
        _ => return Fault::Other,
    };
    match (cause.code, cause.extended_code) {
        (_, ffi::SQLITE_IOERR_FSYNC | ffi::SQLITE_IOERR_DIR_FSYNC) => Fault::Fsync,
        (ErrorCode::DiskFull, _) => Fault::Full,
        // SQLite recognizes a full disk only by ENOSPC, and only from some calls.
        (ErrorCode::SystemIoFailure, _) if is_no_room(&io::Error::last_os_error()) => Fault::Full,
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Fault::Corrupt,
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Fault::Busy,
        (ErrorCode::ConstraintViolation, _) => Fault::Constraint,
        _ => Fault::Other,
    }
}

fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The error's text with the operating system's error below it.
fn explain(error: &rusqlite::Error) -> String {
    let system = io::Error::last_os_error();
    match error {
        rusqlite::Error::SqliteFailure(cause, _)
            if cause.code == ErrorCode::SystemIoFailure && system.raw_os_error() != Some(0) =>
        {
            format!("{error} ({system})")
        }
        _ => error.to_string(),
    }
}
