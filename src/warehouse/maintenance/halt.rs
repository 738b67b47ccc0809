//! Why a job ends before its commit.

use crate::warehouse::WarehouseError;
use crate::warehouse::error::WarehouseErrorKind;
use crate::warehouse::storage::Listed;

/// Why a job ends early, with the table as it was.
#[derive(Debug)]
pub(in crate::warehouse) enum Halt {
    /// The progress callback returned `false`.
    Stopped,
    /// Another worker took the lease, or changed the inputs.
    Overtaken,
    /// A stored file cannot be read.
    Damaged {
        file: Listed,
        error: WarehouseError,
    },
    Failed(WarehouseError),
}

impl From<WarehouseError> for Halt {
    fn from(error: WarehouseError) -> Self {
        Self::Failed(error)
    }
}

impl Halt {
    /// An error about a stored file.
    pub(in crate::warehouse) fn of(error: WarehouseError, directory: &str, file: &Listed) -> Self {
        match error.kind {
            WarehouseErrorKind::Corrupt => Self::Damaged { file: file.clone(), error },
            _ => Self::Failed(error.at(format!("{directory}/{}", file.name))),
        }
    }
}
