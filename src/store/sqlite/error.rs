//! Errors of SQLite as errors of the store.

use crate::base::sqlite::{Database, Fault, FileError};
use crate::store::error::{StoreError, StoreErrorKind};

/// Converts an error of SQLite. [`describe`] adds the file.
pub(super) fn failed(context: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + Copy {
    move |error| file_error(context, FileError::of(&error))
}

pub(super) fn file_error(context: &'static str, error: FileError) -> StoreError {
    match error.fault {
        Fault::Closed => StoreError::new(StoreErrorKind::Closed, context),
        fault => StoreError::caused(kind(fault), context, error),
    }
}

pub(super) fn kind(fault: Fault) -> StoreErrorKind {
    match fault {
        Fault::Full => StoreErrorKind::Full,
        Fault::Fsync => StoreErrorKind::Fsync,
        Fault::Corrupt | Fault::Malformed => StoreErrorKind::Corrupt,
        Fault::Closed => StoreErrorKind::Closed,
        Fault::Busy | Fault::Constraint | Fault::Other => StoreErrorKind::Unavailable,
    }
}

/// Adds the file to an error of a query or a job, reports a failed fsync, and remembers damage.
pub(super) fn describe(database: &Database, context: &'static str, error: StoreError) -> StoreError {
    let source = std::error::Error::source(&error);
    let Some(found) = source.and_then(|source| source.downcast_ref::<FileError>()).cloned() else { return error };
    let found = database.note(context, found);
    if found.fault == Fault::Corrupt {
        database.note_damage(|| format!("{context}: {found}"));
    }
    // Once is enough: the text names the file now.
    StoreError::caused(error.kind, context, found.text)
}

/// Stored bytes that cannot be decoded.
pub(super) fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, error.into())
}
