//! Errors of SQLite as errors of the store. A failed fsync ends the process.

use crate::base::sqlite::{Fault, explain, fault};
use crate::store::error::{StoreError, StoreErrorKind};

/// The exit code when the state of the disk is unknown (EX_IOERR).
const EXIT_IO_ERROR: i32 = 74;

/// Converts an error of SQLite; exits the process if an fsync failed.
pub(super) fn failed(context: &'static str) -> impl Fn(rusqlite::Error) -> StoreError + Copy {
    move |error| {
        stop_at_fsync_fault(&error, context);
        let (kind, fault, text) = (fault_kind(&error), fault(&error), explain(&error));
        StoreError::caused(kind, context, FileFault { fault, text })
    }
}

pub(super) fn stop_at_fsync_fault(error: &rusqlite::Error, context: &'static str) {
    if fault(error) == Fault::Fsync {
        tracing::error!(%error, context, "the disk did not confirm a write; what it holds is unknown, so this ends");
        std::process::exit(EXIT_IO_ERROR);
    }
}

pub(super) fn fault_kind(error: &rusqlite::Error) -> StoreErrorKind {
    match fault(error) {
        Fault::Full => StoreErrorKind::Full,
        Fault::Corrupt => StoreErrorKind::Corrupt,
        Fault::Fsync | Fault::Busy | Fault::Constraint => StoreErrorKind::Unavailable,
        Fault::Other => match error {
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => StoreErrorKind::Corrupt,
            _ => StoreErrorKind::Unavailable,
        },
    }
}

/// Stored bytes that cannot be decoded.
pub(super) fn damaged(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Null, error.into())
}

/// A failure of the file, as text.
#[derive(Debug)]
pub(super) struct FileFault {
    pub(super) fault: Fault,
    pub(super) text: String,
}

impl std::fmt::Display for FileFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for FileFault {}
