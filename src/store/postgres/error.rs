//! Errors of PostgreSQL as errors of the store.

use tokio_postgres::error::SqlState;

use crate::store::error::{StoreError, StoreErrorKind};

/// Converts an error of PostgreSQL.
pub(super) fn failed(context: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError + Copy {
    move |error| StoreError::caused(kind_of(&error), context, error)
}

fn kind_of(error: &tokio_postgres::Error) -> StoreErrorKind {
    match error.code() {
        Some(code) if *code == SqlState::DISK_FULL => StoreErrorKind::Full,
        Some(code) if *code == SqlState::DATA_CORRUPTED || *code == SqlState::INDEX_CORRUPTED => {
            StoreErrorKind::Corrupt
        }
        _ => StoreErrorKind::Unavailable,
    }
}

pub(super) fn damaged(context: &'static str, error: impl std::fmt::Display) -> StoreError {
    StoreError::caused(StoreErrorKind::Corrupt, context, error.to_string())
}

/// The error of PostgreSQL that caused it, after which its connection is not reused.
pub(super) fn of_postgres(error: &StoreError) -> Option<&tokio_postgres::Error> {
    std::error::Error::source(error).and_then(|source| source.downcast_ref())
}

pub(super) fn is_conflict(error: &StoreError) -> bool {
    let code = of_postgres(error).and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(code))
}
