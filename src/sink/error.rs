//! Errors that end the sink or keep it from finishing.

use crate::bus::BusError;
use crate::warehouse::{WarehouseError, WarehouseErrorKind};

/// Why the sink ended early or could not finish.
#[derive(Debug)]
pub enum SinkError {
    Bus(BusError),
    Warehouse(WarehouseError),
    /// The stop took too long: these rows are not stored and will be delivered again.
    StopTimedOut {
        rows: usize,
    },
    /// An encoding job panicked.
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

impl std::fmt::Display for SinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bus(_) => f.write_str("sink: bus failed"),
            Self::Warehouse(_) => f.write_str("sink: warehouse failed"),
            Self::StopTimedOut { rows } => write!(f, "sink: stop timed out with {rows} rows not stored"),
            Self::Defect => f.write_str("sink: encoding panicked"),
        }
    }
}

impl std::error::Error for SinkError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bus(error) => Some(error),
            Self::Warehouse(error) => Some(error),
            Self::StopTimedOut { .. } | Self::Defect => None,
        }
    }
}

impl From<BusError> for SinkError {
    fn from(error: BusError) -> Self {
        Self::Bus(error)
    }
}

impl From<WarehouseError> for SinkError {
    fn from(error: WarehouseError) -> Self {
        Self::Warehouse(error)
    }
}
