//! Errors that end the sink or keep it from finishing.

use crate::bus::BusError;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// Why the sink ended early or could not finish.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error("sink: bus failed")]
    Bus(#[from] BusError),
    #[error("sink: warehouse failed")]
    Warehouse(#[from] WarehouseError),
    /// The stop took too long: these rows are not stored and will be delivered again.
    #[error("sink: stop timed out with {rows} rows not stored")]
    StopTimedOut { rows: usize },
    /// An encoding job panicked.
    #[error("sink: encoding panicked")]
    Defect,
}

impl SinkError {
    /// Whether the state on disk is unknown, so that the process must end.
    pub fn is_fsync(&self) -> bool {
        matches!(self, Self::Warehouse(error) if error.kind == WarehouseErrorKind::Fsync)
    }

    /// Whether the content of messages may be the cause.
    pub(super) fn is_of_messages(&self) -> bool {
        match self {
            Self::Defect => true,
            Self::Warehouse(error) => error.kind == WarehouseErrorKind::Encode,
            Self::Bus(_) | Self::StopTimedOut { .. } => false,
        }
    }
}
